# shellcheck shell=bash
# What is looked at before and after a scenario, and the table's rows.

# ---- The run

begin() {
  [ -n "$IMAGES" ] || cannot_begin "IMAGES is not set; e2e/run --help says what it is"
  local program
  for program in kubectl helm awk join; do
    command -v "$program" >/dev/null || cannot_begin "$program is missing"
  done
  kubectl get --raw /version >/dev/null || cannot_begin "kubectl reaches no cluster"
  [ -n "$STUB_AGENT" ] || akri get daemonset --selector "$agent" --output name | grep -q . ||
    cannot_begin "there is no Akri in the namespace $AKRI_NAMESPACE (AKRI_NAMESPACE)"
  work=$(mktemp -d)
  OUT=${OUT:-$(mktemp -d)}
  mkdir -p "$OUT"
  values >"$work/values.yaml"
  namespace "$NAMESPACE"
  [ -z "$STUB_AGENT" ] || start_agent
}

end() {
  local status=$?
  if [ -z "$KEEP" ]; then
    say "removing all that e2e made"
    remove "$MANY_NAMESPACE" "$RELEASE-many"
    remove "$NAMESPACE" "$RELEASE" "$RELEASE-secret" "$RELEASE-grpc"
    kubectl delete namespace "$NAMESPACE" "$MANY_NAMESPACE" --ignore-not-found --timeout "${PATIENCE}s" >/dev/null
  fi
  [ -z "$STUB_AGENT" ] || stop_agent
  rm -rf "$work"
  exit "$status"
}

# run_scenario NAME: runs the function in a process of its own, and writes its row. Fails if a promise does not hold.
run_scenario() {
  local name=$1 status result t0=$SECONDS
  say "== $name"
  rm -f "$work"/{counts,notes,broken}
  touch "$work"/{notes,broken}
  started=$SECONDS
  (set -e; "scenario_${name//-/_}")
  status=$?
  case $status in
    0) [ -s "$work/broken" ] && result=BROKEN || result=held ;;
    77) result=skipped ;;
    *) result=BROKEN; [ -s "$work/broken" ] || echo "ended with status $status" >>"$work/broken" ;;
  esac
  table_row "$name" "$result" | tee -a "$OUT/table.md" >&2
  [ "$result" != BROKEN ] && return
  evidence "$OUT/$name" "$((SECONDS - t0 + 30))s"
  say "$name: $(paste -sd ';' "$work/broken"); see $OUT/$name"
  return 1
}

# What helps to find out why: states, events and logs.
evidence() {
  mkdir -p "$1"
  cp "$work"/{before,after}.* "$1" 2>/dev/null
  k get akric,akrii,pods --output wide >"$1/objects" 2>&1
  k get events --sort-by .lastTimestamp >"$1/events" 2>&1
  k logs --selector "$handler" --all-containers --prefix --tail -1 --since "$2" >"$1/handler.log" 2>&1
  akri logs --selector "$agent" --prefix --tail -1 --since "$2" >"$1/agent.log" 2>&1
  akri logs --selector "$controller" --prefix --tail -1 --since "$2" >"$1/controller.log" 2>&1
}

# A scenario ends, or goes on with a promise broken, or says something for the table's last column.
skip() { echo "$*" >>"$work/notes"; exit 77; }
fail() { echo "$*" >>"$work/broken"; exit 1; }
broken() { echo "$*" >>"$work/broken"; }
note() { echo "$*" >>"$work/notes"; }

table_head() {
  echo "| scenario | promise | result | Instances re-created | brokers replaced | missing | writes to Instances, Pods | seen |
| --- | --- | --- | ---: | ---: | ---: | ---: | --- |"
}

# table_row NAME RESULT: with the counts of `after`, if it came so far.
table_row() {
  local promise counts seen
  promise=$(awk -v name="$1" '$1 == name { sub(/^ *[^ ]+ +/, ""); print }' <<<"$scenarios")
  counts=$(cat "$work/counts" 2>/dev/null || echo "| | |")
  seen=$(cat "$work/broken" "$work/notes" | sed 's/|/\\|/g' | awk '{ printf "%s%s", sep, $0; sep = "; " }')
  echo "| $1 | $promise | $2 | $counts | $seen |"
}

# ---- Instances and brokers

agent=app.kubernetes.io/name=akri-agent
controller=app.kubernetes.io/name=akri-controller

# instances [CONFIGURATION [NAMESPACE]]: name, uid and resourceVersion of each Instance that is not on its way out.
instances() {
  kubectl get akrii --namespace "${2:-$NAMESPACE}" --output go-template='{{range .items}}{{if not .metadata.deletionTimestamp}}{{
    .spec.configurationName}} {{.metadata.name}} {{.metadata.uid}} {{.metadata.resourceVersion}}{{"\n"}}{{end}}{{end}}' |
    awk -v wanted="${1:-$RELEASE}" '$1 == wanted { print $2, $3, $4 }' | sort
}

# brokers [CONFIGURATION [NAMESPACE]]: name, uid with the restarts of the container, and readiness of each broker Pod. Pods without a
# node do not count: on several nodes, Akri makes more Pods than may run, and the others wait.
brokers() {
  kubectl get pods --namespace "${2:-$NAMESPACE}" --selector "akri.sh/configuration=${1:-$RELEASE}" --output go-template='{{
    range .items}}{{if and .spec.nodeName (not .metadata.deletionTimestamp)}}{{.metadata.name}} {{.metadata.uid}}{{range .status.containerStatuses}}/{{
    .restartCount}}{{end}} {{range .status.conditions}}{{if eq .type "Ready"}}{{.status}}{{end}}{{end}}{{"\n"}}{{end}}{{end}}' | sort
}

