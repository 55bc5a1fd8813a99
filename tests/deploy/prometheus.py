"""A real Prometheus, which scrapes a dashboard with our configuration."""

from __future__ import annotations

import contextlib
import json
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from cdi_stream.documents.tiled_server import free_port
from cdi_stream.processes import start_child
from tests.deploy.conftest import DEPLOY
from tests.system.browser import wait_until

MONITORING = DEPLOY / "monitoring"


class Prometheus:
    """Its HTTP interface at ``uri``."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def get(self, path: str, **values: str) -> Any:
        query = urllib.parse.urlencode(values)
        with urllib.request.urlopen(f"{self.uri}/api/v1/{path}?{query}", timeout=10) as answer:
            return json.load(answer)["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        return self.get("query", query=expression)["result"]

    def value(self, expression: str) -> float | None:
        result = self.query(expression)
        return float(result[0]["value"][1]) if result else None

    def alerts(self) -> set[str]:
        """Names of the alerts that fire."""
        return {alert["labels"]["alertname"] for alert in self.get("alerts")["alerts"] if alert["state"] == "firing"}

    def is_up(self) -> bool:
        with contextlib.suppress(OSError):
            return self.value("vector(1)") == 1.0
        return False


@contextlib.contextmanager
def prometheus(program: str, folder: Path, target: str, token: str, every_s: int = 1) -> Iterator[Prometheus]:
    """Run Prometheus on ``target``, with our configuration but for address, interval [s] and token."""
    config = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": f"{every_s}s", "evaluation_interval": f"{every_s}s"}
    config["rule_files"] = [str(MONITORING / "rules.yml")]
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [target]
    config["scrape_configs"][0]["authorization"] = {"credentials_file": str(folder / "token")}
    (folder / "token").write_text(token)
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    call = [program, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'tsdb'}"]
    with (folder / "prometheus.log").open("wb") as log:
        process = start_child([*call, f"--web.listen-address=127.0.0.1:{port}"], log)
    try:
        one = Prometheus(f"http://127.0.0.1:{port}")
        wait_until(lambda: process.poll() is not None or one.is_up(), 60, "Prometheus")
        assert process.poll() is None, (folder / "prometheus.log").read_text()
        yield one
    finally:
        process.terminate()
        process.wait(20)


def grafana_queries() -> list[str]:
    """All queries of the dashboard of Grafana, with its variables replaced as Grafana replaces them."""
    board = json.loads((MONITORING / "grafana.json").read_text())
    texts = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    texts += [entry["expr"] for entry in board["annotations"]["list"]]
    return [text.replace("$instance", ".*").replace("$__rate_interval", "1m") for text in texts]
