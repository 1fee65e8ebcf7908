"""Who may connect to the handler."""

import pytest
from chart import HIGHEST_KUBERNETES, LOWEST_KUBERNETES, only, refusal, template
from schemas import validate
from test_cluster import notes

TCP = {"handler": {"network": {"enabled": True}}}


def policies(values):
    objects = template(values=values)
    found = [thing for thing in objects if thing["kind"] == "NetworkPolicy"]
    for thing in found:
        validate(thing, LOWEST_KUBERNETES)
        validate(thing, HIGHEST_KUBERNETES)
        labels = only(objects, "DaemonSet")["spec"]["template"]["metadata"]["labels"]
        assert thing["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
        assert thing["spec"]["policyTypes"] == ["Ingress"]
    return found


def port(number):
    return {"protocol": "TCP", "port": number}


def agent(namespace="default", **labels):
    return {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": "akri-agent"} | labels},
    }


def test_over_tcp_only_the_agent_may_ask_for_devices_and_everybody_for_probes_and_metrics():
    (policy,) = policies(TCP)
    assert policy["spec"]["ingress"] == [{"from": [agent()], "ports": [port(10000)]}, {"ports": [port(8081)]}]


def test_without_an_admin_port_only_the_agent_may_connect():
    (policy,) = policies({"handler": {"network": {"enabled": True}, "adminPort": 0}})
    assert policy["spec"]["ingress"] == [{"from": [agent()], "ports": [port(10000)]}]


def test_the_agent_is_where_its_service_account_is_with_the_labels_that_are_given():
    akri = {"agentServiceAccount": {"namespace": "akri"}, "agentPodLabels": {"app.kubernetes.io/component": "agent"}}
    (policy,) = policies(TCP | {"akri": akri})
    assert policy["spec"]["ingress"][0]["from"] == [agent("akri", **{"app.kubernetes.io/component": "agent"})]
    (policy,) = policies(TCP | {"akri": {"agentPodLabels": {"app.kubernetes.io/name": None, "app": "agent"}}})
    assert policy["spec"]["ingress"][0]["from"][0]["podSelector"] == {"matchLabels": {"app": "agent"}}


@pytest.mark.parametrize(
    ("values", "there"),
    [
        ({}, False),
        (TCP, True),
        (TCP | {"networkPolicy": {"enabled": None}}, True),
        (TCP | {"networkPolicy": {"enabled": False}}, False),
        ({"networkPolicy": {"enabled": True}}, True),
        ({"handler": {"enabled": False, "network": {"enabled": True}}}, False),
        ({"handler": {"network": {"enabled": True}, "hostNetwork": True, "updateStrategy": {"type": "OnDelete"}}}, False),
    ],
    ids=str,
)
def test_there_is_a_policy_where_the_handler_listens_on_tcp_unless_it_is_told_otherwise(values, there):
    assert len(policies(values)) == there


@pytest.mark.parametrize(
    ("handler", "ingress"),
    [({}, [{"ports": [port(8081)]}]), ({"standby": True}, [{"ports": [port(8081), port(8082)]}]), ({"adminPort": 0}, [])],
    ids=str,
)
def test_a_handler_on_a_socket_needs_its_admin_ports_alone(handler, ingress):
    (policy,) = policies({"networkPolicy": {"enabled": True}, "handler": handler})
    assert policy["spec"]["ingress"] == ingress


def test_the_notes_say_who_may_connect(tmp_path):
    text = notes(tmp_path, values=TCP | {"akri": {"agentServiceAccount": {"namespace": "akri"}}})
    assert "Only Pods in namespace akri with app.kubernetes.io/name=akri-agent can connect to port 10000" in text
    assert "can connect" not in notes(tmp_path)
    assert "can connect" not in notes(tmp_path, values={"networkPolicy": {"enabled": True}})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"networkPolicy": {"enabled": "auto"}}, "at '/networkPolicy/enabled': got string, want null or boolean"),
        ({"networkPolicy": {"ingress": []}}, "at '/networkPolicy': additional properties 'ingress'"),
        ({"akri": {"agentPodLabels": {"app.kubernetes.io/name": None}}}, "at '/akri/agentPodLabels': minProperties: got 0, want 1"),
        ({"akri": {"agentPodLabels": {"app": 1}}}, "got number, want string"),
    ],
    ids=["a word", "an unknown key", "no label, which every Pod has", "a label that is a number"],
)
def test_wrong_values_are_refused(values, message):
    assert message in refusal(values=values)
