# shellcheck shell=bash
# What the chart installs, finds, serves and leaves.

seconds_since() { awk -v a="$1" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }'; }

scenario_install() {
  local t0 first reading
  remove "$NAMESPACE" "$RELEASE"
  started=$SECONDS t0=$EPOCHREALTIME
  helm install "$RELEASE" "$CHART" --namespace "$NAMESPACE" --values "$work/values.yaml" ${VALUES:+--values "$VALUES"} >/dev/null ||
    fail "helm install failed"
  an_instance() { [ -n "$(instances)" ]; }
  a_reading() { readings | grep -q .; }
  every_reading() { [ "$(readings | awk '{ print $1 }' | sort -u | wc -l)" -eq "$DEVICES" ]; }
  until_true an_instance || fail "there is no Instance"
  first=$(seconds_since "$t0")
  until_true a_reading || fail "no broker has read its device"
  reading=$(seconds_since "$t0")
  until_true every_reading || fail "not every broker has read its device"
  note "first Instance after $first s, first reading after $reading s, readings of all $DEVICES after $(seconds_since "$t0") s"
  settle
}

# The brokers' readings: the Pod and the line.
readings() {
  k logs --selector "akri.sh/configuration=$RELEASE" --prefix --tail 20 --max-log-requests "$DEVICES" 2>/dev/null |
    grep -E 'http://device-[0-9]+:8080 0\.[0-9]+'
}

scenario_removed() {
  local gone
  base
  before
  devices $((DEVICES - 1)) | reply 200
  a_device_is_gone() { [ "$(count instances)" -lt "$DEVICES" ]; }
  until_true a_device_is_gone || fail "the device that was removed is still there"
  gone=$((SECONDS - started))
  settle $((DEVICES - 1))
  devices "$DEVICES" | reply 200
  settle
  after
  [ "$missing $recreated $replaced" = "0 1 1" ] ||
    broken "$missing missing, $recreated re-created, $replaced replaced, where it should be 0, 1 and 1"
  note "its Instance went after $gone s"
}

# room: how many more Pods the nodes take.
room() {
  local pods running
  pods=$(kubectl get nodes --output jsonpath='{range .items[*]}{.status.allocatable.pods}{"\n"}{end}' |
    awk '{ sum += $1 } END { print sum }')
  running=$(kubectl get pods --all-namespaces --field-selector status.phase!=Succeeded,status.phase!=Failed --output name | wc -l)
  echo $((pods - running))
}

scenario_many() {
  local broker='"broker": {"kind": "standalone"},' url=http://discovery.$MANY_NAMESPACE:9999/discovery i t0 found wanted=$MANY
  base
  namespace "$MANY_NAMESPACE"
  before
  # Room for the mock devices' Pod, and for those that come and go.
  if [ "$(room)" -lt $((MANY + 5)) ]; then
    broker='' wanted=0
    note "without brokers, because the nodes have room for $(room) more Pods"
  fi
  t0=$SECONDS
  NAMESPACE=$MANY_NAMESPACE release "$RELEASE-many" --set handler.enabled=false --set mockDevices.count=1 --set-json \
    "configurations=[{\"name\": \"$RELEASE-many\", $broker \"discoveryDetails\": \"$url\"}]"
  for ((i = 1; i <= MANY; i++)); do echo "http://device-1:8080/?device=$i"; done | reply 200 "$MANY_NAMESPACE"
  many() { [ "$("$1" "$RELEASE-many" "$MANY_NAMESPACE" | wc -l)" -ge "$2" ]; }
  until_true many instances "$MANY" || fail "$(count instances "$RELEASE-many" "$MANY_NAMESPACE") of $MANY devices became Instances"
  found=$((SECONDS - t0))
  until_true many ready_brokers "$wanted" ||
    fail "$(count ready_brokers "$RELEASE-many" "$MANY_NAMESPACE") of $MANY brokers are ready"
  note "$MANY Instances $found s after helm upgrade began"
  [ "$wanted" = 0 ] || note "$MANY ready brokers after $((SECONDS - t0)) s"
  remove "$MANY_NAMESPACE" "$RELEASE-many" || broken "Instances of the many devices are left"
  settle
  kept
}

# The API server proxies the discovery service, so that every cluster has one that asks for a token and has a CA of its own.
scenario_secret() {
  base
  before
  k apply --filename - >/dev/null <<YAML
apiVersion: v1
kind: ServiceAccount
metadata: {name: reader}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader}
rules: [{apiGroups: [""], resources: [services/proxy], verbs: [get]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: reader}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}
subjects: [{kind: ServiceAccount, name: reader}]
YAML
  local from='"valueFrom": {"secretKeyRef": {"name": "reader-token", "key":'
  local url=https://kubernetes.default.svc/api/v1/namespaces/$NAMESPACE/services/discovery:discovery/proxy/discovery
  beside "$RELEASE-secret" "[{\"name\": \"$RELEASE-secret\", \"discoveryDetails\": \"$url\", \"discoveryProperties\": [
    {\"name\": \"HTTP_BEARER_TOKEN\", $from \"token\"}}}, {\"name\": \"HTTP_CA_CERT\", $from \"ca.crt\"}}}]}]"
  sleep 10
  [ -z "$(instances "$RELEASE-secret")" ] || broken "there are Instances without the Secret"
  k apply --filename - >/dev/null <<YAML
apiVersion: v1
kind: Secret
metadata: {name: reader-token, annotations: {kubernetes.io/service-account.name: reader}}
type: kubernetes.io/service-account-token
YAML
  local t0=$SECONDS
  all_found() { [ "$(count instances "$RELEASE-secret")" -eq "$DEVICES" ]; }
  until_true all_found || fail "$(count instances "$RELEASE-secret") of $DEVICES devices were found with the Secret"
  note "no Instance without the Secret, $DEVICES $((SECONDS - t0)) s after it was there"
  k get secret reader-token --output go-template='{{.data.token | base64decode}}' >"$work/token"
  [ -s "$work/token" ] || broken "the Secret has no token"
  if k logs --selector "$handler" --all-containers --tail -1 | grep -F -f "$work/token" >/dev/null; then
    broken "the handler's log has the token"
  fi
  rm -f "$work/token"
  remove_beside "$RELEASE-secret"
  settle
  kept
}

