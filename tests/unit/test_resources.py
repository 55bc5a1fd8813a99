from __future__ import annotations

import shutil

import pytest

from cdi_stream.documents.spool import Spool
from cdi_stream.live.resources import resources


def test_sizes_of_disk_spool_and_memory(tmp_path):
    Spool(tmp_path).close()
    sizes = resources(tmp_path)
    assert sizes["disk_free_bytes"] == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.1)
    assert sizes["disk_free_bytes"] < sizes["disk_size_bytes"]
    assert sizes["spool_bytes"] > 4000
    assert 10 << 20 < sizes["memory_bytes"] < 100 << 30


def test_a_folder_that_is_gone_is_left_out(tmp_path):
    assert "disk_free_bytes" not in resources(tmp_path / "gone")
