"""What the chart says about the cluster during an installation, and its notes."""

import json

import pytest
from chart import CHART, CHART_YAML, IN_REGISTRY, configuration, grpc, helm, only, template
from cluster import cluster


def install(tmp_path, configurations, *arguments, values=None):
    """A dry run of `helm install` in a cluster with these Configurations; None for a cluster without CRDs."""
    with cluster(tmp_path, configurations) as kubeconfig:
        return helm(
            *("install", "akri-http", CHART, "--dry-run=server", "--disable-openapi-validation"),
            *("--kubeconfig", kubeconfig, *IN_REGISTRY, *arguments),
            values=values,
            environment={"HOME": str(tmp_path), "KUBECONFIG": str(kubeconfig)},
        )


def notes(tmp_path, *arguments, configurations=(), values=None):
    """NOTES.txt as `helm install` prints it."""
    run = install(tmp_path, configurations, *arguments, values=values)
    assert run.returncode == 0, run.stderr
    return run.stdout.split("\nNOTES:\n")[1]


def notes_of_an_upgrade(tmp_path, before, after):
    """NOTES.txt of a dry run of `helm upgrade` from one set of values to another."""
    release = {"name": "akri-http", "namespace": "default", "version": 1, "info": {"status": "deployed"}}
    chart = {"metadata": {key: CHART_YAML[key] for key in ("apiVersion", "name", "version")}}
    (tmp_path / "releases.yaml").write_text(json.dumps([release | {"chart": chart}]))
    there = [thing for thing in template(values=before) if thing["kind"] == "Configuration"]
    with cluster(tmp_path, there) as kubeconfig:
        run = helm(
            *("upgrade", "akri-http", CHART, "--dry-run=server", "--disable-openapi-validation", "--kubeconfig", kubeconfig),
            *IN_REGISTRY,
            values=after,
            environment={
                "HOME": str(tmp_path),
                "KUBECONFIG": str(kubeconfig),
                "HELM_DRIVER": "memory",
                "HELM_MEMORY_DRIVER_DATA": str(tmp_path / "releases.yaml"),
            },
        )
    assert run.returncode == 0, run.stderr
    return run.stdout.split("\nNOTES:\n")[1]


def test_without_akris_crds_an_installation_says_what_to_install(tmp_path):
    run = install(tmp_path, None)
    assert run.returncode != 0
    assert "this cluster does not know Configurations (akri.sh/v0)" in run.stderr
    assert "helm install akri akri-helm-charts/akri-dev --version 0.13.26`" in run.stderr


def test_without_akris_crds_the_chart_still_renders_offline():
    assert only(template(), "Configuration")


def test_without_configurations_no_crds_are_needed(tmp_path):
    text = notes(tmp_path, configurations=None, values={"configurations": []})
    assert "This release has no Configurations" in text
    assert "Akri's CRDs (akri.sh/v0) are missing" in text
    assert "helm install akri akri-helm-charts/akri-dev --version 0.13.26\n" in text
    assert "webhookConfiguration.enabled=false" in text


def test_changed_details_are_refused_because_akri_would_ignore_them(tmp_path):
    there = only(template(), "Configuration")
    there["spec"]["discoveryHandler"]["discoveryDetails"] = "http://elsewhere/"
    run = install(tmp_path, [there])
    assert run.returncode != 0
    assert 'the Configuration "akri-http" in the cluster has different discovery details' in run.stderr
    assert "kubectl --namespace default delete akric akri-http" in run.stderr


def test_the_same_details_are_no_reason_to_refuse(tmp_path):
    run = install(tmp_path, [only(template(), "Configuration")])
    assert "discovery details" not in run.stderr


def test_the_same_properties_are_no_reason_to_refuse(tmp_path):
    values = "helm/examples/details-and-properties.yaml"
    there = [thing for thing in template("--values", values) if thing["kind"] == "Configuration"]
    run = install(tmp_path, there, "--values", values)
    assert "discovery details" not in run.stderr


def test_the_notes_name_what_was_installed(tmp_path):
    text = notes(tmp_path, "--namespace", "edge", "--set", "mockDevices.enabled=true")
    assert "kubectl --namespace edge rollout status daemonset/akri-http-discovery-handler" in text
    assert "helm test akri-http --namespace edge --logs" in text
    assert "logs --selector akri.sh/configuration=akri-http" in text
    assert "kubectl label namespace edge --overwrite pod-security.kubernetes.io/enforce=privileged" in text
    assert "mounts /var/lib/akri and /var/lib/akri-http of its node" in text
    assert "This release has no" not in text
    assert "CRDs" not in text