# remove_beside RELEASE: and waits until its Instances are gone, while those of the first release stay.
remove_beside() {
  helm uninstall "$1" --namespace "$NAMESPACE" --wait --timeout "${PATIENCE}s" >/dev/null
  none_left() { [ -z "$(instances "$1"; brokers "$1"; k get akric "$1" --ignore-not-found)" ]; }
  until_true none_left "$1" || broken "something of $1 is left"
}

scenario_grpc() {
  local t0
  base
  before
  t0=$SECONDS
  beside "$RELEASE-grpc" "[{\"name\": \"$RELEASE-grpc\", \"discoveryDetails\": \"http://discovery:9999/discovery\",
    \"broker\": {\"kind\": \"grpc\"}}]" --set grpcClient.enabled=true
  all_ready() { [ "$(count ready_brokers "$RELEASE-grpc")" -eq "$DEVICES" ]; }
  services() { k get services --selector controller=akri.sh --output name; }
  all_services() { [ "$(count services)" -eq $((DEVICES + 1)) ]; }
  client_reads() { k logs "deployment/$RELEASE-grpc-grpc-client" --tail 20 2>/dev/null | grep -q 'http://device-.* 0\.[0-9]'; }
  until_true all_ready || fail "$(count ready_brokers "$RELEASE-grpc") of $DEVICES gRPC brokers are ready"
  note "$DEVICES brokers ready by their health service after $((SECONDS - t0)) s"
  until_true all_services || broken "there are $(count services) Services, not one for each Instance and one for all"
  until_true client_reads || fail "the client has read nothing"
  note "the client's first reading after $((SECONDS - t0)) s"
  brokers "$RELEASE-grpc" | awk '$2 !~ /\/0$/ { bad = 1 } END { exit bad }' || broken "a gRPC broker was restarted"
  remove_beside "$RELEASE-grpc"
  no_services() { [ "$(count services)" -eq 0 ]; }
  until_true no_services || broken "$(count services) Services are left"
  settle
  kept
}

scenario_upgrade() {
  [ -n "$LAST_CHART" ] || skip "LAST_CHART is not set"
  remove "$NAMESPACE" "$RELEASE"
  TAG=$LAST_TAG values >"$work/last.yaml"
  CHART=$LAST_CHART release "$RELEASE" --values "$work/last.yaml"
  settle
  before
  release "$RELEASE"
  settle
  kept
}

scenario_helm_test() {
  base
  before
  helm test "$RELEASE" --namespace "$NAMESPACE" --timeout "${PATIENCE}s" >"$work/helm.log" 2>&1 ||
    fail "helm test says: $(tail -n 1 "$work/helm.log")"
  # They stay for their logs, also when the release goes (docs/install.md).
  k delete pods --selector app.kubernetes.io/component=test >/dev/null
  kept
}

scenario_uninstall() {
  local left
  base
  sockets() { k exec node -- ls /sockets | awk -v ours="^$RELEASE(-[2-8])?[.]sock$" '$0 ~ ours'; }
  if node_pod; then
    [ -n "$(sockets)" ] || fail "the handler's socket is not on the node"
  else
    note "without a look at the node, where no privileged Pod with hostPID runs"
  fi
  remove "$NAMESPACE" "$RELEASE" || broken "Configurations or Instances are left"
  ours() {
    local kinds
    kinds=$(kubectl api-resources --verbs list --namespaced --output name | grep -v '^events' | paste -sd ,)
    k get "$kinds" --selector app.kubernetes.io/part-of=akri-http --output name --ignore-not-found 2>/dev/null
    k get "$kinds" --selector controller=akri.sh --output name --ignore-not-found 2>/dev/null
    kubectl get clusterroles,clusterrolebindings --selector "app.kubernetes.io/instance=$RELEASE" --output name
  }
  nothing_of_ours() { [ -z "$(ours)" ]; }
  until_true nothing_of_ours || true
  left=$(ours | paste -sd ' ')
  [ -z "$left" ] || broken "left: $left"
  if k get pod node >/dev/null 2>&1; then
    left=$(sockets) || fail "cannot look at the sockets"
    [ -z "$left" ] || broken "left on the node: $left"
  fi
  note "the saved lists stay in the node's /var/lib/akri-http, as docs/install.md says"
}
