"""Image, compose file and manifests: what their programs and their schemas say, and whether all state the same."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from cdi_stream.config import read_config
from tests.deploy.conftest import DEPLOY
from tests.deploy.test_systemd import values_of

SECRETS = {"CDI_STREAM_DASHBOARD_TOKEN": "word", "CDI_STREAM_TILED_API_KEY": "key"}
KUBERNETES = DEPLOY / "kubernetes"


@pytest.fixture
def secrets(monkeypatch):
    for variable, value in SECRETS.items():
        monkeypatch.setenv(variable, value)


def test_the_image_follows_the_rules(program, note):
    call = [program("hadolint"), "--failure-threshold", "info", DEPLOY / "container" / "Containerfile"]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    note("Containerfile", "hadolint", is_own=False)


@pytest.fixture
def composed(program, tmp_path) -> dict[str, dict]:
    """The services of the compose file, as docker-compose reads them."""
    (tmp_path / "dist").mkdir()
    shutil.copytree(DEPLOY / "container", tmp_path / "deploy" / "container")
    done = compose_config(program, tmp_path, SECRETS)
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)["services"]


def compose_config(program, tmp_path, secrets):
    call = [program("docker-compose"), "-f", tmp_path / "deploy" / "container" / "compose.yaml", "config"]
    environment = {key: value for key, value in os.environ.items() if key not in SECRETS} | secrets
    return subprocess.run(call, capture_output=True, text=True, check=False, env=environment)


def test_docker_compose_takes_the_file_and_asks_for_its_secrets(program, note, composed, tmp_path):
    assert composed.keys() == {"proxy", "tiled", "service", "worker", "dashboard"}
    for name, service in composed.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
    assert "CDI_STREAM_DASHBOARD_TOKEN" in compose_config(program, tmp_path, {}).stderr
    note("compose.yaml", "docker-compose config, not started", is_own=True)


def test_the_feed_leaves_no_container(composed):
    published = [str(port) for service in composed.values() for port in service.get("ports", [])]
    assert not [port for port in published if "5580" in port]
    assert composed["dashboard"]["network_mode"] == composed["worker"]["network_mode"] == "service:service"


def rendered(program, overlay):
    done = subprocess.run(
        [program("kubectl"), "kustomize", KUBERNETES / overlay], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("overlay", ["base", "gpu"])
def test_the_manifests_fit_the_schemas(program, note, tmp_path, overlay):
    file = tmp_path / f"{overlay}.yaml"
    file.write_text(rendered(program, overlay))
    note(f"kubernetes/{overlay}/kustomization.yaml", "kubectl kustomize", is_own=True)
    call = [program("kubernetes-validate"), "--strict", file]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    file.write_text(file.read_text().replace("terminationGracePeriodSeconds: 20", "terminationGracePeriodSecond: 20"))
    assert subprocess.run(call, capture_output=True, check=False).returncode != 0, "a mistake is seen"
    note(f"kubernetes/{overlay}, manifests", "kubernetes-validate", is_own=False)


def test_a_gpu_is_asked_for_by_its_overlay_only(program):
    assert "nvidia.com/gpu: 1" in rendered(program, "gpu")
    assert "nvidia.com/gpu" not in rendered(program, "base")


@pytest.mark.parametrize("path", [DEPLOY / "container" / "beamline.toml", KUBERNETES / "base" / "beamline.toml"])
def test_the_configuration_of_the_containers_is_good_with_the_secrets(path, secrets):
    config = read_config(path)
    assert config.dashboard.token == "word"
    assert config.publish.tiled_api_key == "key"
    assert config.documents.curve is not None


def commands_of_systemd() -> dict[str, list[str]]:
    found = {}
    for unit in (DEPLOY / "systemd").glob("*.service"):
        path, *arguments = shlex.split(values_of(unit, "Service")["execstart"][0])
        found[unit.stem.removeprefix("cdi-stream-").rstrip("@")] = [Path(path).name, *arguments]
    found["service"] = found.pop("serve")
    return found


def commands_of_compose(services) -> dict[str, list[str]]:
    return {
        name: [*service.get("entrypoint", ["cdi-stream"]), *service["command"]] for name, service in services.items()
    }


def commands_of_kubernetes(text) -> dict[str, list[str]]:
    containers = [
        container
        for document in yaml.safe_load_all(text)
        if document["kind"] in ("Deployment", "StatefulSet")
        for container in document["spec"]["template"]["spec"]["containers"]
    ]
    return {c["name"]: c.get("command") or ["cdi-stream", *c["args"]] for c in containers}


def plain(command):
    """A command without what differs between a machine and a container: folder of results, host and port of Tiled."""
    words = [word for argument in command for word in argument.split("=", 1)]
    words = [word.replace("/var/lib/cdi-stream", "/results") for word in words]
    return [word for word in words if word not in ("127.0.0.1", "0.0.0.0", "8000", "8020")]


def test_systemd_compose_and_kubernetes_start_the_same_commands(program, composed):
    ours = commands_of_systemd()
    for other in (commands_of_compose(composed), commands_of_kubernetes(rendered(program, "base"))):
        assert other.keys() == {"proxy", "tiled", "service", "worker", "dashboard"}
        for name, command in other.items():
            assert plain(command) == plain(ours[name]), name


def test_no_file_names_a_registry():
    for path in DEPLOY.rglob("*"):
        if path.is_file() and path.suffix in ("", ".yaml", ".toml", ".sbatch") and path.name != "conf.py":
            for host in ("docker.io", "ghcr.io", "quay.io", "pypi.org", "gcr.io"):
                assert host not in path.read_text(), path


def test_pod_and_compose_have_one_configuration_but_for_the_address_of_tiled():
    pod, compose = (
        tomllib.loads((DEPLOY / folder / "beamline.toml").read_text()) for folder in ("kubernetes/base", "container")
    )
    assert pod["publish"].pop("tiled") == "http://127.0.0.1:8000"
    assert compose["publish"].pop("tiled") == "http://tiled:8000"
    assert pod == compose
