"""What an operator watches: PodMonitors, alerts and the dashboard, with the metrics of docs/metrics.md."""

import json
import os
import re
import subprocess
from functools import cache

import pytest
from chart import HIGHEST_KUBERNETES, LOWEST_KUBERNETES, ROOT, configuration, grpc, only, refusal, template
from schemas import made_by_akri, pod_spec, validate

MONITOR = {"podMonitor": {"enabled": True}}
RULE = {"prometheusRule": {"enabled": True}}
DASHBOARD = {"grafanaDashboard": {"enabled": True}}
# What Prometheus itself adds to every series, and to those of a histogram.
PROMETHEUS_LABELS = {"job", "instance", "le"}


def promql(test, text):
    """What Prometheus' own code says of this text; see promql/promql_test.go."""
    command = [os.environ["PROMQL"], f"-test.run=^{test}$"]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=60)


@cache
def documented():
    """The metrics of docs/metrics.md, with their types and labels."""
    rows = re.findall(r"^\| `(akri_\w+)(?:\{([\w,]+)\})?` \| (\w+) \|", (ROOT / "docs/metrics.md").read_text(), re.M)
    assert len(rows) > 15
    return {name: (kind, set(filter(None, labels.split(",")))) for name, labels, kind in rows}


def assert_documented(expressions):
    """Every metric that the expressions name exists, and so does every label."""
    metrics, labels = {}, set(PROMETHEUS_LABELS)
    for name, (kind, own) in documented().items():
        labels |= own
        for suffix in ("_bucket", "_sum", "_count") if kind == "histogram" else ("",):
            metrics[name + suffix] = kind
    run = promql("TestNames", json.dumps(expressions))
    assert run.returncode == 0, run.stdout
    named = json.loads(run.stdout.splitlines()[0])
    assert named["metrics"].keys() <= metrics.keys()
    assert named["labels"].keys() <= labels
    return named["metrics"].keys()


def monitors(values=None, **keys):
    objects = template(values=MONITOR | (values or {}) | keys)
    for thing in objects:
        validate(thing, LOWEST_KUBERNETES)
        validate(thing, HIGHEST_KUBERNETES)
    return [thing for thing in objects if thing["kind"] == "PodMonitor"], objects


def ports(monitor):
    return [endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]]


def test_there_is_nothing_of_prometheus_or_grafana_unless_it_is_asked_for():
    assert not [o for o in template() if "monitoring" in o["apiVersion"] or o["kind"] == "ConfigMap"]


@pytest.mark.parametrize("standby", [False, True])
def test_prometheus_scrapes_each_handler_at_the_ports_that_it_has(standby):
    (handler, _), objects = monitors(handler={"standby": standby})
    daemon = only(objects, "DaemonSet")["spec"]["template"]
    assert handler["spec"]["selector"]["matchLabels"].items() <= daemon["metadata"]["labels"].items()
    assert ports(handler) == [port["name"] for c in daemon["spec"]["containers"] for port in c["ports"]]
    assert {endpoint["path"] for endpoint in handler["spec"]["podMetricsEndpoints"]} == {"/metrics"}


@pytest.mark.parametrize("values", [configuration(broker={"kind": "standalone"}), grpc()], ids=["standalone", "grpc"])
def test_prometheus_scrapes_the_brokers_that_akri_makes(values):
    (_, brokers), objects = monitors(values)
    (expression,) = brokers["spec"]["selector"]["matchExpressions"]
    pod = next(thing for thing in made_by_akri(only(objects, "Configuration")) if thing["kind"] == "Pod")
    assert pod["metadata"]["labels"][expression["key"]] in expression["values"]
    assert set(brokers["spec"]["podTargetLabels"]) < pod["metadata"]["labels"].keys()
    assert set(ports(brokers)) <= {port["name"] for port in pod["spec"]["containers"][0]["ports"]}


def test_prometheus_scrapes_the_page_where_there_is_one():
    (*_, page), objects = monitors(grpc(), readings={"enabled": True})
    pods = only(objects, "Deployment", "akri-http-readings")["spec"]["template"]
    assert page["spec"]["selector"]["matchLabels"].items() <= pods["metadata"]["labels"].items()
    assert ports(page) == [port["name"] for port in pods["spec"]["containers"][0]["ports"]]
    off = {"handler": {"adminPort": 0}, "readings": {"enabled": True}}
    (page,), _ = monitors(grpc(adminPort=0), **off)
    assert page["metadata"]["name"] == "akri-http-readings"


