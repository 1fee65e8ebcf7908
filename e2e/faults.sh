# shellcheck shell=bash
# Faults and restarts: each scenario compares what is there before and after what it does.

scenario_quiet() {
  base
  calm
  before
  sleep 60
  kept
  unwritten
  note "the handler cannot write: its Pod has no ServiceAccount token"
}

scenario_outage() {
  base
  calm
  before
  discovery_service off
  sleep 60
  noticed "the last list of $DEVICES devices stands"
  discovery_service on
  settle
  kept
  unwritten
}

# bad_reply STATUS WORDS <BODY: for 30 s.
bad_reply() {
  local body
  body=$(cat)
  base
  calm
  before
  printf '%s' "$body" | reply "$1"
  sleep 30
  noticed "$2"
  devices "$DEVICES" | reply 200
  settle
  kept
  unwritten
}

scenario_status_500() { devices "$DEVICES" | bad_reply 500 'answered 500'; }

scenario_html() { echo '<html><body><h1>It works!</h1></body></html>' | bad_reply 200 "the last list of $DEVICES devices stands"; }

scenario_empty() { bad_reply 200 "$DEVICES devices are missing and kept" </dev/null; }

scenario_rollout() {
  base
  before
  roll_out
  settle
  kept
}

scenario_rollout_outage() {
  base
  before
  discovery_service off
  roll_out
  sleep 15
  discovery_service on
  settle
  kept
}

scenario_rollout_tcp() {
  base
  before
  release "$RELEASE" --set handler.network.enabled=true
  settle
  roll_out
  settle
  base
  kept
}

scenario_kill_standby() {
  base --set handler.standby=true
  before
  kill_9 discovery-handler
  settle
  kill_9 standby
  settle
  kept
}

scenario_kill() {
  base
  before
  kill_9 discovery-handler
  until_true asked_again || fail "the Agent did not ask the handler again"
  settle
  back
  note "all were back after $settled s"
}

scenario_pod_deletion() {
  base
  before
  k delete pod --selector "$handler" >/dev/null
  until_true asked_again || fail "the Agent did not ask the handler again"
  settle
  back
  note "all were back after $settled s"
}

scenario_agent_restart() { agent_restarts "$AGENT_RESTARTS"; }

scenario_agent_restart_tcp() { agent_restarts 1 --set handler.network.enabled=true; }

# agent_restarts N [helm's arguments...]
agent_restarts() {
  local n=$1 i times='' all=0
  shift
  base "$@"
  for ((i = 1; i <= n; i++)); do
    before
    akri delete pod --selector "$agent" >/dev/null
    until_true asked_again || fail "the Agent did not ask the handler again"
    settle
    back
    times+="${times:+, }$settled"
    all=$((all + recreated))
  done
  note "after each of $n restarts all were back, the last one after $times s"
  note "$all of $((n * DEVICES)) were re-created; the counts are the last restart's"
}

scenario_controller_restart() {
  base
  before
  akri delete pod --selector "$controller" >/dev/null
  akri rollout status deployment --selector "$controller" --timeout "${PATIENCE}s" >/dev/null
  settle
  kept
}

scenario_kubelet_restart() {
  base
  before
  if [ -n "$KUBELET_RESTART" ]; then
    bash -c "$KUBELET_RESTART" >/dev/null 2>&1 || fail "KUBELET_RESTART failed"
  else
    # busybox's nsenter, into all that makes up the node's first process.
    on_node 'nsenter -t 1 -m -u -i -n -p -- systemctl is-active --quiet kubelet' ||
      skip "the node has no systemd unit called kubelet (k3s has it in its own process)"
    on_node 'nsenter -t 1 -m -u -i -n -p -- systemctl restart kubelet'
  fi
  sleep 30
  settle
  kept
  # Akri's Agent does not register its device plugins with the new kubelet, so no new broker could start (rule 21).
  akri delete pod --selector "$agent" >/dev/null
  akri rollout status daemonset --selector "$agent" --timeout "${PATIENCE}s" >/dev/null
  settle
}
