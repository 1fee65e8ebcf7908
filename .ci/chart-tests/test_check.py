"""`helm test`: for each Configuration a Pod that polls as the handler does, and waits for the Instances."""

import pytest
import yaml
from chart import EXAMPLES, HIGHEST_KUBERNETES, IN_REGISTRY, LOWEST_KUBERNETES, configuration, helm, only, template
from schemas import pod_spec, validate, violations
from test_cluster import notes

HOOK = "helm.sh/hook"


def hooks(values=None, *arguments):
    """The objects of `helm test`, which are valid in every version of Kubernetes."""
    objects = [o for o in template(*arguments, values=values) if o["metadata"].get("annotations", {}).get(HOOK) == "test"]
    for thing in objects:
        validate(thing, LOWEST_KUBERNETES)
        validate(thing, HIGHEST_KUBERNETES)
    return objects


def check(values, name="akri-http-test-cameras"):
    """The Pod that checks one Configuration, and its arguments behind `check`."""
    spec = only(hooks(values), "Pod", name)["spec"]
    (container,) = spec["containers"]
    return spec, container["args"][container["args"].index("check") + 1 :]


def properties(*entries):
    return configuration(discoveryProperties=list(entries))


def secret(name, key="token", **more):
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": "inventory", "key": key} | more}}


def test_each_configuration_is_checked_with_its_own_name_and_details():
    values = {
        "configurations": [
            {"name": "cameras", "discoveryDetails": "http://a/?x=$(HOME)"},
            {"name": "boilers", "discoveryDetails": {"url": "https://b/", "format": "devices", "include": {"id": "^a$"}}},
        ]
    }
    _, arguments = check(values)
    # Kubernetes makes one of two dollars, and would expand $(HOME).
    assert arguments == ["http://a/?x=$$(HOME)", "--name=cameras", "--instances-within=60s"]
    _, arguments = check(values, "akri-http-test-boilers")
    assert yaml.safe_load(arguments[0].replace("$$", "$")) == values["configurations"][1]["discoveryDetails"]
    assert arguments[1:] == ["--name=boilers", "--instances-within=60s"]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_each_example_checks_what_akri_gets(example):
    objects = template("--values", example, "--namespace=facility")
    for thing in [o for o in objects if o["kind"] == "Configuration"]:
        (container,) = only(objects, "Pod", f"akri-http-test-{thing['metadata']['name']}")["spec"]["containers"]
        details = container["args"][container["args"].index("check") + 1]
        assert details.replace("$$", "$") == thing["spec"]["discoveryHandler"]["discoveryDetails"]


def test_properties_come_as_files_from_secrets_and_configmaps_and_else_as_arguments():
    spec, arguments = check(
        properties(
            secret("HTTP_BEARER_TOKEN"),
            secret("HTTP_CLIENT_KEY", "tls.key", optional=True, namespace="default"),
            {"name": "HTTP_CA_CERT", "valueFrom": {"configMapKeyRef": {"name": "ca", "key": "ca.crt"}}},
            {"name": "HTTP_HEADERS", "value": "X-Price: $5\nX-Floor: 1"},
        )
    )
    folder = "/discovery-properties"
    assert arguments[-2:] == [f"--properties-dir={folder}", "--property=HTTP_HEADERS=X-Price: $$5\nX-Floor: 1"]
    assert spec["containers"][0]["volumeMounts"] == [{"name": "discovery-properties", "mountPath": folder, "readOnly": True}]
    (volume,) = spec["volumes"]

    def source(kind, name, key, path, optional):
        return {kind: {"name": name, "items": [{"key": key, "path": path}], "optional": optional}}

    assert volume["projected"]["sources"] == [
        source("secret", "inventory", "token", "HTTP_BEARER_TOKEN", False),
        source("secret", "inventory", "tls.key", "HTTP_CLIENT_KEY", True),
        source("configMap", "ca", "ca.crt", "HTTP_CA_CERT", False),
    ]


def test_a_configuration_whose_secret_is_in_another_namespace_is_left_out_and_that_is_said(tmp_path):
    values = properties(secret("HTTP_BEARER_TOKEN"), secret("HTTP_CA_CERT", namespace="vault"))
    values["configurations"].append({"name": "boilers", "discoveryDetails": "http://b/"})
    assert [o["metadata"]["name"] for o in hooks(values) if o["kind"] == "Pod"] == ["akri-http-test-boilers"]
    said = helm("template", "akri-http", "helm/akri-http", "--show-only=templates/tests/check.yaml", *IN_REGISTRY, values=values).stdout
    assert "# cameras is not checked: what HTTP_CA_CERT refers to is in another namespace" in said
    text = notes(tmp_path, values=values)
    assert "This leaves out cameras, because its property HTTP_CA_CERT is in another namespace." in text
    assert "leaves out boilers" not in text


