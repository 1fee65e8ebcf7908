"""What `podSpec` makes of the Pod specs of brokers and of the gRPC client."""

import copy
import json

import pytest
from chart import CHART, HIGHEST_KUBERNETES, LOWEST_KUBERNETES, configuration, grpc, only, refusal, template
from schemas import SCHEMAS, pod_spec, validate

JOB = {"workload": "Job", "image": {"repository": "example.com/reader", "tag": "1"}}
TOLERATION = {"key": "example.com/devices", "operator": "Exists", "effect": "NoSchedule"}
NODE_TERMS = {"nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}]}
BY_NODE = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": NODE_TERMS}}
MUCH = {
    "tolerations": [TOLERATION],
    "nodeSelector": {"example.com/site": "true"},
    "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": NODE_TERMS["nodeSelectorTerms"][0]}]}},
    "priorityClassName": "devices",
    "serviceAccountName": "broker",
    "automountServiceAccountToken": True,
    "terminationGracePeriodSeconds": 0,
    "runtimeClassName": "gvisor",
    "dnsConfig": {"options": [{"name": "ndots", "value": "1"}]},
    "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}],
    "securityContext": {"fsGroup": 1000660000, "runAsUser": 1000660000},
    "imagePullSecrets": [{"name": "theirs"}],
    "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "16Mi"}}, {"name": "site", "configMap": {"name": "site"}}],
    "initContainers": [{"name": "wait", "image": "busybox:1", "command": ["true"]}],
    "containers": [
        {"name": "proxy", "image": "envoy:1", "resources": {"limits": {"memory": "64Mi"}}},
        {"name": "broker", "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, {"name": "tmp", "mountPath": "/run"}]},
    ],
}


def broker(**keys):
    """The Pod spec of a broker with these keys, which Kubernetes and Akri accept."""
    thing = only(template(values=configuration(broker={"kind": "standalone"} | keys)), "Configuration")
    validate(thing, LOWEST_KUBERNETES)
    validate(thing, HIGHEST_KUBERNETES)
    return pod_spec(thing)


def client(pod_spec_of_client, **keys):
    """The gRPC client with this Pod spec and these keys."""
    values = grpc() | {"grpcClient": {"enabled": True, "podSpec": pod_spec_of_client} | keys}
    thing = only(template(values=values), "Deployment")
    validate(thing, LOWEST_KUBERNETES)
    validate(thing, HIGHEST_KUBERNETES)
    return thing


def container(spec, name="broker"):
    (found,) = [each for each in spec["containers"] if each["name"] == name]
    return found


@pytest.mark.parametrize("keys", [{}, {"kind": "grpc"}, JOB], ids=["standalone", "grpc", "Job"])
def test_what_is_not_named_stays_as_it_is(keys):
    before, after = broker(**keys), broker(**keys, podSpec=MUCH)
    for key, value in MUCH.items():
        if key not in ("containers", "securityContext"):
            assert after[key] == value, key
    assert after["securityContext"] == before["securityContext"] | MUCH["securityContext"]
    assert [each["name"] for each in after["containers"]] == ["broker", "proxy"]
    assert container(after, "proxy") == MUCH["containers"][0]
    assert container(after) == container(before) | {"volumeMounts": MUCH["containers"][1]["volumeMounts"]}
    assert {key: after[key] for key in before.keys() - MUCH.keys()} == {key: before[key] for key in before.keys() - MUCH.keys()}


def test_without_a_pod_spec_nothing_changes():
    assert broker(podSpec={}) == broker()


