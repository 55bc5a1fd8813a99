"""A disk of the results that becomes full, or read-only, during scans, and has room again: a real one in memory."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cdi_stream.config import read_config
from cdi_stream.documents.tiled_server import free_port
from sim_beamline.scan import recorded_scan
from tests.system.beamline import TestBeamline, beamline
from tests.system.test_refinement import heard_feed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SIZE_MIB, LEAST_MIB = 320, 120
LONG = '[refine]\nmethods = ["recipe"]\nrecipe = "400*ER"\n'


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A disk of `SIZE_MIB` at a folder."""
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MIB}m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip(f"a disk in memory cannot be mounted here: {made.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def remount(disk: Path, mode: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{mode},size={SIZE_MIB}m", str(disk)], check=True)


def fill(disk: Path, left_mib: int) -> Path:
    """Write a file that leaves so much room."""
    path = disk / "somebody_else"
    path.unlink(missing_ok=True)
    size = shutil.disk_usage(disk).free - (left_mib << 20)
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, size)
    return path


@contextlib.contextmanager
def line_on(directory: Path, *lines: tuple[str, str]) -> Iterator[tuple[TestBeamline, Callable[[], set[str]]]]:
    """A beamline with other lines in its configuration, and a function that returns the active alarms."""
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    tables = f'\n[feed]\nendpoint = "{endpoint}"\n[retention]\nleast_free_bytes = {LEAST_MIB << 20}\n'
    scan = recorded_scan("plain")
    with heard_feed(endpoint) as heard, beamline(directory, scan, tables, refine_toml=LONG, has_tiled=False) as line:
        text = line.config_file.read_text()
        for old, new in lines:
            assert old in text
            text = text.replace(old, new)
        line.config_file.write_text(text)
        line.config = read_config(line.config_file)
        line.start_service()
        line.start_detector()

        def alarms() -> set[str]:
            states = [header for header, _ in heard() if header["kind"] == "state"]
            return {alarm["key"] for alarm in states[-1]["alarms"]} if states else set()

        yield line, alarms


def scanned(line: TestBeamline, n: int) -> dict[str, object]:
    """Play one more scan; return the data of its reconstruction."""
    assert line.start_plan().wait(120) == 0
    line.wait_until(lambda: len(line.ours("event", "reconstruction")) >= n, 180)
    data: dict[str, object] = line.ours("event", "reconstruction")[n - 1]["data"]
    return data


def n_refined(line: TestBeamline) -> int:
    return len(line.ours("stop", stage="refinement"))


def all_stored(line: TestBeamline, n: int) -> bool:
    """Whether the arrays of ``n`` reconstructions are on the disk, and their documents on the bus."""
    files = list(line.config.publish.directory.rglob("*_reconstruction.h5"))
    return len(files) == n and len(line.ours("stop")) == n


def test_refinement_stops_first_then_arrays_wait_and_all_comes_by_itself(tmp_path):
    place = f'directory = "{tmp_path}"', f'directory = "{tmp_path / "disk"}"'
    with small_disk(tmp_path / "disk") as disk, line_on(tmp_path, place) as (line, alarms):
        assert scanned(line, 1)["reconstruction_arrays"] == "stored"
        line.wait_until(lambda: n_refined(line) == 1)
        fill(disk, LEAST_MIB - 20)
        line.wait_until(lambda: "space" in alarms(), 30)
        assert scanned(line, 2)["reconstruction_arrays"] == "stored", "live results find room"
        assert n_refined(line) == 1, "refinement waits"
        filler = fill(disk, 8)
        assert scanned(line, 3)["reconstruction_arrays"] == "pending"
        line.wait_until(lambda: len(alarms()) >= 2, 30)
        filler.unlink()
        line.wait_until(lambda: all_stored(line, 3), 120)
        line.wait_until(lambda: n_refined(line) == 3, 180)
        line.wait_until(lambda: not alarms(), 60)


def test_a_folder_that_is_read_only_for_a_while_loses_no_result(tmp_path):
    folder = "[publish]\n", '[publish]\nfolder = "data"\n'
    with small_disk(tmp_path / "data") as disk, line_on(tmp_path, folder) as (line, alarms):
        scanned(line, 1)
        line.wait_until(lambda: n_refined(line) == 1)
        remount(disk, "ro")
        data = scanned(line, 2)
        assert data["reconstruction_arrays"] == "pending"
        assert data["reconstruction_frames_missing"] == 0
        line.wait_until(alarms, 30)
        remount(disk, "rw")
        line.wait_until(lambda: all_stored(line, 2), 120)
        assert scanned(line, 3)["reconstruction_arrays"] == "stored"
        line.wait_until(lambda: n_refined(line) == 3, 180)
        line.wait_until(lambda: not alarms(), 60)
