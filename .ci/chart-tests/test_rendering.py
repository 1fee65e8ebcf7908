"""What the chart renders is valid for Kubernetes and Akri, safe, and what Akri's walkthrough needs."""

import copy

import pytest
from chart import (
    CHART,
    EXAMPLES,
    HIGHEST_KUBERNETES,
    IN_REGISTRY,
    LOWEST_KUBERNETES,
    VALUES,
    VERSION,
    configuration,
    grpc,
    helm,
    only,
    template,
)
from schemas import made_by_akri, pod_spec, validate, violations

MOCKS = {"mockDevices": {"enabled": True}}
JOB = {"workload": "Job", "image": {"repository": "example.com/reader", "tag": "1"}}
SERVICE = {"ports": [{"name": "api", "port": 80, "targetPort": "api"}]}

# Sets of values. The examples are further sets.
VALUE_SETS = {
    "the defaults": {},
    "nothing at all": {"handler": {"enabled": False}, "configurations": []},
    "mock devices": MOCKS,
    "ninety-nine writable mock devices": {"mockDevices": {"enabled": True, "count": 99, "writable": True}},
    "one mock device": {"mockDevices": {"enabled": True, "count": 1}},
    "pull secrets everywhere": MOCKS | {"imagePullSecrets": [{"name": "crpullsecret"}, {"name": "other.secret"}]},
    "a handler with every key": {
        "handler": {
            "name": "http_2.test-x",
            "shared": False,
            "hostPath": "/srv/akri",
            "standby": True,
            "adminPort": 65534,
            "state": {"enabled": True, "hostPath": "/srv/lists", "maxAge": "8760h"},
            "pollInterval": "24h",
            "pollTimeout": "10m",
            "grace": "0s",
            "maxBodyBytes": 1073741824,
            "logLevel": "akri_http_discovery_handler=debug,info",
            "resources": {"limits": {"memory": "64Mi"}},
            "updateStrategy": {"type": "OnDelete"},
            "terminationGracePeriodSeconds": 30,
            "nodeSelector": {"example.com/edge": "true"},
            "tolerations": [{"operator": "Exists"}],
            "affinity": {
                "nodeAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": {
                        "nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}]
                    }
                }
            },
            "priorityClassName": "system-node-critical",
            "podAnnotations": {"example.com/a": "b"},
            "podLabels": {"example.com/c": "d"},
            "args": ["--extra"],
            "env": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
            "volumes": [{"name": "ca", "configMap": {"name": "ca"}}],
            "volumeMounts": [{"name": "ca", "mountPath": "/etc/ssl/certs", "readOnly": True}],
        }
    },
    "a handler on TCP with an admin port": {"handler": {"network": {"enabled": True}, "adminPort": 10001}},
    "a handler without admin port and saved lists": {"handler": {"adminPort": 0, "state": {"enabled": False}}},
    "a standby without admin port": {"handler": {"standby": True, "adminPort": 0, "state": {"hostPath": ""}}},
    "no broker": configuration(),
    "names that YAML would take for something else": configuration(name="1e3", broker={"kind": "standalone"}),
    "the longest name": configuration(name="a" * 52, broker={"instanceService": SERVICE, "configurationService": SERVICE}),
    "the longest name of a Job": configuration(name="a" * 49, broker=JOB),
    "a name that begins with a digit": configuration(name="3d-printers", broker={"kind": "standalone"}),
    "two Configurations": {
        "configurations": [
            {"name": "a", "discoveryDetails": "http://a/", "broker": {"kind": "standalone"}},
            {"name": "b", "discoveryDetails": {"url": "https://b", "interval": "100ms"}, "capacity": 5},
        ]
    },
    "a Job that is tried once": configuration(broker=JOB | {"job": {"backoffLimit": 0, "parallelism": 2, "completions": 2}}),
    "a broker with requests alone": configuration(broker={"resources": {"requests": {"cpu": "5m"}}}),
    "a broker with every key": configuration(
        brokerProperties={"SITE": "north", "NUMBER": "7", "TRUTH": "true"},
        broker={
            "image": {"repository": "example.com/broker", "tag": "1"},
            "command": ["/broker"],
            "args": ["--listen", "0.0.0.0:80"],
            "env": [{"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
            "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "2", "memory": "1Gi"}},
            "ports": [{"name": "api", "containerPort": 80, "protocol": "TCP"}],
            "adminPort": 9100,
            "probes": True,
            "instanceService": SERVICE,
            "configurationService": SERVICE | {"type": "LoadBalancer"},
            "podSpec": {
                "securityContext": {"fsGroup": 1000},
                "automountServiceAccountToken": True,
                "serviceAccountName": "broker",
                "terminationGracePeriodSeconds": 0,
                "volumes": [{"name": "tmp", "emptyDir": {}}],
                "containers": [{"name": "broker", "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}]}],
            },
        },
    ),
    "a gRPC broker and its client": grpc() | {"grpcClient": {"enabled": True}},
    "a gRPC broker with every key of its own": grpc(
        image={"repository": "example.com/go-broker", "tag": "1"},
        args=["--grpc_endpoint=:50051"],
        env=[{"name": "GRPC_ENDPOINT", "value": "[::]:50051"}, {"name": "MAX_READS", "value": "1"}],
        resources={"limits": {"memory": "64Mi"}},
        ports=[{"name": "grpc", "containerPort": 50051}, {"name": "metrics", "containerPort": 9090}],
        adminPort=65535,
        probes=False,
        instanceService={"enabled": True, "type": "NodePort"},
        configurationService={"enabled": True, "ports": [{"name": "grpc", "port": 80}, {"name": "m", "port": 9, "targetPort": 9090}]},
    ),
    "the longest name of a gRPC broker": configuration(name="a" * 52, broker={"kind": "grpc"}),
    "a gRPC broker without Services may begin with a digit": configuration(
        name="3d", broker={"kind": "grpc", "instanceService": {"enabled": False}, "configurationService": {"enabled": False}}
    ),
    "a gRPC client with every key": {
        "configurations": [
            {"name": "other", "discoveryDetails": "http://a/", "broker": {"kind": "grpc"}},
            {"name": "plain", "discoveryDetails": "http://a/"},
            {"name": "cameras", "discoveryDetails": "http://a/", "broker": {"kind": "grpc"}},
        ],
        "imagePullSecrets": [{"name": "crpullsecret"}],
        "grpcClient": {
            "enabled": True,
            "configuration": "cameras",
            "args": ["--watch", "--min-change=0.5"],
            "env": [{"name": "POLL_INTERVAL", "value": "1s"}, {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
            "resources": {"limits": {"memory": "32Mi", "cpu": "50m"}},
        },
    },
    "text that YAML would take for something else": configuration(
        discoveryDetails="http://user:p%23ss@on:80/?a=b&c={d}#e",
        discoveryProperties=[{"name": "EMPTY", "value": ""}, {"name": "YES", "value": "yes: [\n"}],
        brokerProperties={"COLON": "a: b", "QUOTE": '"', "NULL": "null"},
    ),
}


@pytest.mark.parametrize("version", [LOWEST_KUBERNETES, HIGHEST_KUBERNETES])
@pytest.mark.parametrize("values", VALUE_SETS.values(), ids=VALUE_SETS.keys())
def test_what_is_rendered_is_valid_for_kubernetes_and_akri(values, version):
    for thing in template(values=values):
        validate(thing, version)


def test_a_release_may_have_a_number_for_a_name():
    for thing in template(values=MOCKS, release="7"):
        validate(thing, LOWEST_KUBERNETES)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_each_example_renders_to_valid_objects(example):
    for thing in template("--values", example):
        validate(thing, LOWEST_KUBERNETES)
        validate(thing, HIGHEST_KUBERNETES)


@pytest.mark.parametrize("example", [None, *EXAMPLES], ids=lambda path: path.name if path else "the defaults")
def test_lint_finds_nothing_in_the_chart(example):
    arguments = [] if example is None else ["--values", example]
    run = helm("lint", "--strict", CHART, *arguments)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "[WARNING]" not in run.stdout and "[ERROR]" not in run.stdout


def test_the_chart_can_be_packaged(tmp_path):
    run = helm("package", CHART, "--destination", tmp_path)
    assert run.returncode == 0, run.stderr
    (package,) = tmp_path.iterdir()
    assert package.name == f"akri-http-{VERSION}.tgz"
    assert helm("template", "akri-http", package, "--kube-version", LOWEST_KUBERNETES, *IN_REGISTRY).returncode == 0


def test_the_chart_promises_only_versions_of_kubernetes_that_are_checked():
    assert LOWEST_KUBERNETES == "1.33.0"
    older = helm("template", "akri-http", CHART, "--kube-version", "1.32.9", *IN_REGISTRY)
    assert "chart requires kubeVersion: >=1.33.0-0 which is incompatible with Kubernetes v1.32.9" in older.stderr


@pytest.mark.parametrize("version", ["v1.33.4-gke.1172000", "v1.34.1-eks-3cfe0ce", "v1.33.0-rc.1", "v1.35.0+k3s1"])
def test_the_versions_of_clouds_are_not_too_old(version):
    assert template("--kube-version", version)


@pytest.mark.parametrize("values", VALUE_SETS.values(), ids=VALUE_SETS.keys())
def test_only_the_handler_and_a_broker_of_ones_own_break_the_restricted_level(values):
    for thing in template(values=values):
        spec = pod_spec(thing)
        own = "example.com/broker" in str(spec)
        if spec and thing["kind"] != "DaemonSet" and not own:
            assert violations(spec) == [], thing["metadata"]["name"]
            # Only `helm test` asks the Kubernetes API.
            assert spec["automountServiceAccountToken"] is (thing["kind"] == "Pod")
            assert all(c["securityContext"]["readOnlyRootFilesystem"] for c in spec["containers"])


def test_the_restricted_check_sees_what_the_handler_needs():
    handler = pod_spec(only(template(), "DaemonSet"))
    assert sorted(violations(handler)) == [
        "discovery-handler: runAsNonRoot",
        "discovery-handler: runAsUser",
        "volume hostPath",
        "volume hostPath",
    ]


def test_the_handler_is_root_without_any_right():
    spec = pod_spec(only(template(), "DaemonSet"))
    (container,) = spec["containers"]
    assert container["securityContext"] == {
        "runAsUser": 0,
        "runAsGroup": 0,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert spec["securityContext"] == {"seccompProfile": {"type": "RuntimeDefault"}}
    assert spec["automountServiceAccountToken"] is False
    assert container["resources"] == {
        "requests": {"memory": "11Mi", "cpu": "10m"},
        "limits": {"memory": "24Mi", "cpu": "24m"},
    }


def test_the_handler_uses_the_agents_path_whatever_the_path_on_the_node():
    spec = pod_spec(only(template(values={"handler": {"hostPath": "/srv/akri"}}), "DaemonSet"))
    (container,) = spec["containers"]
    assert spec["volumes"][0]["hostPath"]["path"] == "/srv/akri"
    assert container["volumeMounts"][0] == {"name": "discovery-handlers", "mountPath": "/var/lib/akri", "readOnly": False}
    assert environment(container)["DISCOVERY_HANDLERS_DIRECTORY"] == "/var/lib/akri"
    assert "POD_IP" not in environment(container)


def test_over_the_network_the_directory_is_read_only_and_the_port_is_open():
    spec = pod_spec(only(template("--set", "handler.network.enabled=true"), "DaemonSet"))
    (container,) = spec["containers"]
    assert container["volumeMounts"][0]["readOnly"] is True
    assert environment(container)["POD_IP"] == {"fieldRef": {"fieldPath": "status.podIP"}}
    assert container["ports"] == [port("discovery", 10000), port("admin", 8081)]
    assert admin_of(container) == "admin"


def test_a_standby_is_the_same_handler_once_more_on_the_next_admin_port():
    one, other = handlers(standby=True)
    assert (one.pop("name"), other.pop("name")) == ("discovery-handler", "standby")
    assert (admin_of(one), admin_of(other)) == ("admin", "admin-standby")
    assert (one["ports"], other["ports"]) == ([port("admin", 8081)], [port("admin-standby", 8082)])
    assert (environment(one)["ADMIN_ADDRESS"], environment(other)["ADMIN_ADDRESS"]) == (":8081", ":8082")
    for container in (one, other):
        container["env"] = [variable for variable in container["env"] if variable["name"] != "ADMIN_ADDRESS"]
        del container["ports"], container["startupProbe"], container["readinessProbe"], container["livenessProbe"]
    assert one == other


def test_an_update_waits_until_the_new_handler_is_ready_and_without_probes_for_20_s():
    for network in (True, False):
        spec = only(template(values={"handler": {"network": {"enabled": network}}}), "DaemonSet")["spec"]
        assert spec["updateStrategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
        assert "minReadySeconds" not in spec
        (container,) = spec["template"]["spec"]["containers"]
        assert admin_of(container) == "admin"
        assert container["readinessProbe"]["periodSeconds"] == 2
        assert "successThreshold" not in container["readinessProbe"]
        assert "initialDelaySeconds" not in str(container)
    spec = only(template(values={"handler": {"adminPort": 0}}), "DaemonSet")["spec"]
    assert spec["minReadySeconds"] == 20


def test_a_handler_has_two_minutes_to_start_and_to_answer_and_one_to_become_ready_again():
    (container,) = handlers()
    assert patience(container) == {"startupProbe": 120, "readinessProbe": 60, "livenessProbe": 120}


def test_the_admin_port_can_be_another_one():
    one, other = handlers(standby=True, adminPort=9000)
    assert [environment(container)["ADMIN_ADDRESS"] for container in (one, other)] == [":9000", ":9001"]
    assert [container["ports"] for container in (one, other)] == [[port("admin", 9000)], [port("admin-standby", 9001)]]


@pytest.mark.parametrize("off", [0, None])
@pytest.mark.parametrize("more", [{}, {"standby": True}, {"network": {"enabled": True}}], ids=str)
def test_without_an_admin_port_the_handler_has_no_probe(more, off):
    for container in handlers(adminPort=off, **more):
        assert "robe" not in str(container)
        assert "ADMIN_ADDRESS" not in environment(container)
        assert container.get("ports", []) == ([port("discovery", 10000)] if "network" in more else [])


def test_without_an_admin_port_one_can_set_an_address_of_ones_own():
    variables = [{"name": "ADMIN_ADDRESS", "value": "[::]:8081"}]
    for (container,) in (handlers(adminPort=0, env=variables), brokers(adminPort=0, env=variables)):
        assert environment(container)["ADMIN_ADDRESS"] == "[::]:8081"
        assert "robe" not in str(container)


@pytest.mark.parametrize(
    ("state", "volume"),
    [
        ({}, {"hostPath": {"path": "/var/lib/akri-http", "type": "DirectoryOrCreate"}}),
        ({"hostPath": "/srv/lists"}, {"hostPath": {"path": "/srv/lists", "type": "DirectoryOrCreate"}}),
        ({"hostPath": ""}, {"emptyDir": {}}),
    ],
)
def test_lists_are_saved_beside_the_sockets_whatever_the_volume(state, volume):
    for more in ({"standby": True}, {"network": {"enabled": True}}):
        spec = pod_spec(only(template(values={"handler": {"state": state} | more}), "DaemonSet"))
        assert spec["volumes"][1] == {"name": "state"} | volume
        for container in spec["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert container["volumeMounts"][1:] == [{"name": "state", "mountPath": "/var/lib/akri-http"}]
            assert environment(container)["STATE_DIRECTORY"] == "/var/lib/akri-http"


def test_nothing_is_saved_where_that_is_off():
    spec = pod_spec(only(template(values={"handler": {"state": {"enabled": False}}}), "DaemonSet"))
    (container,) = spec["containers"]
    assert len(spec["volumes"]) == len(container["volumeMounts"]) == 1
    assert "STATE" not in str(container)


def test_the_age_of_saved_lists_reaches_the_handler():
    (container,) = handlers(state={"maxAge": "1h"})
    assert environment(container)["STATE_MAX_AGE"] == "1h"


def test_large_numbers_reach_the_handler_as_whole_numbers():
    (container,) = pod_spec(only(template(), "DaemonSet"))["containers"]
    assert environment(container) == {
        "DISCOVERY_HANDLERS_DIRECTORY": "/var/lib/akri",
        "DISCOVERY_HANDLER_NAME": "http",
        "SHARED": "true",
        "POLL_INTERVAL": "10s",
        "POLL_TIMEOUT": "5s",
        "GRACE": "1m",
        "MAX_BODY_BYTES": "4194304",
        "STATE_DIRECTORY": "/var/lib/akri-http",
        "STATE_MAX_AGE": "24h",
        "ADMIN_ADDRESS": ":8081",
        "RUST_LOG": "info",
    }


def test_a_new_chart_version_alone_restarts_no_pod():
    for thing in template(values=MOCKS | grpc() | {"grpcClient": {"enabled": True}}):
        if thing["kind"] in ("DaemonSet", "Deployment"):
            labels = thing["spec"]["template"]["metadata"]["labels"]
            assert labels == thing["spec"]["selector"]["matchLabels"]


def test_the_default_configuration_is_the_walkthroughs():
    spec = only(template(), "Configuration", "akri-http")["spec"]
    assert spec["discoveryHandler"] == {"name": "http", "discoveryDetails": "http://discovery:9999/discovery"}
    assert spec["capacity"] == 1
    (broker,) = spec["brokerSpec"]["brokerPodSpec"]["containers"]
    assert broker["image"] == f"registry.example.com/me/http-broker:{VERSION}"
    assert broker["resources"]["requests"]["{{PLACEHOLDER}}"] == "1"
    assert broker["resources"]["limits"]["{{PLACEHOLDER}}"] == "1"


def test_what_values_yaml_shows_is_what_holds_where_a_key_is_left_out():
    short = copy.deepcopy(VALUES["configurations"][0])
    short = {key: short[key] for key in ("name", "discoveryDetails")} | {"broker": {"kind": "standalone"}}
    assert template(values={"configurations": [short]}) == template()


def test_akri_reads_quantities_as_strings():
    (container,) = pod_spec(only(template(values=VALUE_SETS["a broker with every key"]), "Configuration"))["containers"]
    for part in container["resources"].values():
        assert all(isinstance(quantity, str) for quantity in part.values())


def test_details_given_as_a_mapping_become_yaml_text():
    details = {"url": "https://devices/", "interval": "30s", "timeout": "1s"}
    spec = only(template(values=configuration(discoveryDetails=details)), "Configuration")["spec"]
    text = spec["discoveryHandler"]["discoveryDetails"]
    assert text == "interval: 30s\ntimeout: 1s\nurl: https://devices/"


def test_the_agent_may_read_just_the_objects_that_properties_name():
    objects = [o for o in template("--namespace", "edge", "--values", "helm/examples/details-and-properties.yaml") if of_agent(o)]
    roles = {role["metadata"]["name"]: role for role in objects if role["kind"] == "Role"}
    bindings = {binding["metadata"]["name"]: binding for binding in objects if binding["kind"] == "RoleBinding"}
    assert {(r["metadata"]["namespace"], str(r["rules"])) for r in roles.values()} == {
        (namespace, str([{"apiGroups": [""], "resources": [kind], "resourceNames": [name], "verbs": ["get"]}]))
        for namespace, kind, name in (("edge", "secrets", "discovery-token"), ("facility", "configmaps", "site"))
    }
    assert bindings.keys() == roles.keys()
    for name, binding in bindings.items():
        assert binding["roleRef"]["name"] == name
        assert binding["metadata"]["namespace"] == roles[name]["metadata"]["namespace"]
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "akri-agent-sa", "namespace": "akri"}]


def test_a_reference_without_a_namespace_gets_the_releases_and_not_default():
    objects = template("--namespace", "edge", "--values", "helm/examples/details-and-properties.yaml")
    properties = only(objects, "Configuration", "floor-1")["spec"]["discoveryHandler"]["discoveryProperties"]
    references = [next(iter(p["valueFrom"].values())) for p in properties if "valueFrom" in p]
    assert [reference["namespace"] for reference in references] == ["edge", "facility"]


def test_without_references_the_agent_gets_no_right():
    assert not [thing for thing in template() if of_agent(thing) or thing["kind"].startswith("ClusterRole")]


def test_a_grpc_broker_serves_on_50051_behind_both_services():
    spec = only(template(values=grpc()), "Configuration")["spec"]
    (container,) = spec["brokerSpec"]["brokerPodSpec"]["containers"]
    assert container["image"] == f"registry.example.com/me/http-grpc-broker:{VERSION}"
    assert container["ports"] == [port("grpc", 50051), port("admin", 8081)]
    assert environment(container) == {"ADMIN_ADDRESS": ":8081"}
    ports = [{"name": "grpc", "port": 50051, "targetPort": 50051, "protocol": "TCP"}]
    assert spec["instanceServiceSpec"] == spec["configurationServiceSpec"] == {"type": "ClusterIP", "ports": ports}
    assert container["resources"] == {
        "requests": {"{{PLACEHOLDER}}": "1", "memory": "16Mi", "cpu": "10m"},
        "limits": {"{{PLACEHOLDER}}": "1", "memory": "128Mi", "cpu": "200m"},
    }


def test_a_grpc_broker_has_a_minute_to_start_and_is_restarted_after_two_minutes_without_an_answer():
    (container,) = pod_spec(only(template(values=grpc()), "Configuration"))["containers"]
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[name]["grpc"] == {"port": 50051, "service": "http.DeviceService"}
    assert patience(container) == {"startupProbe": 60, "readinessProbe": 30, "livenessProbe": 120}


def test_probes_and_services_of_a_grpc_broker_can_be_switched_off():
    off = {"enabled": False}
    values = grpc(probes=False, instanceService=off, configurationService=off)
    spec = only(template(values=values), "Configuration")["spec"]
    assert "Probe" not in str(spec)
    assert not spec.keys() & {"instanceServiceSpec", "configurationServiceSpec"}


def test_a_service_of_another_port_or_type_still_leads_to_the_grpc_broker():
    values = grpc(instanceService={"type": "NodePort"}, configurationService={"ports": [{"name": "grpc", "port": 80}]})
    spec = only(template(values=values), "Configuration")["spec"]
    assert spec["instanceServiceSpec"]["type"] == "NodePort"
    assert [(p["port"], p["targetPort"]) for p in spec["instanceServiceSpec"]["ports"]] == [(50051, 50051)]
    assert [(p["port"], p["targetPort"]) for p in spec["configurationServiceSpec"]["ports"]] == [(80, 50051)]


def test_a_standalone_broker_has_an_admin_port_with_probes_and_no_service():
    spec = only(template(), "Configuration")["spec"]
    assert not spec.keys() & {"instanceServiceSpec", "configurationServiceSpec"}
    (container,) = spec["brokerSpec"]["brokerPodSpec"]["containers"]
    assert container["ports"] == [port("admin", 8081)]
    assert environment(container) == {"ADMIN_ADDRESS": ":8081"}
    assert admin_of(container) == "admin"
    assert patience(container) == {"startupProbe": 120, "readinessProbe": 60, "livenessProbe": 120}


def test_the_admin_port_comes_on_top_of_a_brokers_ports_and_variables():
    (container,) = brokers(adminPort=9000, env=[{"name": "POLL_INTERVAL", "value": "1s"}], ports=[port("api", 80)])
    assert container["ports"] == [port("api", 80), port("admin", 9000)]
    assert environment(container) == {"ADMIN_ADDRESS": ":9000", "POLL_INTERVAL": "1s"}
    assert admin_of(container) == "admin"


@pytest.mark.parametrize("kind", ["standalone", "grpc"])
def test_an_admin_port_of_a_broker_can_be_switched_off(kind):
    (container,) = brokers(kind=kind, adminPort=0)
    assert "admin" not in str(container).lower()
    assert ("readinessProbe" in container) == (kind == "grpc")


def test_probes_of_a_standalone_broker_can_be_switched_off_without_its_metrics():
    (container,) = brokers(probes=False)
    assert "robe" not in str(container)
    assert container["ports"] == [port("admin", 8081)]


@pytest.mark.parametrize("kind", ["standalone", "grpc"])
def test_an_image_of_ones_own_has_an_admin_port_only_where_it_is_asked_for(kind):
    own = {"kind": kind, "image": {"repository": "example.com/broker", "tag": "1"}}
    assert "admin" not in str(brokers(**own)).lower()
    (container,) = brokers(**own, adminPort=9000)
    assert container["ports"][-1] == port("admin", 9000)
    assert ("httpGet" in container["livenessProbe"]) == (kind == "standalone")


def test_a_service_of_a_broker_of_ones_own_can_be_switched_off_without_losing_its_ports():
    broker = {"instanceService": SERVICE | {"enabled": False}, "configurationService": SERVICE | {"enabled": True}}
    spec = only(template(values=configuration(broker=broker)), "Configuration")["spec"]
    assert "instanceServiceSpec" not in spec
    assert spec["configurationServiceSpec"]["ports"][0]["port"] == 80


def test_there_is_a_grpc_client_only_where_it_is_asked_for():
    assert "grpc-client" not in str(template(values=grpc()))


@pytest.mark.parametrize(
    ("broker", "address"),
    [({}, "cameras-svc:50051"), ({"configurationService": {"ports": [{"name": "grpc", "port": 80}]}}, "cameras-svc:80")],
)
def test_the_grpc_client_talks_to_the_service_that_akri_makes(broker, address):
    objects = template(values=grpc(**broker) | {"grpcClient": {"enabled": True}})
    made = {o["metadata"]["name"]: o["spec"]["ports"][0]["port"] for o in made_by_akri(only(objects, "Configuration")) if o["kind"] == "Service"}
    name, port = address.split(":")
    assert made[name] == int(port)
    (container,) = pod_spec(only(objects, "Deployment", "akri-http-grpc-client"))["containers"]
    assert container["image"] == f"registry.example.com/me/http-grpc-client:{VERSION}"
    assert environment(container) == {"GRPC_ENDPOINT": address}
    assert "args" not in container


def test_the_grpc_client_reads_the_configuration_that_is_named():
    (container,) = pod_spec(only(template(values=VALUE_SETS["a gRPC client with every key"]), "Deployment"))["containers"]
    assert environment(container)["GRPC_ENDPOINT"] == "cameras-svc:50051"
    assert environment(container)["POLL_INTERVAL"] == "1s"
    assert container["args"] == ["--watch", "--min-change=0.5"]


def test_without_a_name_the_grpc_client_reads_the_first_grpc_configuration():
    values = {
        "configurations": [
            {"name": "plain", "discoveryDetails": "http://a/"},
            {"name": "logged", "discoveryDetails": "http://a/", "broker": {"kind": "standalone"}},
            {"name": "served", "discoveryDetails": "http://a/", "broker": {"kind": "grpc"}},
            {"name": "later", "discoveryDetails": "http://a/", "broker": {"kind": "grpc"}},
        ],
        "grpcClient": {"enabled": True},
    }
    (container,) = pod_spec(only(template(values=values), "Deployment"))["containers"]
    assert environment(container)["GRPC_ENDPOINT"] == "served-svc:50051"


def test_the_mock_devices_answer_at_the_addresses_of_the_walkthrough():
    objects = template(values=MOCKS)
    (container,) = pod_spec(only(objects, "Deployment", "device"))["containers"]
    addresses = {argument.removeprefix("--device=") for argument in container["args"]} - {"--path=/"}
    assert addresses == {f"http://device-{number}:8080" for number in range(1, 10)}
    pod_labels = only(objects, "Deployment")["spec"]["template"]["metadata"]["labels"]
    ports = {}
    for service in (thing for thing in objects if thing["kind"] == "Service"):
        assert service["spec"]["selector"].items() <= pod_labels.items()
        ports[service["metadata"]["name"]] = {(port["port"], port["targetPort"]) for port in service["spec"]["ports"]}
    assert ports == {f"device-{number}": {(8080, "http")} for number in range(1, 10)} | {
        "discovery": {(9999, "http"), (8080, "http")}
    }


def test_every_pod_pulls_with_the_secrets_that_are_given():
    for thing in template(values=VALUE_SETS["pull secrets everywhere"]):
        if spec := pod_spec(thing):
            assert spec["imagePullSecrets"] == [{"name": "crpullsecret"}, {"name": "other.secret"}]


def test_the_crds_are_not_in_the_chart():
    assert not (CHART / "crds").exists()
    assert "CustomResourceDefinition" not in str(template("--include-crds", values=MOCKS))


def of_agent(thing):
    """Whether this is a right of the Agent."""
    return thing["metadata"]["labels"]["app.kubernetes.io/component"] == "agent-rbac"


def port(name, number):
    return {"name": name, "containerPort": number, "protocol": "TCP"}


def handlers(**keys):
    """The handler's containers with these values."""
    return pod_spec(only(template(values={"handler": keys}), "DaemonSet"))["containers"]


def brokers(**keys):
    """The containers of a broker with these keys."""
    return pod_spec(only(template(values=configuration(broker={"kind": "standalone"} | keys)), "Configuration"))["containers"]


def admin_of(container):
    """The name of the port that all probes ask; each asks for its own path."""
    paths = {"startupProbe": "/livez", "readinessProbe": "/readyz", "livenessProbe": "/livez"}
    asked = {name: container[name]["httpGet"] for name in paths}
    assert {name: get["path"] for name, get in asked.items()} == paths
    (name,) = {get["port"] for get in asked.values()}
    assert name in [port["name"] for port in container["ports"]]
    return name


def patience(container):
    """How long each probe may fail, in seconds. None needs an answer sooner than in 5 s."""
    probes = {name: container[name] for name in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert {probe["timeoutSeconds"] for probe in probes.values()} == {5}
    return {name: probe["periodSeconds"] * probe["failureThreshold"] for name, probe in probes.items()}


def environment(container):
    return {variable["name"]: variable.get("value", variable.get("valueFrom")) for variable in container["env"]}