def test_only_what_has_an_admin_port_is_scraped():
    own = {"image": {"repository": "example.com/broker", "tag": "1"}}
    several = {
        "configurations": [
            {"name": "none", "discoveryDetails": "http://a/"},
            {"name": "own", "discoveryDetails": "http://a/", "broker": own},
            {"name": "own-metrics", "discoveryDetails": "http://a/", "broker": own | {"adminPort": 9000}},
            {"name": "off", "discoveryDetails": "http://a/", "broker": {"kind": "grpc", "adminPort": 0}},
            {"name": "on", "discoveryDetails": "http://a/", "broker": {"kind": "grpc"}},
        ]
    }
    (brokers,), _ = monitors(several, handler={"adminPort": 0})
    assert brokers["spec"]["selector"]["matchExpressions"][0]["values"] == ["own-metrics", "on"]
    (handler,), _ = monitors(configuration())
    assert handler["metadata"]["name"] == "akri-http-discovery-handler"
    (brokers,), _ = monitors(handler={"enabled": False})
    assert brokers["metadata"]["name"] == "akri-http-brokers"


def test_a_pod_monitor_can_have_labels_and_an_interval():
    found, _ = monitors(podMonitor={"enabled": True, "interval": "30s", "labels": {"release": "prometheus"}})
    for monitor in found:
        assert monitor["metadata"]["labels"]["release"] == "prometheus"
        assert {endpoint["interval"] for endpoint in monitor["spec"]["podMetricsEndpoints"]} == {"30s"}


@cache
def alerts():
    """Each alert of the chart by its name, and their groups as a file of Prometheus."""
    rule = only(template(values=RULE), "PrometheusRule")
    validate(rule, LOWEST_KUBERNETES)
    return {alert["alert"]: alert for group in rule["spec"]["groups"] for alert in group["rules"]}, json.dumps(rule["spec"])


def test_prometheus_accepts_the_alerts_and_their_metrics_exist():
    named, file = alerts()
    run = promql("TestRules", file)
    assert run.returncode == 0, run.stdout
    assert assert_documented([alert["expr"] for alert in named.values()])
    labels = set(re.findall(r"\$labels\.(\w+)", file))
    assert labels <= PROMETHEUS_LABELS.union(*(own for _, own in documented().values()))


def test_a_wrong_rule_or_a_metric_that_does_not_exist_would_be_noticed():
    assert promql("TestRules", '{"groups": [{"name": "a", "rules": [{"alert": "A", "expr": "sum("}]}]}').returncode != 0
    for expression in ("akri_discovery_device", "akri_discovery_poll_duration_seconds", 'akri_http_calls_total{status="Ok"}'):
        with pytest.raises(AssertionError):
            assert_documented([expression])


