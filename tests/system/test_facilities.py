"""The lines for cdi-stream in the profiles of facilities: an instrument made by BITS, and one of nslsii.

Each needs an environment of its own: CDI_STREAM_BITS names a folder with apsbits, CDI_STREAM_NSLSII one with nslsii,
pyepics and bluesky-tiled-plugins, both with what ``pip install cdi-stream`` brings.  The service runs in this one.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cdi_stream.processes import processes
from tests.system.test_epics import Line
from tests.system.test_tiled_source import KEY, Server

FOLDER = Path(__file__).parent / "facilities"
ROOT = FOLDER.parents[2]
BITS = Path(os.environ.get("CDI_STREAM_BITS", "/nowhere")) / "bin"
NSLSII = Path(os.environ.get("CDI_STREAM_NSLSII", "/nowhere")) / "bin"

pytestmark = pytest.mark.slow

LINES = """
from cdi_stream_plugins.bluesky import CdiStream, Reconstruction, rocking_curve

stream = CdiStream("{config}", service_python="{python}")
RE.subscribe(stream)
crystal = Reconstruction("crystal", stream, timeout_s=120)
"""
DEVICES = """
sim_beamline.epics.devices.Goniometer:
- {name: goniometer, prefix: "SIM:", labels: ["baseline"]}
sim_beamline.epics.devices.TriggeredEiger:
- {name: eiger, prefix: "SIM:eiger:", labels: ["detectors"]}
"""


@pytest.fixture
def line(tmp_path, monkeypatch):
    """A simulated beamline; scripts run in the folder of the test, where profiles write their files."""
    made = Line(tmp_path, ["--fast"])
    paths = os.pathsep.join((str(ROOT), str(ROOT / "plugins")))
    made.environment |= {"CDI_STREAM_PYTHON": sys.executable, "PYTHONPATH": paths, "MPLBACKEND": "agg"}
    made.environment |= {"IPYTHONDIR": str(tmp_path / "ipython"), "BLUESKY_LOG_FILE": str(tmp_path / "bluesky.log")}
    made.environment |= {"BLUESKY_IPYTHON_LOG_FILE": str(tmp_path / "ipython.log")}
    monkeypatch.chdir(tmp_path)
    try:
        yield made
    finally:
        made.close()


def require_crystal(answer):
    assert answer["verdict"] in ("good", "doubtful"), answer
    assert answer["size_x_nm"] == pytest.approx(261, rel=0.08)


@pytest.mark.skipif(not (BITS / "bits-create").exists(), reason="no environment with apsbits (CDI_STREAM_BITS)")
def test_an_instrument_made_by_bits_measures_a_curve_beside_its_own_writers(line, tmp_path):
    (tmp_path / "scripts").mkdir()
    environment = line.environment | {"PATH": f"{BITS}:{os.environ['PATH']}"}
    subprocess.run([BITS / "bits-create", "bcdi"], cwd=tmp_path, env=environment, check=True, timeout=120)
    startup, configs = tmp_path / "src/bcdi/startup.py", tmp_path / "src/bcdi/configs"
    engine = "RE, sd = init_RE(iconfig, subscribers=[bec, cat])\n"
    text = startup.read_text()
    assert engine in text
    lines = LINES.format(config=line.config, python=sys.executable)
    startup.write_text(text.replace(engine, engine + lines))
    settings = (configs / "iconfig.yml").read_text()
    (configs / "iconfig.yml").write_text(settings.replace("FILES:\n    ENABLE: false", "FILES:\n    ENABLE: true"))
    (configs / "devices.yml").write_text((configs / "devices.yml").read_text() + DEVICES)
    require_crystal(line.run("curve", script=(str(BITS / "python"), str(FOLDER / "bits.py"))))
    assert list(tmp_path.glob("*.dat")), "the SPEC file of BITS"
    assert list(tmp_path.glob("*.hdf")), "the NeXus file of BITS"


@pytest.mark.skipif(not (NSLSII / "ipython").exists(), reason="no environment with nslsii (CDI_STREAM_NSLSII)")
@pytest.mark.parametrize("source", ["process", "tiled"])
def test_a_profile_of_nslsii_measures_a_curve(line, tmp_path, source):
    script = (str(NSLSII / "ipython"), "--no-banner", str(FOLDER / "nslsii_profile.py"))
    with contextlib.ExitStack() as stack:
        if source == "tiled":
            take_documents_from_tiled(line, tmp_path, stack)
        require_crystal(line.run(source, script=script))


def take_documents_from_tiled(line, folder, stack):
    """Start a Tiled server for the raw runs, and a service that takes the documents from there."""
    (folder / "raw").mkdir()
    server = Server(folder / "raw")
    stack.callback(server.stop)
    server.start()
    settings = line.config.read_text()
    address, results = (settings.split(f'{key} = "')[1].split('"')[0] for key in ("address", "subscribe"))
    options = f'"tiled"\noptions = {{ api_key = "{KEY}" }}'
    line.config.write_text(settings.replace('"process"', options).replace(address, server.uri))
    variables = {"TILED": server.uri, "TILED_KEY": KEY, "RESULTS": results}
    line.environment |= {f"CDI_STREAM_{name}": value for name, value in variables.items()}
    children = stack.enter_context(processes(folder))
    children.start("service", "cdi_stream", "serve", "--config", str(line.config))
    children.wait_for_file(folder / "results" / "ready", 120)
