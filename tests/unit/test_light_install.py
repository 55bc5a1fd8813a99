"""A profile's environment has bluesky and ophyd only: the plugin imports there, the rest says what is missing."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

import pytest

from cdi_stream.replay.play import example_config
from sim_beamline.scan import recorded_scan

ROOT = Path(__file__).parents[2]

BLOCKED = """
import sys
HEAVY = {"torch", "numba", "skimage", "scipy", "h5py", "pydantic", "typer", "rich", "tifffile", "lz4", "ophyd_async"}
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in HEAVY:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name.split(".")[0])
sys.meta_path.insert(0, Absent())
"""


PROFILE = """
from cdi_stream_plugins.bluesky import CdiStream, Reconstruction, count_until_good, follow_crystal, map_crystals
from cdi_stream_plugins.bluesky import publisher, recentre, rocking_curve, wait_for_reconstruction, with_run_uid
import cdi_stream
"""


def run(code: str, python: str = sys.executable) -> subprocess.CompletedProcess[str]:
    return subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=300)


def test_the_profile_s_package_imports_without_the_service_s_packages():
    done = run(BLOCKED + PROFILE)
    assert done.returncode == 0, done.stderr


def test_what_needs_more_packages_says_how_to_install_them():
    done = run(BLOCKED + "import cdi_stream\ncdi_stream.read")
    assert "pip install 'cdi-stream[all]'" in done.stderr
    done = run(BLOCKED + "import runpy\nrunpy.run_module('cdi_stream', run_name='__main__')")
    assert done.returncode == 2
    assert done.stderr.startswith("error: expected the package")
    assert "Traceback" not in done.stderr


def test_a_service_without_torch_opens_no_socket_and_says_what_is_missing(tmp_path):
    """A profile's environment may have everything but torch; a socket would take documents that nobody processes."""
    config = tmp_path / "beamline.toml"
    config.write_text(example_config(recorded_scan("plain"), tmp_path))
    code = f"""
import runpy, sys
sys.modules |= dict.fromkeys(["torch", "cdi_stream.live.sockets"])
sys.argv = ["cdi-stream", "serve", "--config", {str(config)!r}]
runpy.run_module("cdi_stream", run_name="__main__")
"""
    done = run(code)
    assert done.returncode == 2, done.stderr
    assert "expected the package 'torch'" in " ".join(done.stderr.split())
    assert "service_python" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_an_environment_with_bluesky_and_ophyd_is_enough(tmp_path):
    """Quicker: the test above blocks the packages instead of leaving them out."""
    venv.create(tmp_path / "env", with_pip=True)
    python = str(tmp_path / "env" / "bin" / "python")
    install = [python, "-m", "pip", "install", "-q", "-c", str(ROOT / "cdi_stream" / "constraints.txt")]
    subprocess.run([*install, "ophyd", str(ROOT)], check=True, timeout=800)
    assert run(PROFILE, python).returncode == 0
    absent = run(
        "import importlib.util as u; print([n for n in ('torch', 'numba', 'skimage') if u.find_spec(n)])", python
    )
    assert absent.stdout.strip() == "[]"
