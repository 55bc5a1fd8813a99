"""The one way to read a recorded scan: which reader is asked, and what is held against what."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest

from cdi_stream.errors import RecordingError
from cdi_stream.files.recorded_scan import read_recorded, readers_of
from cdi_stream.files.recording import write_scan
from cdi_stream.messages import RecordedScan

FRAMES = np.random.default_rng(0).poisson(3, (4, 5, 7)).astype(np.uint16)
SCAN = RecordedScan(
    name="scan",
    frames=FRAMES,
    beamline=None,
    scanned={"theta": np.arange(4.0)},
    baseline={},
    units={},
    frame_sums=FRAMES.sum(axis=(1, 2)).astype(np.int64),
)
GENEROUS = """
from cdi_stream_plugins.readers.own import OwnReader
VALUE = OwnReader
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Write a distribution with one reader, as an installer would leave it."""

    def write(plugin: str, source: str) -> None:
        folder = tmp_path / "site"
        info = folder / f"{plugin}-1.0.dist-info"
        info.mkdir(parents=True)
        (folder / f"made_up_{plugin}.py").write_text(source)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {plugin}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[cdi_stream.reader]\n{plugin} = made_up_{plugin}:VALUE\n")
        monkeypatch.syspath_prepend(folder)

    yield write
    for name in [name for name in sys.modules if name.startswith("made_up_")]:
        del sys.modules[name]


@pytest.fixture
def path(tmp_path):
    write_scan(SCAN, tmp_path / "scan.h5")
    return tmp_path / "scan.h5"


def test_frames_are_held_against_the_sums_on_record(path):
    assert read_recorded(path, None).doubts == ()
    write_scan(replace(SCAN, frames=FRAMES[::-1], doubts=("from before",)), path)
    first, second = read_recorded(path, None).doubts
    assert first == "from before"
    assert second.startswith("4 of 4 frames have another sum")


@pytest.mark.parametrize("frames", [FRAMES.astype(np.float32), FRAMES.astype(np.int32)])
def test_frames_of_every_type_are_held_against_their_sums(path, frames):
    write_scan(replace(SCAN, frames=frames), path)
    assert read_recorded(path, None).doubts == ()
    write_scan(replace(SCAN, frames=frames + 1), path)
    assert "4 of 4 frames have another sum" in read_recorded(path, None).doubts[0]


def test_sums_of_another_number_of_frames_are_refused(path):
    write_scan(replace(SCAN, frame_sums=np.arange(3)), path)
    with pytest.raises(RecordingError, match=r"a sum for each of 4 frames, got shape \(3,\)"):
        read_recorded(path, None)


def test_of_two_readers_the_one_that_reads_is_told(path, install):
    install("zz_generous", GENEROUS)
    assert list(readers_of(path)) == ["cdi_stream", "zz_generous"]
    assert read_recorded(path, None).notes == ("read by cdi_stream; zz_generous could read it too",)


def test_a_reader_that_cannot_be_imported_harms_no_other(path, install):
    install("aa_broken", "import no_such_module")
    np.testing.assert_array_equal(read_recorded(path, None).frames, FRAMES)


def test_what_nobody_reads_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("scan 54 was fine")
    with pytest.raises(RecordingError, match=r"notes\.txt: no reader understands it; installed are aps_spec_tiff"):
        read_recorded(tmp_path / "notes.txt", None)
    with pytest.raises(RecordingError, match="does not exist"):
        read_recorded(tmp_path / "absent", None)
