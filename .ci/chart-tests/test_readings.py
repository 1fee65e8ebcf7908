"""The page with the readings of all devices."""

import pytest
from chart import HIGHEST_KUBERNETES, LOWEST_KUBERNETES, configuration, grpc, only, refusal, template
from schemas import pod_spec, validate, violations

TWO = {
    "configurations": [
        {"name": "cameras", "discoveryDetails": "http://a/", "broker": {"kind": "grpc"}},
        {"name": "logged", "discoveryDetails": "http://a/", "broker": {"kind": "standalone"}},
        {"name": "sensors", "discoveryDetails": "http://a/", "broker": {"kind": "grpc"}},
    ]
}


def page(values=None, **keys):
    """What the chart makes with a page, which Kubernetes accepts."""
    objects = template(values=(grpc() if values is None else values) | {"readings": {"enabled": True} | keys})
    for thing in objects:
        validate(thing, LOWEST_KUBERNETES)
        validate(thing, HIGHEST_KUBERNETES)
    return objects


def container(objects):
    (found,) = pod_spec(only(objects, "Deployment", "akri-http-readings"))["containers"]
    return found


def environment(objects):
    return {entry["name"]: entry["value"] for entry in container(objects)["env"]}


def test_there_is_a_page_only_where_it_is_asked_for():
    assert "readings" not in str(template(values=grpc()))
    assert only(page(), "Deployment", "akri-http-readings")


def test_the_page_changes_no_configuration_so_that_no_broker_is_restarted():
    with_page, without = (only(objects, "Configuration") for objects in (page(), template(values=grpc())))
    assert with_page == without


def test_the_page_finds_every_broker_of_every_grpc_configuration_by_a_headless_service():
    objects = page(TWO)
    assert environment(objects)["BROKERS"] == "cameras-brokers:50051,sensors-brokers:50051"
    for name in ("cameras", "sensors"):
        spec = only(objects, "Service", f"{name}-brokers")["spec"]
        assert spec["clusterIP"] == "None"
        assert spec["selector"] == {"akri.sh/configuration": name}
        assert [port["port"] for port in spec["ports"]] == [50051]
    assert not [thing for thing in objects if thing["metadata"]["name"] == "logged-brokers"]


def test_the_page_satisfies_restricted_and_its_service_reaches_it():
    objects = page()
    deployment, service = only(objects, "Deployment"), only(objects, "Service", "akri-http-readings")
    spec = pod_spec(deployment)
    assert violations(spec) == []
    assert spec["automountServiceAccountToken"] is False
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    (port,) = service["spec"]["ports"]
    (served,) = container(objects)["ports"]
    assert (port["port"], port["targetPort"]) == (80, served["name"])
    assert environment(objects)["LISTEN"] == f":{served['containerPort']}"
    for probe, path in (("readinessProbe", "/readyz"), ("livenessProbe", "/livez")):
        assert container(objects)[probe]["httpGet"] == {"path": path, "port": served["name"]}


def test_the_page_has_arguments_variables_labels_and_a_pod_spec_of_its_own():
    own = {"tolerations": [{"operator": "Exists"}], "containers": [{"name": "readings", "tty": True}]}
    objects = page(
        args=["--interval=2s"],
        env=[{"name": "RUST_LOG", "value": "debug"}],
        podLabels={"a": "b"},
        podAnnotations={"c": "d"},
        podSpec=own,
    )
    metadata = only(objects, "Deployment")["spec"]["template"]["metadata"]
    assert metadata["labels"]["a"] == "b" and metadata["annotations"] == {"c": "d"}
    assert pod_spec(only(objects, "Deployment"))["tolerations"] == own["tolerations"]
    assert container(objects)["args"] == ["--interval=2s"] and container(objects)["tty"] is True
    assert environment(objects)["RUST_LOG"] == "debug"


@pytest.mark.parametrize(
    ("values", "keys", "says"),
    [
        (configuration(broker={"kind": "standalone"}), {}, "readings: no Configuration has a broker of kind grpc"),
        ({"configurations": []}, {}, "readings: no Configuration has a broker of kind grpc"),
        (grpc(), {"env": [{"name": "BROKERS", "value": "a:1"}]}, "readings.env: the chart sets BROKERS itself"),
        (grpc(), {"env": [{"name": "LISTEN", "value": ":1"}]}, "readings.env: the chart sets LISTEN itself"),
        (grpc(), {"podLabels": {"app.kubernetes.io/name": "x"}}, "readings.podLabels: the chart sets the label"),
        (grpc(), {"port": 1}, "at '/readings': additional properties 'port'"),
    ],
)
def test_what_cannot_work_is_refused_with_the_reason(values, keys, says):
    assert says in refusal(values=values | {"readings": {"enabled": True} | keys})