def test_the_notes_name_no_directory_of_lists_that_a_node_does_not_have(tmp_path):
    assert "mounts /var/lib/akri of its node" in notes(tmp_path, "--set", "handler.state.hostPath=")
    assert "mounts /var/lib/akri of its node" in notes(tmp_path, "--set", "handler.state.enabled=false")


def test_the_notes_say_that_nobody_answers_at_the_default_address(tmp_path):
    assert 'This release has no Service called "discovery", but akri-http polls it' in notes(tmp_path)


def test_the_notes_say_that_the_registry_is_still_the_placeholder(tmp_path):
    assert "images.registry is registry.example.com/me, a placeholder. Set it to your registry." in notes(tmp_path)
    assert "registry" not in notes(tmp_path, "--set", "images.registry=registry.test")


def test_the_notes_say_how_to_reach_grpc_brokers(tmp_path):
    text = notes(tmp_path, "--namespace", "edge", values=grpc() | {"grpcClient": {"enabled": True}})
    assert "The gRPC brokers of cameras serve at cameras-svc:50051. Each broker serves only" in text
    assert "kubectl --namespace edge port-forward service/cameras-svc 50051\n" in text
    assert "grpcurl -plaintext localhost:50051 http.DeviceService/ReadSensor" in text
    assert "kubectl --namespace edge get services --selector controller=akri.sh" in text
    assert "logs deployment/akri-http-grpc-client --follow" in text


def test_the_notes_forward_to_the_port_that_the_service_has(tmp_path):
    text = notes(tmp_path, values=grpc(configurationService={"ports": [{"name": "grpc", "port": 80}]}))
    assert "serve at cameras-svc:80. " in text
    assert "port-forward service/cameras-svc 50051:80\n" in text
    assert "grpc-client" not in text


def test_without_a_service_the_notes_promise_no_address(tmp_path):
    text = notes(tmp_path, values=grpc(configurationService={"enabled": False}))
    assert "cameras has gRPC brokers. Each broker serves only the device of its Instance:" in text
    assert "serve at" not in text
    assert "port-forward" not in text


def test_the_notes_speak_of_grpc_only_where_it_is_used(tmp_path):
    assert "grpc" not in notes(tmp_path).lower()
    assert "grpc" not in notes(tmp_path, values=configuration()).lower()


def test_the_notes_leave_out_what_was_not_installed(tmp_path):
    text = notes(tmp_path, values={"handler": {"enabled": False}, "configurations": []})
    assert "daemonset" not in text and "helm test" not in text and "logs" not in text
    assert "This release has no Configurations" in text


@pytest.mark.parametrize(("details", "said"), [("http://discovery:9999/x", True), ("https://devices.example.com/", False)])
def test_the_notes_speak_of_the_mock_only_where_it_is_polled(tmp_path, details, said):
    values = {"configurations": [{"name": "a", "discoveryDetails": {"url": details}}]}
    assert ('no Service called "discovery"' in notes(tmp_path, values=values)) == said


def broker(*names):
    """Values with two Configurations, of which these have a broker."""
    every = [{"name": name, "discoveryDetails": "http://a/"} for name in ("cameras", "boilers")]
    return {"configurations": [c | ({"broker": {"kind": "standalone"}} if c["name"] in names else {}) for c in every]}


def test_an_upgrade_that_adds_a_broker_to_a_configuration_says_that_the_controller_has_to_restart(tmp_path):
    text = notes_of_an_upgrade(tmp_path, broker("boilers"), broker("boilers", "cameras"))
    assert "This upgrade added a broker to cameras. Akri's Controller" in text
    assert "kubectl rollout restart deployment/akri-controller-deployment" in text


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (broker("cameras"), broker("cameras")),
        (broker("cameras"), broker()),
        ({"configurations": []}, broker("cameras")),
    ],
    ids=["the same broker", "a broker that is gone", "a broker of a new Configuration"],
)
def test_no_other_upgrade_asks_for_a_restart(tmp_path, before, after):
    assert "restart" not in notes_of_an_upgrade(tmp_path, before, after)
