"""Prometheus and Grafana: files by promtool, alerts on made-up numbers, all queries on a real Prometheus."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest

from cdi_stream.documents.tiled_server import free_port
from cdi_stream.operators.exposition import FeedCollector
from cdi_stream.operators.hub import Hub
from sim_beamline.scan import recorded_scan
from tests.deploy.conftest import DEPLOY
from tests.deploy.prometheus import MONITORING, grafana_queries, prometheus
from tests.system.beamline import beamline
from tests.system.browser import dashboard, progress, state, wait_until
from tests.unit.test_dashboard import parts
from tests.unit.test_exposition import NUMBERS, samples

RULES = yaml.safe_load((MONITORING / "rules.yml").read_text())["groups"][0]["rules"]
GPU = {"gpu_used_bytes": 1e9, "gpu_size_bytes": 8e9, "spool_bytes": 1e5}
WITHOUT_DATA = ("gpu_memory", "max by (alarm)", "changes(")
"""Parts of the queries that have no answer at a machine without a GPU, and at a service without alarm or restart."""


def run(call):
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def exposition() -> str:
    hub = Hub()
    hub.take(parts(state(**NUMBERS | {"resources": NUMBERS["resources"] | GPU, "waiting_bytes": 0})))
    hub.take(parts(progress(30, (4, 5))))
    registry = CollectorRegistry()
    registry.register(FeedCollector(hub))
    return generate_latest(registry).decode()


def test_prometheus_takes_configuration_and_rules(program, note):
    run([program("promtool"), "check", "config", MONITORING / "prometheus.yml"])
    run([program("promtool"), "check", "rules", MONITORING / "rules.yml"])
    note("prometheus.yml, rules.yml", "promtool check", is_own=True)


def test_every_alert_comes_when_it_must_and_none_in_a_good_night(program, note):
    run([program("promtool"), "test", "rules", MONITORING / "rules.test.yml"])
    tried = (MONITORING / "rules.test.yml").read_text()
    assert not [rule["alert"] for rule in RULES if f'alertname="{rule["alert"]}"' not in tried]
    note("alerts of rules.yml", "promtool test rules", is_own=True)


def test_the_names_of_the_metrics_follow_the_rules(program, note):
    call = [program("promtool"), "check", "metrics"]
    done = subprocess.run(call, input=exposition(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    note("/metrics", "promtool check metrics", is_own=True)


def test_alerts_and_panels_ask_only_for_metrics_that_there_are():
    given = {name.partition("{")[0] for name in samples(exposition())}
    for text in (*grafana_queries(), *(rule["expr"] for rule in RULES)):
        names = {name.removeprefix("cdi_stream_") for name in re.findall(r"cdi_stream_\w+", text)}
        assert names <= given, text


def test_the_page_about_monitoring_lists_every_metric():
    text = (DEPLOY / "docs" / "how-to" / "monitor.md").read_text()
    names = {re.sub(r"_(bucket|sum|count)$", "", name.partition("{")[0]) for name in samples(exposition())}
    assert not [name for name in names if f"`cdi_stream_{name}`" not in text]


def test_every_alert_has_its_section_in_the_runbook():
    text = (DEPLOY / "docs" / "how-to" / "runbook.md").read_text()
    anchors = {re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-") for line in headings(text)}
    for rule in RULES:
        page, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert (DEPLOY.parent / page).exists()
        assert anchor in anchors, rule["alert"]


def headings(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("#")]


def test_every_alarm_of_the_service_is_in_the_runbook():
    text = (DEPLOY / "docs" / "how-to" / "runbook.md").read_text()
    sources = "".join(path.read_text() for path in (DEPLOY.parent / "cdi_stream").rglob("*.py"))
    keys = set(re.findall(r"alarms\.set\(\s*\"([\w ]+)\"", sources))
    assert keys >= {"bus", "spool", "disk", "documents", "messages", "tiled server"}
    assert not [key for key in keys | {"tiled", "json_lines", "epics"} if f"`{key}`" not in text]


@pytest.mark.slow
def test_a_real_prometheus_answers_every_query_about_a_real_service(program, note, tmp_path, monkeypatch):
    """A simulated scan goes through service, worker, dashboard and Prometheus; then the service is killed."""
    monkeypatch.setenv("CDI_STREAM_LOG_FORMAT", "json")
    program("prometheus")
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    refine = '[refine]\nmethods = ["recipe"]\nrecipe = "30*ER"\n'
    with (
        beamline(
            tmp_path, recorded_scan("plain"), f'[feed]\nendpoint = "{endpoint}"\n', refine, has_tiled=False
        ) as line,
        dashboard(tmp_path, endpoint, token="word") as uri,
        prometheus(program("prometheus"), tmp_path, uri.removeprefix("http://"), "word") as server,
    ):
        line.start_service()
        line.start_detector()
        wait_until(lambda: server.value("cdi_stream_service_up") == 1.0, 60, "the service in Prometheus")
        assert line.start_plan(2).wait() == 0
        total = 'sum(cdi_stream_results_total{stage="reconstruction"})'
        wait_until(lambda: server.value(total) == 2.0, 300, "two reconstructions")
        refinements = 'sum(cdi_stream_results_total{stage="refinement"})'
        wait_until(lambda: server.value(refinements) == 2.0, 300, "two refinements")
        check_numbers(server, line)
        empty = [text for text in grafana_queries() if not server.query(text)]
        assert not [text for text in empty if not any(part in text for part in WITHOUT_DATA)]
        assert server.get("label/instance/values") == [uri.removeprefix("http://")]
        assert server.alerts() == set()
        note("grafana.json, all queries", "Prometheus itself, on a simulated scan", is_own=True)
        line.children.kill("service")
        wait_until(lambda: server.alerts() == {"CdiStreamServiceSilent"}, 60, "the alert about the silent service")
        assert server.value("cdi_stream_frames_total") is None, "no old numbers"
        line.start_service("second")
        wait_until(lambda: server.alerts() == set(), 60, "the end of the alert")
        assert server.value(total) == 0.0, "the counters have begun again"
    check_log(tmp_path / "service.log")
    check_log(line.config.publish.directory / "worker.log")


def check_numbers(server, line):
    """The numbers of Prometheus are those of the scan."""
    n_frames = len(recorded_scan("plain").frames)
    assert server.value('cdi_stream_frames_total{fate="received"}') == 2 * n_frames
    assert server.value('cdi_stream_frames_total{fate="missing"}') == 0
    assert server.value("cdi_stream_curves_total") == 2
    assert server.value('cdi_stream_latency_seconds_count{step="phase"}') == 2
    assert server.value('cdi_stream_latency_seconds_count{step="infer"}') == 2
    assert server.value('cdi_stream_jobs{state="done"}') == 2
    assert server.value('cdi_stream_documents_waiting{sink="bus"}') == 0
    assert server.value('cdi_stream_documents_delivered_total{sink="bus"}') > 10
    free = server.value("cdi_stream_results_disk_free_bytes / cdi_stream_results_disk_size_bytes")
    assert 0 < free < 1


def check_log(path: Path):
    """Every line is JSON, and the lines about results name run and curve."""
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    about = {(entry["run"], entry["curve_index"]) for entry in entries if "run" in entry}
    assert {index for _, index in about} == {0, 1}
    assert len({uid for uid, _ in about}) == 1
