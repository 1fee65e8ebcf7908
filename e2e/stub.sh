# shellcheck shell=bash
# shellcheck disable=SC2317,SC2329 # what the other files call
# Instead of Akri's Agent, Controller and kubelet, the stub Agent: a process on this machine, which is the cluster's only node.
# It knows one Configuration, asks the handler's Pod as the Agent does, and has one broker process for each Instance. What is below
# replaces the functions of the same names, so that the scenarios compare what the stub reports instead of the API's objects.

# What needs Akri's own programs, or what they write.
for name in install controller_restart secret grpc many rollout_tcp agent_restart_tcp upgrade kubelet_restart helm_test; do
  eval "scenario_$name() { skip 'it needs Akri; the stub Agent stood in'; }"
done

start_agent() {
  [ -z "$(kubectl get pods --all-namespaces --selector "$agent" --output name)" ] ||
    cannot_begin "Akri's own Agent runs, and both would serve the same socket; scale it away"
  "$STUB_AGENT" --discovery-handler "$RELEASE" --configuration "$RELEASE=http://discovery:9999/discovery" \
    --broker 'exec sleep 86400' >>"$OUT/stub-agent.log" 2>&1 &
  echo $! >"$work/stub-agent.pid"
}

stop_agent() {
  local pid
  pid=$(cat "$work/stub-agent.pid")
  kill "$pid" && while kill -0 "$pid" 2>/dev/null; do sleep 0.1; done
}

# What scenarios ask of the Agent: which process it is, its log, and a restart.
akri() {
  case $1 in
    get) cat "$work/stub-agent.pid" ;;
    logs) cat "$OUT/stub-agent.log" ;;
    delete) stop_agent; start_agent ;;
  esac
}

# known: of each Instance that exists by the log since the last start, its name, uid, version and broker. Log lines are the numbers.
known() {
  awk '/waiting for discovery handlers/ { for (name in uid) delete uid[name] }
    { for (i = 1; i < NF && $i != "Instance"; i++); name = $(i + 1); word = $(i + 2); sub(/:$/, "", name) }
    $i == "Instance" && word ~ /^created/ { uid[name] = version[name] = NR; broker[name] = "" }
    $i == "Instance" && word ~ /^changed/ { version[name] = NR }
    $i == "Instance" && word ~ /^deleted/ { delete uid[name] }
    $i == "Instance" && word == "broker" && $(i + 4) == "started" { broker[name] = $(i + 3) }
    END { for (name in uid) print name, uid[name], version[name], broker[name] }' "$OUT/stub-agent.log" | sort
}

instances() { known | awk '{ print $1, $2, $3 }'; }

# A broker is the process that its Instance has now.
brokers() { known | awk 'NF == 4 { print $1, $4, "True" }'; }

# The API server counts no write of the stub's.
snapshot() {
  instances >"$work/$1.instances"
  brokers >"$work/$1.brokers"
  rm -f "$work/$1.metrics"
}