def test_the_check_has_the_settings_the_credentials_and_the_nodes_of_the_handler():
    handler = {
        "args": ["--poll-timeout=20s"],
        "shared": False,
        "pollTimeout": "10s",
        "credentials": {"secretName": "edge", "keys": ["ca.crt"]},
        "env": [{"name": "SSL_CERT_FILE", "value": "/ca/ca.crt"}],
        "volumes": [{"name": "ca", "configMap": {"name": "ca"}}],
        "volumeMounts": [{"name": "ca", "mountPath": "/ca"}],
        "nodeSelector": {"example.com/edge": "true"},
        "tolerations": [{"operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
    }
    objects = template(values=configuration() | {"handler": handler})
    daemon, test = pod_spec(only(objects, "DaemonSet")), only(objects, "Pod")["spec"]
    (ours,), (theirs,) = test["containers"], daemon["containers"]
    assert (ours["image"], ours["env"]) == (theirs["image"], theirs["env"])
    assert ours["args"][: len(theirs["args"]) + 1] == [*theirs["args"], "check"]
    assert ours["volumeMounts"] == theirs["volumeMounts"][2:]
    assert test["volumes"] == daemon["volumes"][2:]
    for key in ("nodeSelector", "tolerations", "affinity"):
        assert test[key] == daemon[key]


def test_the_check_is_in_the_nodes_network_where_the_handler_is():
    handler = {"hostNetwork": True, "updateStrategy": {"type": "OnDelete"}}
    objects = template(values=configuration() | {"handler": handler})
    test, daemon = only(objects, "Pod")["spec"], pod_spec(only(objects, "DaemonSet"))
    assert test["hostNetwork"] is True
    assert test["dnsPolicy"] == daemon["dnsPolicy"] == "ClusterFirstWithHostNet"
    spec, _ = check(configuration())
    assert "hostNetwork" not in spec and "dnsPolicy" not in spec


def test_the_check_needs_no_root_and_ends():
    spec, _ = check(properties(secret("HTTP_BEARER_TOKEN")) | {"handler": {"credentials": {"secretName": "a", "keys": ["token"]}}})
    assert violations(spec) == []
    assert spec["restartPolicy"] == "Never" and spec["activeDeadlineSeconds"] == 900
    assert spec["containers"][0]["resources"]["limits"].keys() == {"cpu", "memory"}


def test_the_checks_may_read_instances_and_nothing_else_and_only_while_they_run():
    objects = hooks()
    account, role, binding = (only(objects, kind, "akri-http-test") for kind in ("ServiceAccount", "Role", "RoleBinding"))
    assert role["rules"] == [{"apiGroups": ["akri.sh"], "resources": ["instances"], "verbs": ["get", "list"]}]
    assert binding["roleRef"]["name"] == "akri-http-test"
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "akri-http-test", "namespace": "default"}]
    for thing in (account, role, binding):
        assert thing["metadata"]["annotations"] == {
            HOOK: "test",
            "helm.sh/hook-weight": "-1",
            "helm.sh/hook-delete-policy": "before-hook-creation,hook-succeeded",
        }
    pod = only(objects, "Pod")
    assert "helm.sh/hook-weight" not in pod["metadata"]["annotations"]
    assert pod["spec"]["serviceAccountName"] == "akri-http-test"
    assert pod["spec"]["automountServiceAccountToken"] is True


@pytest.mark.parametrize("values", [{"handler": {"enabled": False}}, {"handler": {"check": False}}, {"configurations": []}], ids=str)
def test_without_a_handler_of_ours_or_a_configuration_there_is_nothing_to_check(values, tmp_path):
    assert hooks(values) == []
    assert "helm test" not in notes(tmp_path, values=values)


def test_details_for_a_handler_of_another_protocol_are_any_text():
    for details in ("", "/dev/serial/by-id", "bus: 1\nspeed: 9600"):
        (thing,) = [o for o in template(values={"handler": {"check": False}} | configuration(discoveryDetails=details)) if o["kind"] == "Configuration"]
        assert thing["spec"]["discoveryHandler"]["discoveryDetails"] == details


def test_the_longest_names_are_short_enough():
    for thing in template(values=configuration(name="a" * 52), release="r" * 53):
        validate(thing, LOWEST_KUBERNETES)