ready_brokers() { brokers "$@" | awk '$3 == "True"'; }

count() { "$@" | wc -l | tr -d ' '; }

lines() { grep -c . <<<"$1"; }

# until_true COMMAND...: tries it for PATIENCE seconds.
until_true() {
  local end=$((SECONDS + PATIENCE))
  until "$@"; do
    [ "$SECONDS" -lt "$end" ] || return 1
    sleep 0.3
  done
}

# settle [N]: until N Instances exist, N brokers are ready, and that has not changed for STABLE seconds.
# $settled is then when this state began, in seconds since `before`.
settle() {
  local n=${1:-$DEVICES} end=$((SECONDS + PATIENCE)) found ready last='' since=$SECONDS
  while [ $((SECONDS - since)) -lt "$STABLE" ]; do
    found=$(instances)
    ready=$(ready_brokers)
    [ "$found$ready" = "$last" ] && [ "$(lines "$found") $(lines "$ready")" = "$n $n" ] || since=$SECONDS
    last=$found$ready
    [ "$SECONDS" -lt "$end" ] ||
      fail "after $PATIENCE s there are $(count instances) Instances and $(count ready_brokers) ready brokers, not $n and steady"
    sleep 0.5
  done
  settled=$((since - started))
}

# base [helm's arguments...]: the release that scenarios begin with.
base() {
  release "$RELEASE" "$@"
  devices "$DEVICES" | reply 200
  settle
}

# calm: waits until no first list is left to be repeated, which the handler does 15 s and 60 s after each new stream.
calm() {
  local now
  now=$(processes)
  [ "$now" = "$(cat "$work/calm" 2>/dev/null)" ] && return
  sleep 75
  echo "$now" >"$work/calm"
}

processes() {
  local each='{range .items[*]}{.metadata.uid}/{.status.containerStatuses[*].restartCount} {end}'
  k get pods --selector "$handler" --output "jsonpath=$each"
  akri get pods --selector "$agent" --output "jsonpath=$each"
}

# writes RESOURCE GROUP METRICS: how many writes to it the API server has counted, by all clients and in all namespaces.
writes() {
  awk -v resource="resource=\"$1\"" -v group="group=\"$2\"" '
    index($0, resource) && index($0, group) && /verb="(POST|PUT|PATCH|APPLY|DELETE|DELETECOLLECTION)"/ { sum += $NF }
    END { print sum + 0 }' "$3"
}

before() {
  started=$SECONDS
  snapshot before
}

snapshot() {
  instances >"$work/$1.instances"
  brokers >"$work/$1.brokers"
  kubectl get --raw /metrics 2>/dev/null | grep '^apiserver_request_total.*resource="\(instances\|pods\)"' >"$work/$1.metrics" || true
}

# after: counts what became of the Instances and brokers of `before`.
after() {
  snapshot after
  recreated=$(changed instances 2)
  touched=$(changed instances 3)
  replaced=$(changed brokers 2)
  missing=$(join -v 1 "$work/before.instances" "$work/after.instances" | wc -l | tr -d ' ')
  instance_writes=- pod_writes=-
  if [ -s "$work/before.metrics" ] && [ -s "$work/after.metrics" ]; then
    instance_writes=$(($(writes instances akri.sh "$work/after.metrics") - $(writes instances akri.sh "$work/before.metrics")))
    pod_writes=$(($(writes pods '' "$work/after.metrics") - $(writes pods '' "$work/before.metrics")))
  fi
  local instances brokers
  instances=$(wc -l <"$work/before.instances" | tr -d ' ')
  brokers=$(wc -l <"$work/before.brokers" | tr -d ' ')
  echo "$recreated of $instances | $replaced of $brokers | $missing | $instance_writes, $pod_writes" >"$work/counts"
}

# changed KIND COLUMN: how many that are there before and after differ in the column (2: uid, 3: resourceVersion of an Instance).
# A broker that is gone counts as replaced.
changed() {
  local gone=0
  [ "$1" = instances ] || gone=$(join -v 1 "$work/before.$1" "$work/after.$1" | wc -l)
  join "$work/before.$1" "$work/after.$1" | awk -v column="$2" -v gone="$gone" '
    $column != $(column + 2) { sum++ } END { print sum + gone }'
}

# ---- Promises

# kept: every Instance and every broker is the one it was.
kept() {
  after
  [ "$recreated" = 0 ] || broken "$recreated Instances were re-created"
  [ "$replaced" = 0 ] || broken "$replaced brokers were replaced"
  [ "$missing" = 0 ] || broken "$missing Instances are missing"
}

# unwritten: nobody wrote to an Instance.
unwritten() {
  [ "$touched" = 0 ] || broken "$touched Instances have another resourceVersion"
  [ "$instance_writes" = 0 ] || [ "$instance_writes" = - ] || broken "there were $instance_writes writes to Instances"
}

# back: every Instance is there again, under its name, and has a broker.
back() {
  after
  [ "$missing" = 0 ] || broken "$missing Instances are missing"
}
