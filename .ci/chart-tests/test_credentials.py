"""Files of credentials from a Secret, for the handler and for brokers."""

import re

import pytest
from chart import HIGHEST_KUBERNETES, LOWEST_KUBERNETES, ROOT, configuration, grpc, only, refusal, template
from schemas import pod_spec, validate, violations

ALL = {"secretName": "edge", "keys": ["token", "ca.crt", "tls.crt", "tls.key"]}
FOLDER = "/etc/akri-http/credentials"
MOUNT = {"name": "akri-http-credentials", "mountPath": FOLDER, "readOnly": True}
FILES = {
    "BEARER_TOKEN_FILE": f"{FOLDER}/token",
    "CA_FILE": f"{FOLDER}/ca.crt",
    "CLIENT_CERT_FILE": f"{FOLDER}/tls.crt",
    "CLIENT_KEY_FILE": f"{FOLDER}/tls.key",
}


def handler(**keys):
    return {"handler": keys}


def broker(**keys):
    return configuration(broker={"kind": "standalone"} | keys)


WHERE = {
    "the handler": (handler, "DaemonSet", "handler"),
    "a standalone broker": (broker, "Configuration", "configurations[0].broker"),
    "a gRPC broker": (grpc, "Configuration", "configurations[0].broker"),
}
everywhere = pytest.mark.parametrize(("values", "kind", "at"), WHERE.values(), ids=WHERE.keys())


def pod(values, kind):
    """The Pod spec of the only object of this kind, which is valid in every version of Kubernetes."""
    thing = only(template(values=values), kind)
    validate(thing, LOWEST_KUBERNETES)
    validate(thing, HIGHEST_KUBERNETES)
    return pod_spec(thing)


def files(container):
    return {v["name"]: v["value"] for v in container.get("env", []) if v["name"].endswith("_FILE")}


@everywhere
def test_a_secret_is_mounted_as_a_whole_folder_so_that_it_can_be_rotated(values, kind, at):
    spec = pod(values(credentials=ALL), kind)
    (container,) = spec["containers"]
    assert MOUNT in container["volumeMounts"]
    assert "subPath" not in str(spec)
    assert files(container) == FILES
    (volume,) = [volume for volume in spec["volumes"] if volume["name"] == MOUNT["name"]]
    items = [{"key": key, "path": key} for key in ALL["keys"]]
    assert volume["secret"] == {"secretName": "edge", "items": items}


@everywhere
def test_only_the_keys_that_are_named_are_used(values, kind, at):
    spec = pod(values(credentials={"secretName": "edge", "keys": ["ca.crt"]}), kind)
    assert files(spec["containers"][0]) == {"CA_FILE": f"{FOLDER}/ca.crt"}
    assert spec["volumes"][-1]["secret"]["items"] == [{"key": "ca.crt", "path": "ca.crt"}]


@everywhere
def test_without_credentials_nothing_is_mounted(values, kind, at):
    assert "credentials" not in str(pod(values(), kind)) + str(pod(values(credentials={"secretName": "", "keys": []}), kind))


@everywhere
def test_credentials_stand_beside_other_volumes_and_variables(values, kind, at):
    own = {"name": "tmp", "mountPath": "/tmp"}
    more = {"volumes": [{"name": "tmp", "emptyDir": {}}], "volumeMounts": [own]}
    if kind == "Configuration":
        more = {"podSpec": {"volumes": more["volumes"], "containers": [{"name": "broker", "volumeMounts": [own]}]}}
    more["env"] = [{"name": "OWN", "value": "1"}]
    spec = pod(values(credentials=ALL, **more), kind)
    (container,) = spec["containers"]
    assert container["volumeMounts"][-2:] == [MOUNT, own]
    assert [volume["name"] for volume in spec["volumes"]][-2:] == [MOUNT["name"], "tmp"]
    assert container["env"][-1] == {"name": "OWN", "value": "1"}


def test_a_standby_has_the_credentials_of_the_handler():
    for container in pod(handler(standby=True, credentials=ALL), "DaemonSet")["containers"]:
        assert files(container) == FILES and MOUNT in container["volumeMounts"]


def test_credentials_leave_a_broker_restricted():
    assert violations(pod(broker(credentials=ALL), "Configuration")) == []


REFUSED = {
    "a Secret without keys": ({"secretName": "edge"}, "credentials.keys: it is empty; name the keys of the Secret \"edge\""),
    "keys without a Secret": ({"keys": ["token"]}, "credentials.secretName: it is empty; name the Secret that has the keys"),
    "a certificate without its key": ({"secretName": "edge", "keys": ["tls.crt"]}, "credentials.keys: a client certificate needs both"),
    "a key without its certificate": ({"secretName": "edge", "keys": ["tls.key"]}, "credentials.keys: a client certificate needs both"),
}  # fmt: skip


@everywhere
@pytest.mark.parametrize(("credentials", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_half_of_what_is_needed_is_refused(values, kind, at, credentials, message):
    assert f"{at}.{message}" in refusal(values=values(credentials=credentials))


@everywhere
def test_a_file_that_is_set_twice_is_refused(values, kind, at):
    twice = values(credentials=ALL, env=[{"name": "CA_FILE", "value": "/ca.pem"}])
    assert f"{at}.env: the chart sets CA_FILE itself, because credentials.keys has ca.crt" in refusal(values=twice)


@everywhere
@pytest.mark.parametrize(
    ("credentials", "message"),
    [
        ({"secretName": "edge", "keys": ["password"]}, "value must be one of 'token', 'ca.crt', 'tls.crt', 'tls.key'"),
        ({"secretName": "edge", "keys": ["token", "token"]}, "items at 0 and 1 are equal"),
        ({"secret": "edge"}, "additional properties 'secret' not allowed"),
        ("edge", "got string, want object"),
    ],
    ids=["an unknown key", "a key twice", "an unknown value", "a word"],
)
def test_the_schema_knows_the_keys(values, kind, at, credentials, message):
    assert message in refusal(values=values(credentials=credentials))


def test_the_variables_are_those_that_the_binaries_read():
    tables = (ROOT / "docs/settings.md").read_text()
    assert set(re.findall(r"^\| `--[a-z-]+-file` \| `(\w+)`", tables, re.M)) == FILES.keys()
