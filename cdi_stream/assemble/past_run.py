"""Curves of a past run, assembled of its documents and its images in an archive as of a live run."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cdi_stream.assemble.assembler import Assembler
from cdi_stream.assemble.settings import AssembleSettings
from cdi_stream.documents.readings import whole
from cdi_stream.errors import RecordingError, WireError
from cdi_stream.messages import POINTS_PER_CURVE, Box, DetectorFrame, RockingCurve, SeriesEnd, SeriesStart
from cdi_stream.protocols import PastImages, PastRun

BLOCK_BYTES = 32 << 20
"""Size of the images that are read from an archive at a time [bytes]."""


def curves_of_run(run: PastRun, settings: AssembleSettings, detector: str | None = None) -> list[RockingCurve]:
    """Return the rocking curves of a past run.

    Parameters
    ----------
    run
        Documents and images.
    settings
        Settings of the assembler; its region of interest is cut from the images.
    detector
        Data key of the images; None: the only one.

    Raises
    ------
    RecordingError
        If the run has no images or several kinds, or if documents and images give no curve.
    """
    images = _images_of(run, detector)
    n_points = whole(run.start.get(POINTS_PER_CURVE)) or images.shape[0]
    now_s = itertools.count(0.0, settings.idle_timeout_s + 1.0)
    clock_s = [next(now_s)]
    # At time 0 no time of a document counts: frames of an archive have no time of receipt to compare it with.
    assembler = Assembler(settings, lambda: clock_s[0], lambda: 0.0)
    curves: list[RockingCurve] = []
    try:
        for name, doc in run.documents:
            assembler.on_document(name, doc)
        for index, first in enumerate(range(0, images.shape[0], n_points)):
            n = min(n_points, images.shape[0] - first)
            claim = {"run_uid": run.start["uid"], "curve_index": index, "n_points": n_points}
            start = SeriesStart(series=f"{images.key} {index}", n_images=n, roi=settings.roi, user_data=claim)
            assembler.on_message(start)
            for image_id, pixels in _frames(images, first, n, settings.roi):
                assembler.on_message(DetectorFrame(series=start.series, image_id=image_id, pixels=pixels))
            assembler.on_message(SeriesEnd(series=start.series))
            clock_s[0] = next(now_s)
            curves += [replace(curve, key="") for curve in assembler.poll()]
    except WireError as error:
        raise RecordingError(f"run {run.start['uid']}: {error}") from error
    if not curves:
        raise RecordingError(f"run {run.start['uid']}: expected a rocking curve, got none: check its plan")
    return curves


def _images_of(run: PastRun, detector: str | None) -> PastImages:
    """Return the images of the detector; raises `RecordingError` unless there is exactly one choice."""
    uid = run.start["uid"]
    if not run.images:
        raise RecordingError(
            f"run {uid}: expected images in Tiled, got none: its frames went over the wire only. Record such runs with "
            "'cdi-stream record --documents', and give the recorded file instead of the uid"
        )
    names = ", ".join(sorted({images.key for images in run.images}))
    chosen = [images for images in run.images if detector in (None, images.key)]
    if len(chosen) != 1:
        got = "several" if detector is None else repr(detector)
        raise RecordingError(f"run {uid}: expected --detector with one of the images {names}, got {got}")
    return chosen[0]


def _frames(images: PastImages, first: int, n: int, roi: Box | None) -> Iterator[tuple[int, NDArray[np.generic]]]:
    """Yield the images of one curve, cut to the region of interest, each with its number."""
    window = (slice(None), slice(None)) if roi is None else (slice(roi[0], roi[1]), slice(roi[2], roi[3]))
    n_block = max(1, BLOCK_BYTES // (8 * images.shape[1] * images.shape[2]))
    for begin in range(0, n, n_block):
        block = images.read(first + begin, min(n_block, n - begin))
        for k, pixels in enumerate(block, start=begin):
            yield k, _counts(pixels[window], images.key)


def _counts(pixels: NDArray[np.generic], key: str) -> NDArray[np.generic]:
    """Return pixels as integers of 32 bits at most; raises `RecordingError` if they hold other values than counts."""
    if pixels.dtype.kind in "ui" and pixels.dtype.itemsize <= 4:
        return pixels
    counts = pixels.astype(np.uint32)
    if not np.array_equal(counts, pixels):
        raise RecordingError(
            f"{key}: expected whole numbers from 0 to {2**32 - 1}, got {pixels.dtype}: give raw counts"
        )
    return counts
