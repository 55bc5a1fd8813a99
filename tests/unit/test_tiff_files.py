"""Frames in TIFF: pages, numbered files, gaps, and what is refused."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import tifffile

from cdi_stream.errors import InputError, IntensitiesError
from cdi_stream.files.intensities import limits
from cdi_stream.files.intensities.read import read_intensities
from tests.unit.test_intensities import box_pattern


def frames(tmp_path, numbers=None, name="scan_{:d}.tif", stack=None):
    """A folder of numbered frames, one for each number."""
    stack = box_pattern() if stack is None else stack
    folder = tmp_path / "frames"
    folder.mkdir()
    for number, image in zip(range(len(stack)) if numbers is None else numbers, stack, strict=True):
        tifffile.imwrite(folder / name.format(number), image)
    return folder


@pytest.mark.parametrize("dtype", ["u1", "u2", "i4", "f4", ">u2"])
@pytest.mark.parametrize("shape", [(24, 24, 24), (32, 32)])
@pytest.mark.parametrize("is_big", [False, True])
def test_all_pages_of_a_file(tmp_path, shape, dtype, is_big):
    counts = np.minimum(box_pattern(shape), 200).astype(dtype)
    tifffile.imwrite(tmp_path / "a.dat", counts, bigtiff=is_big, photometric="minisblack")
    found = read_intensities(tmp_path / "a.dat", cleans=False)
    np.testing.assert_array_equal(found.counts, counts)
    assert found.axes == ("frame", "row", "col")[-len(shape) :]


def test_numbers_decide_the_order_not_letters(tmp_path):
    folder = frames(tmp_path)
    (folder / "._scan_3.tif").write_bytes(b"what a Mac leaves")
    (folder / "notes.txt").write_text("hello")
    found = read_intensities(folder)
    np.testing.assert_array_equal(found.counts, box_pattern())
    assert (found.notes, found.doubts) == ((), ())


@pytest.mark.parametrize("numbers", [range(5, 29), range(0, 240, 10)])
def test_the_first_number_and_an_even_step_do_not_matter(tmp_path, numbers):
    found = read_intensities(frames(tmp_path, numbers, "run7_{:05d}_eiger.tiff"))
    np.testing.assert_array_equal(found.counts, box_pattern())
    assert found.doubts == ()


def test_a_missing_frame_is_masked_and_doubted_and_the_others_keep_their_places(tmp_path):
    folder = frames(tmp_path)
    (folder / "scan_5.tif").unlink()
    (folder / "scan_6.tif").unlink()
    found = read_intensities(folder)
    np.testing.assert_array_equal(np.delete(found.counts, (5, 6), 0), np.delete(box_pattern(), (5, 6), 0))
    np.testing.assert_array_equal(~found.valid_pixels.any(axis=(1, 2)), np.isin(np.arange(24), (5, 6)))
    assert found.doubts == ("2 frames are missing (5, 6): they are masked, the others keep their places",)


def test_a_single_numbered_image_is_a_plane(tmp_path):
    folder = frames(tmp_path, [7], stack=box_pattern((32, 32))[None])
    assert read_intensities(folder).counts.shape == (32, 32)


@pytest.mark.parametrize(
    ("name", "image", "said"),
    [
        ("extra.tif", np.zeros((24, 24), "u4"), "expected a number in the name"),
        (
            "scan_007.tif",
            np.zeros((24, 24), "u4"),
            "expected one frame of each number, got scan_007.tif and scan_7.tif",
        ),
        ("other_99.tif", np.zeros((24, 24), "u4"), "expected the frames of one scan, got 24 of scan_"),
        ("scan_900.tif", np.zeros((24, 24), "u4"), "with few missing, got 25 files numbered 0 to 900"),
        ("scan_24.tif", np.zeros((24, 25), "u4"), r"expected uint32 \(24, 24\) like the first frame"),
        ("scan_24.tif", np.zeros((24, 24), "u2"), "like the first frame"),
        ("scan_24.tif", np.zeros((2, 24, 24), "u4"), "expected one page, got 2"),
        ("scan_24.tif", np.zeros((24, 24, 3), "u1"), "one number a pixel"),
    ],
)
def test_a_folder_that_is_not_one_scan_is_refused(tmp_path, name, image, said):
    folder = frames(tmp_path)
    tifffile.imwrite(folder / name, image, photometric="rgb" if image.shape[-1] == 3 else "minisblack")
    with pytest.raises(IntensitiesError, match=said):
        read_intensities(folder)


def test_compression_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", box_pattern(), compression="zlib", photometric="minisblack")
    with pytest.raises(IntensitiesError, match="without compression"):
        read_intensities(tmp_path / "a.tif")


def test_a_scan_number_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", box_pattern(), photometric="minisblack")
    with pytest.raises(IntensitiesError, match=r"--scan 3: expected a file or folder of scans, got .* as TIFF"):
        read_intensities(tmp_path / "a.tif", scan=3)


def test_nothing_is_allocated_for_a_claim(tmp_path, monkeypatch):
    """A header of a few bytes that speaks of 60 000 x 60 000 pixels."""
    entries = [(256, 4, 60_000), (257, 4, 60_000), (258, 3, 16), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1),
               (278, 4, 60_000), (279, 4, 2**32 - 1)]  # fmt: skip
    body = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    (tmp_path / "a.tif").write_bytes(struct.pack("<2sHIH", b"II", 42, 8, len(entries)) + body + bytes(4))
    with pytest.raises(IntensitiesError, match="at most 268435456 voxels"):
        read_intensities(tmp_path / "a.tif")
    monkeypatch.setattr(limits, "MAX_VOXELS", 10**10)
    with pytest.raises(IntensitiesError, match="cut short"):
        read_intensities(tmp_path / "a.tif")
    monkeypatch.setattr(limits, "MAX_VOXELS", 10_000)
    with pytest.raises(IntensitiesError, match="at most 10000 voxels"):
        read_intensities(frames(tmp_path))


def test_a_stack_cut_among_its_headers_is_no_shorter_stack(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for image in box_pattern():
            file.write(image, photometric="minisblack", contiguous=False)
    whole = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(IntensitiesError, match=r"header of page \d+, got the file's end"):
        read_intensities(tmp_path / "a.tif")


def test_a_stack_with_one_header_is_no_plane(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", box_pattern(), photometric="minisblack", metadata={}, truncate=True)
    with pytest.raises(IntensitiesError, match="a header for every page"):
        read_intensities(tmp_path / "a.tif")


def test_every_truncation_and_flipped_bytes_give_an_answer_or_an_error_of_ours(tmp_path):
    path, rng = tmp_path / "a.tif", np.random.default_rng(0)
    tifffile.imwrite(path, box_pattern(), photometric="minisblack")
    whole = path.read_bytes()
    for n in [*range(0, 300, 17), *np.linspace(300, len(whole) - 40, 15).astype(int).tolist()]:
        path.write_bytes(whole[:n])
        with pytest.raises(InputError):
            read_intensities(path)
    for _ in range(60):
        spoilt = bytearray(whole)
        for place in rng.integers(0, 400, 3):
            spoilt[place] = rng.integers(256)
        path.write_bytes(spoilt)
        try:
            found = read_intensities(path)
        except InputError:
            continue
        assert found.counts.ndim in (2, 3)
