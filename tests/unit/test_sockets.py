"""Sockets are open before torch is loaded: documents that are sent before are lost."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cdi_stream.config import read_config
from cdi_stream.documents.tiled_server import free_port
from cdi_stream.errors import ConfigError
from cdi_stream.live.sockets import open_sockets

OPENED = """
import sys
from pathlib import Path
from cdi_stream.config import read_config
from cdi_stream.live.sockets import open_sockets
with open_sockets(read_config(Path("deploy/beamline.toml"))) as sockets:
    assert sockets.detector is None, "a detector that pushes waits by itself"
heavy = {"torch", "numba", "scipy", "skimage", "bluesky", "tiled", "matplotlib", "pint"} & set(sys.modules)
assert not heavy, heavy
"""


def test_a_configuration_is_read_and_sockets_are_opened_without_anything_heavy():
    done = subprocess.run([sys.executable, "-c", OPENED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


SOURCE = """
[detector]
endpoint = "tcp://127.0.0.1:9999"
[geometry]
beamline = "aps_34idc"
[documents]
source = "process"
address = "tcp://127.0.0.1:%d"
[documents.options]
%s = "x"
"""


def test_an_option_that_the_source_does_not_know_is_refused(tmp_path):
    file = tmp_path / "beamline.toml"
    file.write_text(SOURCE % (free_port(), "colour"))
    message = r"documents\.options of the source 'process': .*colour"
    with pytest.raises(ConfigError, match=message), open_sockets(read_config(file)):
        pass