POLLS = "akri_discovery_polls_total"
GOOD, SICK = '{job="h", instance="a", request="http://good/"}', '{job="h", instance="a", request="http://sick/"}'
# Series from one minute to the next, and which of them fires after 20 minutes.
SCENES = {
    "a handler that lost its Agent": (
        "AkriHttpNotRegistered",
        ['akri_discovery_registered{instance="a"} 1x20', 'akri_discovery_registered{instance="b"} 1x9 0x11'],
        ['akri_discovery_registered{instance="b"} 0'],
    ),
    "a list that is 901 s old": (
        "AkriHttpListOld",
        [f"akri_discovery_list_age_seconds{GOOD} 900x20", f"akri_discovery_list_age_seconds{SICK} 901x20"],
        [f"akri_discovery_list_age_seconds{SICK} 901"],
    ),
    "a source where two of three polls fail, on two nodes": (
        "AkriHttpSourceFailing",
        [
            f'{POLLS}{{job="h", instance="{node}", request="http://{source}/", outcome="{outcome}"}} 0+{more}x20'
            for node in "ab"
            for source, outcome, more in (
                ("good", "failed", 2),
                ("good", "unchanged", 4),
                ("sick", "failed", 4),
                ("sick", "changed", 1),
                ("sick", "unchanged", 1),
            )
        ],
        ['{job="h", request="http://sick/"} 0.13333333333333333'],
    ),
    "a source that has never answered": (
        "AkriHttpSourceFailing",
        [f'{POLLS}{{job="h", instance="a", request="http://sick/", outcome="failed"}} 0+6x20'],
        ['{job="h", request="http://sick/"} 0.1'],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("alert", "series", "fires"), SCENES.values(), ids=SCENES.keys())
def test_an_alert_fires_for_what_hurts_and_for_nothing_else(alert, series, fires):
    expression = " ".join(alerts()[0][alert]["expr"].split())
    script = ["load 1m", *(f"  {line}" for line in series), "", f"eval instant at 20m {expression}", *(f"  {line}" for line in fires)]
    run = promql("TestScript", "\n".join(script) + "\n")
    assert run.returncode == 0, run.stdout
    without = promql("TestScript", "\n".join(script[:-1]) + "\n")
    assert without.returncode != 0, "the script does not notice what fires"


def test_the_age_at_which_a_list_is_old_is_a_value():
    rule = only(template(values={"prometheusRule": {"enabled": True, "listOlderThan": "2h", "labels": {"release": "x"}}}), "PrometheusRule")
    assert rule["spec"]["groups"][0]["rules"][1]["expr"] == "akri_discovery_list_age_seconds > 7200"
    assert rule["metadata"]["labels"]["release"] == "x"


def dashboard():
    config = only(template(values=DASHBOARD), "ConfigMap")
    validate(config, LOWEST_KUBERNETES)
    (text,) = config["data"].values()
    return config, json.loads(text)


def expressions(board):
    """The queries of all panels and variables, as Prometheus gets them."""
    found = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            found += re.findall(r"^label_values\((.*), \w+\)$", variable["query"])
    return [re.sub(r"\$(\w+)", lambda name: "5m" if name[1] == "__rate_interval" else ".*", text) for text in found]


def test_grafanas_sidecar_finds_the_dashboard():
    config, _ = dashboard()
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"
    values = {"grafanaDashboard": {"enabled": True, "labels": {"board": "yes"}, "annotations": {"grafana_folder": "Edge"}}}
    other = only(template(values=values), "ConfigMap")["metadata"]
    assert other["labels"]["board"] == "yes" and other["annotations"] == {"grafana_folder": "Edge"}


def test_every_query_of_the_dashboard_names_metrics_that_exist_and_no_metric_is_left_out():
    _, board = dashboard()
    shown = assert_documented(expressions(board))
    shown = {re.sub(r"_bucket$", "", name) for name in shown}
    assert shown == documented().keys()


def test_the_dashboard_uses_the_variables_that_it_has_and_says_what_each_panel_shows():
    _, board = dashboard()
    variables = {variable["name"] for variable in board["templating"]["list"]}
    assert len(variables) == 4
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(board))) - {"__all", "__rate_interval"}
    assert used == variables
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    for panel in panels:
        assert panel["title"] and panel["description"] and panel["targets"], panel["title"]
    places = [(p["gridPos"]["x"] + dx, p["gridPos"]["y"] + dy) for p in board["panels"] for dx in range(p["gridPos"]["w"]) for dy in range(p["gridPos"]["h"])]
    assert len(places) == len(set(places)), "two panels overlap"
    assert max(x for x, _ in places) < 24


REFUSED = {
    "metrics of nothing": (MONITOR | {"handler": {"adminPort": 0}} | configuration(), "podMonitor.enabled: neither the handler nor a broker has an admin port"),
    "an interval in words": ({"podMonitor": {"interval": "often"}}, "at '/podMonitor/interval': 'often' does not match pattern"),
    "an age without a unit": ({"prometheusRule": {"enabled": True, "listOlderThan": "900"}}, "at '/prometheusRule/listOlderThan': '900' does not match pattern"),
    "an age of nothing": ({"prometheusRule": {"enabled": True, "listOlderThan": "0s"}}, "prometheusRule.listOlderThan: \"0s\" is not a time from 1s to 8760h"),
    "an age below the interval": ({"prometheusRule": {"enabled": True, "listOlderThan": "10s"}}, "prometheusRule.listOlderThan: 10s is not longer than handler.pollInterval, which is 10s"),
    "an age below the interval of a Configuration": (RULE | configuration(discoveryDetails={"url": "http://a", "interval": "1h"}), "15m is not longer than configurations[0].discoveryDetails.interval, which is 1h"),
    "an unknown key of the PodMonitor": ({"podMonitor": {"port": 1}}, "at '/podMonitor': additional properties 'port'"),
    "an unknown key of the alerts": ({"prometheusRule": {"severity": "page"}}, "at '/prometheusRule': additional properties 'severity'"),
    "an unknown key of the dashboard": ({"grafanaDashboard": {"folder": "x"}}, "at '/grafanaDashboard': additional properties 'folder'"),
    "a label of the chart's own": ({"podMonitor": {"labels": {"helm.sh/chart": "x"}}}, "podMonitor.labels: the chart sets the label helm.sh/chart itself"),
    "a label that is a number": ({"grafanaDashboard": {"labels": {"grafana_dashboard": 1}}}, "got number, want string"),
}  # fmt: skip


@pytest.mark.parametrize(("values", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_wrong_values_are_refused_in_words_that_say_why(values, message):
    assert message in refusal(values=values)


def test_an_age_that_nobody_uses_is_not_looked_at():
    assert template(values={"prometheusRule": {"enabled": False, "listOlderThan": "1s"}})
