"""The alarms' rules by Prometheus' own tools: Debian's `prometheus` and `prometheus-alertmanager`."""

import datetime
import json
import re
import shutil
import subprocess
import time

import grpc
import prometheus_stack
import pytest
import yaml
from prometheus_client import generate_latest
from prometheus_stack import ALERTMANAGER, DEPLOY, RULES, alarms_to

from bertline.monitoring import alarms
from bertline.monitoring.judge import Judged, Report
from bertline.monitoring.looks import Look
from bertline.serving.metrics import Metrics

DASHBOARD = DEPLOY / "grafana-dashboard.json"


def test_each_metric_that_a_rule_names_is_one_of_ours():
    names = {metric.name for metric in alarms.Gauges().registry.collect()}
    names |= {f"{metric.name}_total" for metric in Metrics().registry.collect() if metric.type == "counter"}
    rules = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    for rule in rules:
        used = {name for name in names if name in rule["expr"]}
        assert used, rule["expr"]
    assert len(rules) == 6


def exposed():
    """The names that the server and the monitor show to Prometheus -> the names of their labels."""
    server, monitor, start = Metrics(), alarms.Gauges(), datetime.datetime(2026, 11, 28, tzinfo=datetime.UTC)
    server.observe_request("reviews", "Predict", "GRPC", grpc.StatusCode.OK, 0.01)
    server.observe_batch("reviews", "text", 3, 1, 0.001)
    server.observe_load("reviews", 7, 1.0, loaded=True)
    server.records.count(1, "")
    server.records.count(1, "not_written")
    moved = Judged(Look("labels", "the test rows", "", 0.1, 0.05, 0.01), 0.01, True, start)
    figures = {"estimated accuracy": {"accuracy": 0.8, "interval": [0.7, 0.9], "test": 0.8}}
    monitor.take(Report("reviews", 7, start, start, 500, "", 0.03, [moved], figures, {}, 0, []))
    texts = server.render()[0].decode(), generate_latest(monitor.registry).decode()
    samples = re.findall(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? \S+$", "\n".join(texts), re.MULTILINE)
    labels = {}
    for name, inside in samples:
        labels.setdefault(name, set()).update(re.findall(r'(\w+)="', inside))
    return labels


@pytest.fixture(scope="module")
def dashboard():
    return json.loads(DASHBOARD.read_text(encoding="utf-8"))


def queries(dashboard):
    shown = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    return [*shown, *(each["expr"] for each in dashboard["annotations"]["list"])]


def test_the_dashboard_asks_for_what_server_and_monitor_show(dashboard):
    labels = exposed()
    asked = dict.fromkeys(queries(dashboard), None)
    asked |= dict.fromkeys(re.findall(r"label_values\((.*), \w+\)", dashboard["templating"]["list"][1]["definition"]))
    used = set()
    for expr in asked:
        named = re.findall(r"(?<![\w:])((?::tensorflow|bertline)[\w:]+)(?:\{([^}]*)\})?", expr)
        assert named, expr
        for name, matchers in named:
            assert name in labels, f"{expr}: no metric {name}"
            assert set(re.findall(r'(\w+)\s*(?:=|!=|=~|!~)"', matchers)) <= labels[name], expr
            used.add(name)
        (grouped,) = re.findall(r"by \((\w+)\)", expr) or [None]
        assert grouped is None or grouped in labels[named[0][0]], expr
    assert {name for name in labels if name.startswith(alarms.PREFIX)} <= used  # all of the monitor's are shown
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)


@prometheus_stack.needed
def test_promtool_reads_each_query_of_the_dashboard(dashboard, tmp_path):
    rules = [{"record": f"query:{number}", "expr": expr} for number, expr in enumerate(queries(dashboard))]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"{len(rules)} rules found" in run("promtool", "check", "rules", tmp_path / "rules.yaml")


def run(*command):
    ran = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@prometheus_stack.needed
def test_promtool_and_amtool_take_the_files(tmp_path):
    assert "6 rules found" in run("promtool", "check", "rules", RULES)
    assert "SUCCESS" in run("amtool", "check-config", ALERTMANAGER)
    look = 'bertline_monitor_alarm{model="reviews",look="%s",against="the test rows"}'
    series = [
        {"series": look % "labels", "values": "0 1 1 0"},
        {"series": look % "estimated accuracy", "values": "0 0 1 0"},
        {"series": 'bertline_records_dropped_total{instance="a",reason="not_written"}', "values": "0+10x60"},
    ]
    changed = {"model": "reviews", "look": "labels", "against": "the test rows", "severity": "warning"}
    lost = changed | {"look": "estimated accuracy", "severity": "critical"}

    def fires(minute, name, *labels):
        return {"eval_time": minute, "alertname": name, "exp_alerts": [{"exp_labels": each} for each in labels]}

    tests = [
        fires("0m", "BertlineModelChanged"),
        fires("1m", "BertlineModelChanged", changed),
        fires("3m", "BertlineModelChanged"),
        fires("1m", "BertlineAccuracyLost"),
        fires("2m", "BertlineAccuracyLost", lost),
        fires("10m", "BertlineRecordsDropped"),
        fires("40m", "BertlineRecordsDropped", {"instance": "a", "reason": "not_written", "severity": "warning"}),
    ]
    shutil.copy(RULES, tmp_path)
    for test in tests:  # what is said is not the test's business
        for each in test["exp_alerts"]:
            rule = next(
                rule
                for rule in yaml.safe_load(RULES.read_text())["groups"][0]["rules"]
                if rule["alert"] == test["alertname"]
            )
            each["exp_annotations"] = {
                name: filled(text, each["exp_labels"]) for name, text in rule["annotations"].items()
            }
    whole = {"interval": "1m", "input_series": series, "alert_rule_test": tests}
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump({"rule_files": [RULES.name], "tests": [whole]}))
    assert "SUCCESS" in run("promtool", "test", "rules", tmp_path / "tests.yaml")


def filled(text, labels):
    for name, value in labels.items():
        text = text.replace(f"{{{{ $labels.{name} }}}}", value)
    return text


@prometheus_stack.needed
@pytest.mark.shipped
def test_an_alarm_fires_and_is_resolved_end_to_end(tmp_path, webhook):
    """The monitor's own endpoint, Prometheus, Alertmanager, and a webhook at its end."""
    gauges = alarms.Gauges()
    alarm = gauges._alarm.labels("reviews", "labels", "the test rows")
    alarm.set(1)
    address, got = webhook
    with alarms_to(address, tmp_path, gauges.serve(0)):
        fired = got.get(timeout=90)
        alarm.set(0)
        resolved = next_resolved(got)
    assert [each["labels"]["alertname"] for each in fired["alerts"]] == ["BertlineModelChanged"]
    assert fired["alerts"][0]["annotations"]["summary"] == "reviews: labels differ from the test rows"
    assert resolved["alerts"][0]["labels"]["look"] == "labels"


def next_resolved(got):
    until = time.monotonic() + 120
    while time.monotonic() < until:
        message = got.get(timeout=120)
        if message["status"] == "resolved":
            return message
    raise AssertionError("it was never resolved")
