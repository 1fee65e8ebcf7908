"""Names, labels, annotations and accounts of the objects, and what can be changed in the handler's Pod."""

import pytest
from chart import HIGHEST_KUBERNETES, LOWEST_KUBERNETES, VALUES, grpc, only, refusal, template
from schemas import pod_spec, validate

PROPERTIES = ["--values", "helm/examples/details-and-properties.yaml"]
WORKLOADS = ("DaemonSet", "Deployment")
EVERYTHING = grpc() | {"mockDevices": {"enabled": True}, "grpcClient": {"enabled": True}}
AT_REST = {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}


def names(*arguments, **options):
    return {(thing["kind"], thing["metadata"]["name"]) for thing in template(*arguments, **options)}


def handler(**keys):
    """The Pod spec of a handler with these values, which Kubernetes accepts."""
    objects = template(values={"handler": keys})
    for thing in objects:
        validate(thing, LOWEST_KUBERNETES)
        validate(thing, HIGHEST_KUBERNETES)
    return pod_spec(only(objects, "DaemonSet"))


def test_the_names_begin_with_the_release_or_with_a_name_that_replaces_it():
    fixed = {name for name in names(values=EVERYTHING) if name[0] in ("Service", "Configuration")} | {("Deployment", "device")}
    rest = {("DaemonSet", "{}-discovery-handler"), ("Deployment", "{}-grpc-client"), ("Pod", "{}-test-cameras")}
    rest |= {(kind, "{}-test") for kind in ("ServiceAccount", "Role", "RoleBinding")}
    for release, arguments in (("edge", []), ("site", ["--set", "fullnameOverride=edge"])):
        expected = {(kind, name.format("edge")) for kind, name in rest}
        assert names(*arguments, values=EVERYTHING, release=release) == expected | fixed
        assert ("Role", "edge-agent-secrets-discovery-token") in names(*arguments, *PROPERTIES, release=release)


def test_the_longest_names_are_different_and_valid():
    objects = template("--set", f"fullnameOverride={'a' * 53}", values=EVERYTHING)
    for thing in objects:
        validate(thing, LOWEST_KUBERNETES)
    assert len({(thing["kind"], thing["metadata"]["name"]) for thing in objects}) == len(objects)


def test_another_name_of_the_chart_is_in_every_label_and_selector():
    for thing in template("--set", "nameOverride=http", values=EVERYTHING):
        assert thing["metadata"]["labels"]["app.kubernetes.io/name"] == "http"
        if thing["kind"] in WORKLOADS:
            assert thing["spec"]["selector"]["matchLabels"]["app.kubernetes.io/name"] == "http"
            assert thing["spec"]["template"]["metadata"]["labels"] == thing["spec"]["selector"]["matchLabels"]
        if thing["kind"] == "Service":
            assert thing["spec"]["selector"]["app.kubernetes.io/name"] == "http"


@pytest.mark.parametrize("arguments", [[], PROPERTIES], ids=["workloads", "roles"])
def test_common_labels_and_annotations_are_on_every_object_and_on_the_pods_of_workloads(arguments):
    common = {"commonLabels": {"example.com/team": "edge"}, "commonAnnotations": {"example.com/page": "12"}}
    account = {"handler": {"serviceAccount": {"create": True, "annotations": {"example.com/role": "none"}}}}
    values = common | account | ({} if arguments else EVERYTHING)
    for thing in template(*arguments, values=values):
        metadata = [thing["metadata"]]
        if thing["kind"] in WORKLOADS:
            metadata.append(thing["spec"]["template"]["metadata"])
            assert "example.com/team" not in thing["spec"]["selector"]["matchLabels"]
        for each in metadata:
            assert each["labels"].items() >= common["commonLabels"].items(), thing["kind"]
            assert each["annotations"].items() >= common["commonAnnotations"].items(), thing["kind"]
        if thing["kind"] == "Pod":
            assert thing["metadata"]["annotations"]["helm.sh/hook"] == "test"
        if thing["kind"] == "ServiceAccount" and thing["metadata"]["name"] != "akri-http-test":
            assert thing["metadata"]["annotations"]["example.com/role"] == "none"
        validate(thing, LOWEST_KUBERNETES)