def test_an_entry_of_the_same_identity_is_replaced_and_any_other_appended():
    pull = {"imagePullSecrets": [{"name": "ours"}]}
    own = {
        "imagePullSecrets": [{"name": "theirs"}, {"name": "ours"}],
        "containers": [
            {
                "name": "broker",
                "env": [{"name": "B", "value": "4"}, {"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
                "ports": [{"name": "more", "containerPort": 9090}, {"name": "admin", "containerPort": 8081, "hostPort": 8081}],
            }
        ],
    }
    values = pull | configuration(broker={"kind": "standalone", "env": [{"name": "A", "value": "1"}], "podSpec": own})
    spec = pod_spec(only(template(values=values), "Configuration"))
    assert spec["imagePullSecrets"] == [{"name": "ours"}, {"name": "theirs"}]
    assert container(spec)["env"] == [{"name": "ADMIN_ADDRESS", "value": ":8081"}, *reversed(own["containers"][0]["env"])]
    assert container(spec)["ports"] == list(reversed(own["containers"][0]["ports"]))


def test_any_other_list_is_replaced():
    spec = broker(args=["--old", "--older"], podSpec={"containers": [{"name": "broker", "args": ["--new"]}]})
    assert container(spec)["args"] == ["--new"]


def test_a_null_removes_a_key():
    own = {
        "terminationGracePeriodSeconds": None,
        "securityContext": {"runAsGroup": None, "runAsUser": 1000, "seLinuxOptions": {"type": None, "level": "s0"}},
        "containers": [{"name": "broker", "livenessProbe": None}, {"name": "new", "image": "a:1", "livenessProbe": None}],
    }
    for spec in (broker(podSpec=own), pod_spec(client(json.loads(json.dumps(own).replace("broker", "grpc-client"))))):
        assert "terminationGracePeriodSeconds" not in spec
        assert spec["securityContext"]["seLinuxOptions"] == {"level": "s0"}
        assert spec["securityContext"]["runAsUser"] == 1000 and "runAsGroup" not in spec["securityContext"]
        assert "livenessProbe" not in spec["containers"][0]
        assert spec["containers"][1] == {"name": "new", "image": "a:1"}


def test_quantities_stay_strings_and_large_numbers_whole():
    spec = broker(podSpec=MUCH | {"containers": [{"name": "broker", "resources": {"limits": {"memory": "1Gi"}}}]})
    assert container(spec)["resources"]["limits"] == {"{{PLACEHOLDER}}": "1", "cpu": "24m", "memory": "1Gi"}
    assert container(spec)["resources"]["requests"]["{{PLACEHOLDER}}"] == "1"
    text = str(template(values=configuration(broker={"podSpec": MUCH})))
    assert "1000660000" in text and "e+09" not in text


def test_pods_of_a_job_can_have_labels_and_annotations():
    def metadata(**job):
        thing = only(template(values=configuration(broker=JOB | {"job": job})), "Configuration")
        validate(thing, LOWEST_KUBERNETES)
        return thing["spec"]["brokerSpec"]["brokerJobSpec"]["template"].get("metadata")

    assert metadata() is None
    assert metadata(podLabels={"team": "edge"}) == {"labels": {"team": "edge"}}
    both = metadata(podLabels={"team": "edge"}, podAnnotations={"page": "12"})
    assert both == {"labels": {"team": "edge"}, "annotations": {"page": "12"}}


def test_a_job_may_choose_nodes_by_affinity_and_its_restart_policy():
    spec = broker(**JOB, podSpec={"affinity": BY_NODE}, job={"restartPolicy": "Never"})
    assert (spec["affinity"], spec["restartPolicy"]) == (BY_NODE, "Never")
    assert broker(podSpec={"restartPolicy": "OnFailure"})["restartPolicy"] == "OnFailure"


def test_the_grpc_client_has_a_pod_spec_labels_and_annotations():
    usual = client({})
    own = copy.deepcopy(MUCH) | {"affinity": BY_NODE}
    own["containers"][1]["name"] = "grpc-client"
    thing = client(own, podLabels={"team": "edge"}, podAnnotations={"page": "12"})
    metadata, spec = thing["spec"]["template"]["metadata"], pod_spec(thing)
    assert metadata["labels"] == thing["spec"]["selector"]["matchLabels"] | {"team": "edge"}
    assert metadata["annotations"] == {"page": "12"}
    assert (spec["tolerations"], spec["affinity"]) == ([TOLERATION], BY_NODE)
    assert container(spec, "grpc-client") == pod_spec(usual)["containers"][0] | {"volumeMounts": own["containers"][1]["volumeMounts"]}
    assert thing["spec"] | {"template": None} == usual["spec"] | {"template": None}


# Keys of a Pod spec that do nothing here. Akri chooses the node, and drops `claims` of a container; Kubernetes sets `overhead`
# and `priority` itself; `serviceAccount` is an old name; ephemeral containers come later.
USELESS = {"ephemeralContainers", "nodeName", "overhead", "priority", "resourceClaims", "serviceAccount"}


def test_the_keys_are_those_that_akris_types_have():
    schema = json.loads((CHART / "values.schema.json").read_text())["$defs"]
    definitions = json.loads((SCHEMAS / f"v{LOWEST_KUBERNETES}-local-strict" / "_definitions.json").read_text())["$defs"]
    for ours, kind, useless in (
        (schema["podSpec"], "PodSpec", USELESS),
        (schema["containers"]["items"], "Container", set()),
    ):
        known = definitions[f"io.k8s.api.core.v1.{kind}"]["properties"].keys()
        assert ours["properties"].keys() == known - useless


GONE = {
    "automountServiceAccountToken": True,
    "podSecurityContext": {},
    "securityContext": {},
    "serviceAccountName": "",
    "terminationGracePeriodSeconds": 10,
    "volumeMounts": [],
    "volumes": [],
}


@pytest.mark.parametrize("key", GONE)
def test_a_key_of_the_last_version_is_refused_and_the_error_says_where_it_is_now(key):
    said = refusal(values=configuration(broker={key: GONE[key]}))
    assert f"configurations[0].broker.{key}: there is no such key any more; write podSpec." in said


REFUSED = [
    ("a misspelt key", {"toleration": []}, "at '/configurations/0/broker/podSpec': additional properties 'toleration' not allowed"),
    ("a node", {"nodeName": "a"}, "additional properties 'nodeName' not allowed"),
    ("a misspelt key of a container", {"containers": [{"name": "a", "volumeMount": []}]}, "podSpec/containers/0': additional properties 'volumeMount' not allowed"),
    ("a container without a name", {"containers": [{"image": "a"}]}, "podSpec/containers/0': missing property 'name'"),
    ("a volume without a name", {"volumes": [{"emptyDir": {}}]}, "podSpec/volumes/0': missing property 'name'"),
    ("a mount without a path", {"initContainers": [{"name": "a", "volumeMounts": [{"name": "a"}]}]}, "missing property 'mountPath'"),
    ("a quantity that is a number", {"containers": [{"name": "a", "resources": {"limits": {"cpu": 1}}}]}, "limits/cpu': got number, want string"),
    ("a size that is a number", {"volumes": [{"name": "a", "emptyDir": {"sizeLimit": 1024}}]}, "sizeLimit': got number, want string"),
    ("a claim, which Akri drops", {"containers": [{"name": "a", "resources": {"claims": []}}]}, "additional properties 'claims'"),
    ("a label that is no text", {"nodeSelector": {"a": True}}, "nodeSelector/a': got boolean, want string"),
    ("a variable that is a number", {"containers": [{"name": "broker", "env": [{"name": "A", "value": 1}]}]}, "got number, want string"),
    ("a toleration that is misspelt", {"tolerations": [{"keys": "a"}]}, "additional properties 'keys' not allowed"),
    ("a pull secret in upper case", {"imagePullSecrets": [{"name": "A"}]}, "'A' does not match pattern"),
    ("nodes by affinity", {"affinity": BY_NODE}, "configurations[0].broker.podSpec.affinity: Akri adds the device's node as one more of the terms"),
]  # fmt: skip


@pytest.mark.parametrize(("own", "said"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_what_akri_would_drop_or_choke_on_is_refused(own, said):
    assert said in refusal(values=configuration(broker={"podSpec": own}))


def test_labels_of_a_broker_that_is_a_pod_are_refused_because_akri_has_no_place_for_them():
    assert "broker.job: this broker is a Pod" in refusal(values=configuration(broker={"job": {"podLabels": {"a": "b"}}}))
    assert "additional properties 'podLabels' not allowed" in refusal(values=configuration(broker={"podLabels": {"a": "b"}}))


def test_the_restart_policy_of_a_job_has_one_place():
    assert "set broker.job.restartPolicy instead" in refusal(values=configuration(broker=JOB | {"podSpec": {"restartPolicy": "Never"}}))


def test_a_label_of_the_grpc_client_that_its_selector_needs_is_refused():
    values = grpc() | {"grpcClient": {"enabled": True, "podLabels": {"app.kubernetes.io/name": "x"}}}
    assert "grpcClient.podLabels: the chart sets the label app.kubernetes.io/name itself" in refusal(values=values)
