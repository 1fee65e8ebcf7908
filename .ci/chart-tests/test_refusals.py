"""Values that the chart refuses, and its errors."""

import pytest
from chart import configuration, grpc, refusal, template

JOB = {"workload": "Job", "image": {"repository": "example.com/reader", "tag": "1"}}
PORTS = {"ports": [{"name": "api", "port": 80}]}
OFF = {"enabled": False}


def handler(**keys):
    return {"handler": keys}


def client(values=None, **keys):
    return (grpc() if values is None else values) | {"grpcClient": {"enabled": True} | keys}


def prop(**keys):
    return configuration(discoveryProperties=[{"name": "TOKEN"} | keys])


# What is wrong, the values, and what the error must contain.
REFUSED = [
    # Unknown keys, at every level.
    ("an unknown key at the top", {"handlers": {}}, "additional properties 'handlers' not allowed"),
    ("an unknown key of the handler", handler(intervall="10s"), "at '/handler': additional properties 'intervall'"),
    ("an unknown image", {"images": {"handler": {}}}, "at '/images': additional properties 'handler'"),
    ("an unknown key of an image", {"images": {"mockDevice": {"name": "x"}}}, "at '/images/mockDevice': additional properties 'name'"),
    ("an unknown key of a Configuration", configuration(details="x"), "at '/configurations/0': additional properties 'details'"),
    ("an unknown key of the details", configuration(discoveryDetails={"url": "http://a", "Interval": "1s"}), "'Interval' not allowed"),
    ("an unknown key of a broker", configuration(broker={"pod": {}}), "at '/configurations/0/broker': additional properties 'pod'"),
    ("an unknown key of a reference", prop(valueFrom={"secretKeyRef": {"name": "a", "key": "b", "keys": "c"}}), "'keys' not allowed"),
    ("an unknown key of the mock devices", {"mockDevices": {"devices": 9}}, "at '/mockDevices': additional properties 'devices'"),
    ("an unknown key of a toleration", handler(tolerations=[{"keys": "a"}]), "additional properties 'keys' not allowed"),
    ("an unknown key of a Service", grpc(instanceService={"port": 80}), "at '/configurations/0/broker/instanceService': additional properties 'port'"),
    ("an unknown key of the gRPC client", {"grpcClient": {"endpoint": "a:1"}}, "at '/grpcClient': additional properties 'endpoint'"),
    # Types, ranges and choices.
    ("a Configuration without a name", {"configurations": [{"discoveryDetails": "http://a"}]}, "missing property 'name'"),
    ("a Configuration without details", {"configurations": [{"name": "a"}]}, "missing property 'discoveryDetails'"),
    ("details without a url", configuration(discoveryDetails={"interval": "1s"}), "missing property 'url'"),
    ("a capacity of nought", configuration(capacity=0), "at '/configurations/0/capacity': minimum: got 0, want 1"),
    ("a capacity in words", configuration(capacity="one"), "got string, want integer"),
    ("an unknown kind of broker", configuration(broker={"kind": "gRPC"}), "at '/configurations/0/broker/kind': value must be one of 'standalone', 'grpc'"),
    ("an unknown workload", configuration(broker={"workload": "CronJob"}), "value must be one of 'Pod', 'Job'"),
    ("an image without a tag", configuration(broker={"image": {"repository": "nginx"}}), "properties 'tag' required, if 'repository' exists"),
    ("a quantity that is a number", configuration(broker={"resources": {"limits": {"cpu": 1}}}), "limits/cpu': got number, want string"),
    ("a broker property that is a number", configuration(brokerProperties={"A": 1}), "got number, want string"),
    ("a port out of range", configuration(broker={"instanceService": {"ports": [{"name": "a", "port": 70000}]}}), "maximum: got 70,000, want 65,535"),
    ("probes in words", grpc(probes="no"), "at '/configurations/0/broker/probes': got string, want boolean"),
    ("a Service that is switched on in words", grpc(instanceService={"enabled": "true"}), "instanceService/enabled': got string, want boolean"),
    ("a hundred mock devices", {"mockDevices": {"count": 100}}, "at '/mockDevices/count': maximum: got 100, want 99"),
    ("a list of any length", handler(maxBodyBytes=0), "at '/handler/maxBodyBytes': minimum: got 0, want 1,024"),
    ("a list that is too long", handler(maxBodyBytes=1073741825), "at '/handler/maxBodyBytes': maximum: got"),
    ("the name of the Agent's socket", handler(name="agent-registration"), "must not be agent-registration, the name of the Agent's socket"),
    ("a truth in words", handler(shared="yes"), "at '/handler/shared': got string, want boolean"),
    ("an unknown pull policy", {"images": {"mockDevice": {"pullPolicy": "Sometimes"}}}, "value must be one of 'Always', 'IfNotPresent', 'Never'"),
    ("a guess how long an update waits", handler(minReadySeconds=20), "at '/handler': additional properties 'minReadySeconds'"),
    ("an unknown key of the saved lists", handler(state={"path": "/a"}), "at '/handler/state': additional properties 'path'"),
    ("saved lists in a word", handler(state=True), "at '/handler/state': got boolean, want object"),
    ("saved lists in a relative path", handler(state={"hostPath": "akri-http"}), "at '/handler/state/hostPath': 'akri-http' does not match pattern '^(/.|$)'"),
    ("saved lists of no age", handler(state={"maxAge": "0s"}), "handler.state.maxAge: \"0s\" is not a time from 1s to 8760h"),
    ("saved lists that are too old", handler(state={"maxAge": "8761h"}), "handler.state.maxAge: \"8761h\" is not a time from 1s to 8760h"),
    ("an admin port without a port for the standby", handler(adminPort=65535), "at '/handler/adminPort': maximum: got 65,535, want 65,534"),
    ("an admin port below nought", handler(adminPort=-1), "at '/handler/adminPort': minimum: got -1, want 0"),
    ("an admin port with a name", handler(adminPort="admin"), "at '/handler/adminPort': got string, want integer"),
    ("an admin port that the Agent uses", handler(adminPort=10000, network={"enabled": True}), "handler.adminPort: the container already uses port 10000; choose another one, or 0 for none"),
    ("an admin address beside the admin port", handler(env=[{"name": "ADMIN_ADDRESS", "value": ":1"}]), "handler.env: the chart sets ADMIN_ADDRESS itself; set handler.adminPort instead"),
    ("a broker's admin port out of range", configuration(broker={"adminPort": 65536}), "at '/configurations/0/broker/adminPort': maximum: got 65,536, want 65,535"),
    ("a broker's admin port of nothing", configuration(broker={"adminPort": None}), "at '/configurations/0/broker/adminPort': got null, want integer"),
    ("a gRPC broker's admin port that is its own", grpc(adminPort=50051), "configurations[0].broker.adminPort: the container already uses port 50051"),
    ("a broker's admin port twice", configuration(broker={"ports": [{"containerPort": 8081}]}), "configurations[0].broker.adminPort: the container already uses port 8081"),
    ("a broker's admin address", grpc(env=[{"name": "ADMIN_ADDRESS", "value": ":1"}]), "configurations[0].broker.env: the chart sets ADMIN_ADDRESS itself; set configurations[0].broker.adminPort"),
    ("a stop that is too short", handler(terminationGracePeriodSeconds=4), "minimum: got 4, want 5"),
    # Names.
    ("a name of 53 characters", configuration(name="a" * 53), "at '/configurations/0/name': maxLength: got 53, want 52"),
    ("a name of 50 characters with a Job", configuration(name="a" * 50, broker=JOB), "has 50 characters; use at most 49 with a Job"),
    ("a name in upper case", configuration(name="Cameras"), "at '/configurations/0/name': 'Cameras' does not match pattern '^[a-z0-9]([-a-z0-9]*[a-z0-9])?$'"),
    ("a name with a dot", configuration(name="a.b"), "'a.b' does not match pattern '^[a-z0-9]([-a-z0-9]*[a-z0-9])?$'"),
    ("a name that ends with a dash", configuration(name="a-"), "'a-' does not match pattern '^[a-z0-9]([-a-z0-9]*[a-z0-9])?$'"),
    ("a Service whose name would begin with a digit", configuration(name="3d", broker={"instanceService": PORTS}), "begins with a digit, but the name of a Service must not"),
    ("a gRPC broker whose Services' names would begin with a digit", configuration(name="3d", broker={"kind": "grpc"}), "begins with a digit, but the name of a Service must not"),
    ("a name twice", {"configurations": [{"name": "a", "discoveryDetails": "http://a"}] * 2}, "configurations[1].name: another Configuration is already called \"a\""),
    ("a handler name in upper case", handler(name="HTTP"), "at '/handler/name': 'HTTP' does not match pattern '^[a-z0-9][a-z0-9._-]{0,62}$'"),
    ("a handler name with a slash", handler(name="a/b"), "at '/handler/name': 'a/b' does not match pattern"),
    ("the walkthrough's pull secret", {"imagePullSecrets": [{"name": "crPullSecret"}]}, "at '/imagePullSecrets/0/name': 'crPullSecret' does not match pattern '^[a-z0-9]"),
    ("a relative path", handler(hostPath="var/lib/akri"), "at '/handler/hostPath': 'var/lib/akri' does not match pattern '^/.'"),
    # Times.
    ("an interval without a unit", handler(pollInterval="10"), "at '/handler/pollInterval': '10' does not match pattern '^[0-9]{1,9}(ms|s|m|h)$'"),
    ("an interval that is too short", handler(pollInterval="99ms"), "handler.pollInterval: \"99ms\" is not a time from 100ms to 24h"),
    ("an interval that is too long", handler(pollInterval="25h"), "handler.pollInterval: \"25h\" is not a time"),
    ("a timeout that is too long", handler(pollTimeout="11m"), "handler.pollTimeout: \"11m\" is not a time from 100ms to 10m"),
    ("a timeout of nought", handler(pollTimeout="0s"), "handler.pollTimeout: \"0s\" is not a time"),
    ("a time in days", handler(pollInterval="1d"), "at '/handler/pollInterval': '1d' does not match pattern '^[0-9]{1,9}(ms|s|m|h)$'"),
    ("an interval of the details that is too short", configuration(discoveryDetails={"url": "http://a", "interval": "1ms"}), "configurations[0].discoveryDetails.interval: \"1ms\" is not a time from 100ms to 24h"),
    ("a timeout of the details that is too long", configuration(discoveryDetails={"url": "http://a", "timeout": "1h"}), "configurations[0].discoveryDetails.timeout: \"1h\" is not a time from 100ms to 10m"),
    ("an interval of the details without a unit", configuration(discoveryDetails={"url": "http://a", "interval": "10"}), "at '/configurations/0/discoveryDetails/interval': '10' does not match pattern"),
    ("no interval at all", handler(pollInterval=None), "at '/handler': missing property 'pollInterval'"),
    ("no directory of sockets", handler(hostPath=None), "at '/handler': missing property 'hostPath'"),
    ("saved lists without an age", handler(state={"maxAge": None}), "at '/handler/state': missing property 'maxAge'"),
    # Addresses and properties.
    ("an address without a scheme", configuration(discoveryDetails="discovery:9999/discovery"), "configurations[0].discoveryDetails: this is not the URL of a discovery service; it must begin with http:// or https://"),
    ("an address with a space", configuration(discoveryDetails={"url": "http://a/ b"}), "must not contain spaces"),
    ("a property with a dash", configuration(discoveryProperties=[{"name": "A-B", "value": ""}]), "discoveryProperties/0/name': 'A-B' does not match pattern '^[_A-Za-z][_A-Za-z0-9]*$'"),
    ("a property without a value", prop(), "\"TOKEN\" must have either a value or a valueFrom"),
    ("a property with two values", prop(value="a", valueFrom={"secretKeyRef": {"name": "a", "key": "b"}}), "must have either a value or a valueFrom"),
    ("a property from nowhere", prop(valueFrom={}), "discoveryProperties/0/valueFrom': minProperties: got 0, want 1"),
    ("a property from two places", prop(valueFrom={kind: {"name": "a", "key": "b"} for kind in ("secretKeyRef", "configMapKeyRef")}), "valueFrom': maxProperties: got 2, want 1"),
    ("a reference without a key", prop(valueFrom={"configMapKeyRef": {"name": "a"}}), "missing property 'key'"),
    ("a broker property with a dot", configuration(brokerProperties={"a.b": "c"}), "brokerProperties: \"a.b\" cannot be the name of an environment variable"),
    # Brokers and updates.
    ("a Job with a Service", configuration(broker=JOB | {"instanceService": PORTS}), "Akri makes Services for Pods only"),
    ("a Job of a broker that never ends", configuration(broker={"workload": "Job"}), "the standalone broker never ends, so it cannot be a Job"),
    ("a Job of a gRPC broker", configuration(broker=JOB | {"kind": "grpc"}), "a broker of kind grpc never ends, so it cannot be a Job"),
    ("a Service of a type without ports", configuration(broker={"instanceService": {"type": "NodePort"}}), "broker.instanceService: ports are missing; only a broker of kind grpc has a default port"),
    ("a Service that is switched on without ports", configuration(broker={"configurationService": {"enabled": True}}), "broker.configurationService: ports are missing"),
    ("a gRPC broker at another port", grpc(env=[{"name": "GRPC_ENDPOINT", "value": "0.0.0.0:8083"}]), "broker.env: GRPC_ENDPOINT is \"0.0.0.0:8083\", but the probes and the Services need port 50051"),
    ("a gRPC client without a gRPC broker", client({}), "grpcClient: no Configuration has a broker of kind grpc"),
    ("a gRPC client of nothing at all", client({"configurations": []}), "grpcClient: no Configuration has a broker of kind grpc"),
    ("a gRPC client of another kind of broker", client(configuration(broker={"kind": "standalone"}), configuration="cameras"), "grpcClient.configuration: the Configuration \"cameras\" has no broker of kind grpc"),
    ("a gRPC client of a Configuration without a broker", client(configuration(), configuration="cameras"), "\"cameras\" has no broker of kind grpc"),
    ("a gRPC client of an unknown Configuration", client(configuration="camera"), "grpcClient.configuration: there is no Configuration \"camera\"; the configurations are: cameras."),
    ("a gRPC client without a Service", client(grpc(configurationService=OFF)), "the configurationService of \"cameras\" is off, but the client connects to it"),
    ("a gRPC client that ends", client(args=["--once"]), "grpcClient.args: with --once the client ends, and the Deployment would restart it again and again"),
    ("a gRPC client with another endpoint", client(env=[{"name": "GRPC_ENDPOINT", "value": "a:1"}]), "grpcClient.env: the chart sets GRPC_ENDPOINT itself"),
    ("settings of a Job for a Pod", configuration(broker={"job": {"backoffLimit": 5}}), "broker.job: this broker is a Pod; set workload to Job"),
    ("a standby on one port", handler(standby=True, network={"enabled": True}), "handler.standby: it needs handler.network.enabled=false"),
    ("a grace period without a number", handler(grace="s"), "at '/handler/grace': 's' does not match pattern"),
    ("a grace period without a unit", handler(grace="60"), "at '/handler/grace': '60' does not match pattern"),
    ("a surge beside what may be missing", handler(updateStrategy={"rollingUpdate": {"maxUnavailable": 1}}), "Kubernetes allows maxSurge 1 only with maxUnavailable 0, but maxUnavailable is 1"),
]  # fmt: skip


@pytest.mark.parametrize(("values", "message"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_a_wrong_value_is_refused_in_words_that_say_why(values, message):
    assert message in refusal(values=values)


def test_a_password_in_an_address_is_not_repeated():
    assert "secret" not in refusal(values=configuration(discoveryDetails="ftp://user:secret@a/"))


@pytest.mark.parametrize("time", ["100ms", "24h", "1440m", "86400s", "86400000ms"])
def test_the_ends_of_the_range_of_an_interval_are_accepted(time):
    assert template(values=handler(pollInterval=time))