def test_a_label_of_the_handlers_pods_wins_against_a_common_one():
    common = {"commonLabels": {"team": "edge"}, "commonAnnotations": {"page": "12"}}
    own = {"handler": {"podLabels": {"team": "handler"}, "podAnnotations": {"page": "13"}}}
    thing = only(template(values=common | own), "DaemonSet")
    pods = thing["spec"]["template"]["metadata"]
    assert (thing["metadata"]["labels"]["team"], pods["labels"]["team"]) == ("edge", "handler")
    assert (thing["metadata"]["annotations"]["page"], pods["annotations"]["page"]) == ("12", "13")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"commonLabels": {"helm.sh/chart": "x"}}, "commonLabels: the chart sets the label helm.sh/chart itself"),
        ({"commonLabels": {"app.kubernetes.io/name": "x"}}, "commonLabels: the chart sets the label app.kubernetes.io/name itself"),
        ({"handler": {"podLabels": {"app.kubernetes.io/component": "x"}}}, "handler.podLabels: the chart sets the label app.kubernetes.io/component itself"),
        ({"commonLabels": {"number": 1}}, "at '/commonLabels/number': got number, want string"),
        ({"nameOverride": "HTTP"}, "at '/nameOverride': 'HTTP' does not match pattern"),
        ({"fullnameOverride": "a" * 54}, "at '/fullnameOverride': maxLength: got 54, want 53"),
        ({"handler": {"hostNetwork": True}}, "handler.hostNetwork: the new handler of an update cannot use the node's ports beside the old one"),
        ({"handler": {"dnsPolicy": "None"}}, "at '/handler/dnsPolicy': value must be one of"),
        ({"handler": {"initContainers": [{"image": "a"}]}}, "at '/handler/initContainers/0': missing property 'name'"),
        ({"handler": {"livenessProbe": {"httpGet": {}}}}, "at '/handler/livenessProbe': additional properties 'httpGet' not allowed"),
        ({"handler": {"readinessProbe": {"periodSeconds": 0}}}, "periodSeconds': minimum: got 0, want 1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_wrong_name_label_or_probe_is_refused(values, said):
    assert said in refusal(values=values)


def test_somebody_else_may_make_the_roles():
    kinds = {kind for kind, _ in names("--set", "rbac.create=false", *PROPERTIES)}
    assert kinds == {"DaemonSet", "Configuration", "ServiceAccount", "Pod"}


def test_the_handler_has_an_account_of_its_own_only_where_it_is_asked_for():
    assert "serviceAccountName" not in handler()
    assert handler(serviceAccount={"name": "existing"})["serviceAccountName"] == "existing"
    for name, expected in ((None, "akri-http-discovery-handler"), ("made", "made")):
        account = {"create": True} | ({"name": name} if name else {})
        objects = template(values={"handler": {"serviceAccount": account}})
        assert only(objects, "ServiceAccount", expected)["automountServiceAccountToken"] is False
        spec = pod_spec(only(objects, "DaemonSet"))
        assert (spec["serviceAccountName"], spec["automountServiceAccountToken"]) == (expected, False)
    accounts = {name for name in names(values={"handler": {"serviceAccount": {"name": "existing"}}}) if name[0] == "ServiceAccount"}
    assert accounts == {("ServiceAccount", "akri-http-test")}
    gone = {"handler": {"enabled": False, "serviceAccount": {"create": True}}}
    assert not [kind for kind, _ in names(values=gone) if kind == "ServiceAccount"]


def test_on_the_nodes_network_the_names_of_services_still_resolve():
    assert "hostNetwork" not in handler() and "dnsPolicy" not in handler()
    spec = handler(hostNetwork=True, updateStrategy=AT_REST)
    assert (spec["hostNetwork"], spec["dnsPolicy"]) == (True, "ClusterFirstWithHostNet")
    assert handler(hostNetwork=True, dnsPolicy="Default", updateStrategy=AT_REST)["dnsPolicy"] == "Default"
    assert handler(dnsPolicy="Default")["dnsPolicy"] == "Default"


def test_on_the_nodes_network_a_handler_without_ports_is_still_updated_without_a_gap():
    assert handler(hostNetwork=True, adminPort=0)["hostNetwork"] is True
    assert handler(hostNetwork=True, updateStrategy={"type": "OnDelete"})["hostNetwork"] is True
    assert "handler.hostNetwork" in refusal(values={"handler": {"hostNetwork": True, "adminPort": 0, "network": {"enabled": True}}})


def test_containers_run_before_and_beside_the_handler():
    first, beside = {"name": "wait", "image": "busybox:1"}, {"name": "proxy", "image": "envoy:1"}
    spec = handler(standby=True, initContainers=[first], extraContainers=[beside])
    assert spec["initContainers"] == [first]
    assert [container["name"] for container in spec["containers"]] == ["discovery-handler", "standby", "proxy"]
    assert spec["containers"][2] == beside


def test_a_security_context_is_merged_over_the_handlers():
    (usual,) = handler()["containers"]
    for container in handler(standby=True, securityContext={"seLinuxOptions": {"type": "spc_t"}, "runAsGroup": None})["containers"]:
        expected = usual["securityContext"] | {"seLinuxOptions": {"type": "spc_t"}}
        del expected["runAsGroup"]
        assert container["securityContext"] == expected


def test_the_probes_are_values():
    (container,) = handler(livenessProbe={"failureThreshold": 30}, startupProbe=None)["containers"]
    assert "startupProbe" not in container
    times = VALUES["handler"]["livenessProbe"] | {"failureThreshold": 30}
    assert container["livenessProbe"] == {"httpGet": {"path": "/livez", "port": "admin"}} | times


def test_without_a_readiness_probe_an_update_waits_20_s():
    spec = only(template(values={"handler": {"readinessProbe": None}}), "DaemonSet")["spec"]
    assert spec["minReadySeconds"] == 20
