# shellcheck shell=bash
# The cluster as e2e sees it: the chart's releases, the discovery service's reply, and a Pod on the node.

say() { printf '%s %s\n' "$(date -u +%H:%M:%S)" "$*" >&2; }

cannot_begin() { echo "e2e: $*" >&2; exit 2; }

k() { kubectl --namespace "$NAMESPACE" "$@"; }

akri() { kubectl --namespace "$AKRI_NAMESPACE" "$@"; }

# ---- The chart

# The values of every release: all that e2e knows of the chart's values is here and in the scenarios' --set.
values() {
  cat <<YAML
images: {registry: "$IMAGES", tag: "$TAG"}
imagePullSecrets: [${PULL_SECRET:+{name: ${PULL_SECRET#*/}\}}]
akri: {agentServiceAccount: {namespace: "$AKRI_NAMESPACE"}}
handler: {name: $RELEASE}
mockDevices: {enabled: true, count: $DEVICES, writable: true}
configurations:
  - name: $RELEASE
    discoveryDetails: http://discovery:9999/discovery
    broker: {kind: standalone}
YAML
}

# release NAME [helm's arguments...]: installs or upgrades, and waits until the handler and the mock devices run.
release() {
  local name=$1
  shift
  helm upgrade --install "$name" "$CHART" --namespace "$NAMESPACE" --values "$work/values.yaml" \
    ${VALUES:+--values "$VALUES"} --wait --timeout "${PATIENCE}s" "$@" >"$work/helm.log" 2>&1 ||
    { cat "$work/helm.log" >&2; fail "helm cannot install $name: $(tail -n 1 "$work/helm.log")"; }
}

# beside NAME CONFIGURATIONS [helm's arguments...]: a second release, whose devices the first one's handler finds.
beside() {
  local name=$1 configurations=$2
  shift 2
  release "$name" --set handler.enabled=false --set mockDevices.enabled=false --set-json "configurations=$configurations" "$@"
}

# remove NAMESPACE RELEASE...: and waits until the Configurations, which have the Agent's finalizer, are gone too.
remove() {
  helm uninstall "${@:2}" --namespace "$1" --ignore-not-found --wait --timeout "${PATIENCE}s" >/dev/null 2>&1
  until_true nothing_left "$1"
}

nothing_left() { [ -z "$(kubectl get akric,akrii --namespace "$1" --output name 2>/dev/null)" ]; }

# namespace NAME: makes it, with the pull Secret.
namespace() {
  local label
  label=$(kubectl get namespace "$1" --ignore-not-found --output jsonpath='{.metadata.name} {.metadata.labels.made-by}')
  case $label in
    "$1 akri-http-e2e") ;;
    "") kubectl create namespace "$1" >/dev/null && kubectl label namespace "$1" made-by=akri-http-e2e \
      pod-security.kubernetes.io/enforce=privileged >/dev/null ;;
    *) cannot_begin "the namespace $1 exists and was not made by e2e; choose another NAMESPACE" ;;
  esac
  [ -n "$PULL_SECRET" ] || return 0
  kubectl get secret --namespace "${PULL_SECRET%/*}" "${PULL_SECRET#*/}" \
    --output go-template='{{index .data ".dockerconfigjson" | base64decode}}' >"$work/pull" &&
    kubectl create secret generic --namespace "$1" "${PULL_SECRET#*/}" --type kubernetes.io/dockerconfigjson \
      --from-file ".dockerconfigjson=$work/pull" --dry-run=client --output yaml | kubectl apply --filename - >/dev/null
  local copied=$?
  rm -f "$work/pull"
  [ "$copied" = 0 ] || cannot_begin "cannot copy the Secret $PULL_SECRET into $1"
}

# ---- The discovery service

# devices N: a list of the first N mock devices.
devices() { local i; for ((i = 1; i <= $1; i++)); do echo "http://device-$i:8080"; done; }

# reply STATUS [NAMESPACE] <LIST: what the discovery service answers from now on.
reply() {
  kubectl replace --raw "/api/v1/namespaces/${2:-$NAMESPACE}/services/discovery:discovery/proxy/discovery?status=$1" \
    --filename - >/dev/null || fail "cannot set the discovery service's reply"
}

# discovery_service off|on: with its devices, because one Pod serves them all.
discovery_service() {
  local replicas=0
  [ "$1" = off ] || replicas=1
  k scale deployment device --replicas "$replicas" >/dev/null
  if [ "$1" = on ]; then
    k rollout status deployment device --timeout "${PATIENCE}s" >/dev/null
  else
    k wait pod --selector app.kubernetes.io/component=mock-devices --for delete --timeout "${PATIENCE}s" >/dev/null
  fi
}

# ---- The handler

handler=app.kubernetes.io/component=discovery-handler

# noticed WORDS: the handler's log has them since `before`. Otherwise a scenario did not happen, and its promise holds for nothing.
noticed() { handler_says "$1" || fail "the handler's log does not say: $1"; }

handler_says() {
  # Not grep -q: it would end before kubectl has written what several handlers say, and pipefail takes that for a failure.
  k logs --selector "$handler" --all-containers --since "$((SECONDS - started + 2))s" --tail -1 2>/dev/null | grep -e "$1" >/dev/null
}

# asked_again: the Agent has asked for devices since `before`. Only then it deletes what it knew of an earlier stream, which can be
# half a minute after that has ended (rules 1, 7 and 24).
asked_again() { handler_says 'Discover stream opened'; }

roll_out() {
  k rollout restart daemonset --selector "$handler" >/dev/null
  k rollout status daemonset --selector "$handler" --timeout "${PATIENCE}s" >/dev/null || fail "the rollout does not end"
}

# kill_9 CONTAINER: kills the process of the container in the node's handler Pod, and waits until Kubernetes has started it again.
kill_9() {
  local node pod container restarts before
  on_node true
  node=$(k get pod node --output jsonpath='{.spec.nodeName}')
  pod=$(k get pods --selector "$handler" --field-selector "spec.nodeName=$node" --output jsonpath='{.items[0].metadata.name}')
  restarts="{.status.containerStatuses[?(@.name==\"$1\")].restartCount}"
  container=$(k get pod "$pod" --output "jsonpath={.status.containerStatuses[?(@.name==\"$1\")].containerID}")
  before=$(k get pod "$pod" --output "jsonpath=$restarts")
  # The process is the one whose control group has the container's name.
  on_node "for p in /proc/[0-9]*; do
      if grep -qs '${container##*/}' \$p/cgroup; then kill -9 \${p#/proc/} && killed=1; fi
    done; [ \$killed ]" ||
    fail "found no process of the container $1"
  restarted() { [ "$(k get pod "$pod" --output "jsonpath=$restarts")" -gt "$before" ]; }
  until_true restarted || fail "the container $1 was not started again"
}

# ---- The node

# on_node COMMAND: runs it by `sh -c` as root on a node with a handler, always the same, with that node's processes in sight, and the
# directory of the Agent's sockets at /sockets.
on_node() {
  node_pod || skip "no privileged Pod with hostPID runs here ($(tail -n 1 "$work/node.log" | cut -c1-160))"
  k exec node -- sh -c "$1"
}

node_pod() {
  k get pod node >/dev/null 2>&1 && return
  local node directory
  node=$(k get pods --selector "$handler" --output jsonpath='{.items[0].spec.nodeName}')
  directory=$(k get daemonset --selector "$handler" \
    --output jsonpath='{.items[0].spec.template.spec.volumes[?(@.name=="discovery-handlers")].hostPath.path}')
  k apply --filename - >"$work/node.log" 2>&1 <<YAML || return
apiVersion: v1
kind: Pod
metadata: {name: node}
spec:
  nodeName: $node
  hostPID: true
  terminationGracePeriodSeconds: 0
  automountServiceAccountToken: false
  imagePullSecrets: [${PULL_SECRET:+{name: ${PULL_SECRET#*/}\}}]
  tolerations: [{operator: Exists}]
  containers:
    - name: node
      image: $NODE_IMAGE
      command: [sleep, "86400"]
      securityContext: {privileged: true, runAsUser: 0}
      volumeMounts: [{name: sockets, mountPath: /sockets, readOnly: true}]
  volumes: [{name: sockets, hostPath: {path: "$directory"}}]
YAML
  k wait pod node --for condition=Ready --timeout 90s >>"$work/node.log" 2>&1
}
