"""The operators' feed: small messages of the service about curves, frames, results and its state.

A message may be lost.  It has a header in JSON and, behind it, arrays of bytes.  Every header has ``schema``,
``service`` (new with each start of the service, so that a reader knows when counters start again), ``seq`` (rises by
one) and ``time_s`` (epoch).  Messages about a curve hold its *place*: ``raw_uid, scan_id, sample, plan_name, motors``
of the run (null, or an empty list, where the run states none) and ``curve_index`` in the run.  There are four kinds:

``progress``  a curve while it is measured, and once when it is over (``is_over``): place, ``series``,
              ``expected, received, missing, awaited, duplicate, late, bad``, and ``strip``, one letter for each frame
              or bin of frames: ``#`` received, ``x`` missing, ``.`` awaited
``frame``     the newest frame: ``series, image_id, shape`` of the full image, ``largest_counts, total_counts``; array
              ``frame``
``result``    a crystal: place, ``stage`` (preview, inference, reconstruction, refinement), ``run_uid``, ``verdict``
              (good, doubtful, failed; preliminary for a preview or an inference), ``reasons``, ``scalars`` by name,
              ``published`` (false while the arrays are not on disk and the bus) and ``problem`` (why, or null), for a
              refinement ``method``
              and ``recipe``, for a reconstruction ``frame_sums`` (counts of each frame); arrays ``amplitude_z,
              phase_z`` and so on for y and x
``state``     about once a second: ``queue`` (jobs by state), ``refinement`` (what is being refined, or null),
              ``counters`` (cumulative), ``waiting`` and ``waiting_bytes`` (curves in the queues), ``lag_s`` (now minus
              the newest frame), ``alarms``: the active alarms, each with ``key, text, since_s`` (epoch).  For the
              monitoring: ``start_s`` (epoch), ``resources`` (sizes of disk and memory in bytes), ``documents``
              (``waiting`` and ``delivered`` by sink), and since the start ``curves``, ``frames`` by fate, ``results``
              by stage and verdict, ``latencies`` by step: ``numbers`` in the bins of ``latency_bounds_s``, ``sum_s``

A service that sends nothing has stopped or cannot be reached.

Images are ``uint8``.  A frame runs from 0 to 255 on a logarithmic scale, log(1 + counts) over its maximum.  A slice
of the amplitude runs from 0 to the crystal's maximum.  A slice of the phase is 0 outside the support, and 1 to 255 for
-pi to pi about the crystal's mean phase, which no measurement fixes.
Slices with the name z lie in the plane [y, x], slices y in [z, x], and slices x in [z, y] of the array.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdi_stream.errors import WireError
from cdi_stream.messages import Crystal, CurveProgress, FrameAccount, RunContext

SCHEMA = "cdi_stream feed 1"
"""Name and version of the format, in each header."""

STAGES = ("preview", "inference", "reconstruction", "refinement")
"""Stages of a result, from the first to the last."""

MAX_SIDE = 256
"""Largest side of a frame in the feed [pixels]; larger frames are reduced."""

MAX_BINS = 400
"""Largest number of letters in a strip; further frames share a letter."""

Image = NDArray[np.uint8]
"""Picture ``(rows, cols)``, 0 to 255."""

FeedMessage = tuple[dict[str, Any], dict[str, Image]]
"""Header and images by name."""


def pack(header: Mapping[str, Any], images: Mapping[str, Image]) -> list[bytes]:
    """Return the parts of a 0MQ message: the header with names and shapes of the images, then each image."""
    entries = [{"name": name, "shape": list(image.shape)} for name, image in images.items()]
    text = json.dumps({**header, "schema": SCHEMA, "images": entries}, allow_nan=False)
    return [text.encode(), *(np.ascontiguousarray(image).tobytes() for image in images.values())]


def unpack(parts: Sequence[bytes]) -> FeedMessage:
    """Return header and images of a message from `pack`; raises `WireError` for any other message."""
    try:
        header = json.loads(parts[0])
        if header["schema"] != SCHEMA:
            raise WireError(f"expected {SCHEMA!r}, got {header['schema']!r:.60}")
        entries = header["images"]
        flat = zip(entries, parts[1:], strict=True)
        images = {str(i["name"]): np.frombuffer(part, np.uint8).reshape(i["shape"]) for i, part in flat}
    except (ValueError, KeyError, TypeError, IndexError, OverflowError, RecursionError) as error:
        raise WireError(f"expected a message of the feed, got {[part[:60] for part in parts[:1]]}: {error}") from error
    return header, images


def progress_message(progress: CurveProgress, *, is_over: bool = False) -> FeedMessage:
    """Return the message about the frames of a curve; until it is over, frames after the newest count as awaited."""
    account, n_passed = asdict(progress.account), _n_passed(progress.account, is_over)
    account["awaited"] = sum(index >= n_passed for index in progress.account.missing)
    account["missing"] = len(progress.account.missing) - account["awaited"]
    place = _place(progress.run, progress.curve_index)
    header = {"kind": "progress", **place, "series": str(progress.series), **account, "is_over": is_over}
    return header | {"strip": strip(progress.account, is_over=is_over)}, {}


def strip(account: FrameAccount, *, is_over: bool = False) -> str:
    """Return one letter for each frame; with more than `MAX_BINS` frames, the letter of the worst frame of each bin."""
    state = np.full(account.expected, 2, dtype=np.uint8)
    missing = np.array(account.missing, dtype=int)
    state[missing] = 1
    state[missing[missing >= _n_passed(account, is_over)]] = 0
    n_bins = min(account.expected, MAX_BINS)
    bins = np.array_split(state, n_bins) if n_bins else []
    return "".join(".x#"[1 if (b == 1).any() else int(b.min())] for b in bins)


def _n_passed(account: FrameAccount, is_over: bool) -> int:
    """Return the number of frames up to the newest received; all frames if the curve is over."""
    if is_over:
        return account.expected
    missing = set(account.missing)
    return next((i + 1 for i in reversed(range(account.expected)) if i not in missing), 0)


def frame_message(series: object, image_id: int, pixels: NDArray[Any]) -> FeedMessage:
    """Return the message with a frame, reduced to the maximum of each block of pixels.

    Pixels at the maximum of an integer data type mark gaps and count as 0.
    """
    is_whole = pixels.dtype.kind in "ui"
    counts = np.where(pixels == np.iinfo(pixels.dtype).max, 0, pixels) if is_whole else np.nan_to_num(pixels)
    block = max(1, math.ceil(max(counts.shape) / MAX_SIDE))
    rows, cols = (-(-n // block) * block for n in counts.shape)
    blocks = np.zeros((rows, cols), dtype=counts.dtype)
    blocks[: counts.shape[0], : counts.shape[1]] = counts
    reduced = blocks.reshape(rows // block, block, cols // block, block).max(axis=(1, 3))
    largest = int(counts.max(initial=0))
    logarithm = np.log1p(np.maximum(reduced, 0).astype(np.float32)) / max(math.log1p(largest), 1e-9)
    header = {"kind": "frame", "series": str(series), "image_id": image_id, "shape": list(pixels.shape)}
    sums = {"largest_counts": largest, "total_counts": int(counts.sum())}
    return header | sums, {"frame": (255 * logarithm).astype(np.uint8)}


def result_message(
    *, stage: str, run: RunContext, run_uid: str, curve_index: int, crystal: Crystal | None, **fields: Any
) -> FeedMessage:
    """Return the message about a result, with the central slices of the crystal; a failed result has no slices.

    Scalars that are not finite are left out.

    Parameters
    ----------
    stage
        Stage of the result: preview, inference, reconstruction or refinement.
    run, curve_index
        Raw run, and place of the curve in it.
    run_uid
        Uid of the run that publishes the result.
    crystal
        Crystal in lab coordinates, None if there is none.
    fields
        Further entries of the header.
    """
    header = {"kind": "result", "stage": stage, **_place(run, curve_index), "run_uid": run_uid}
    scalars = {key: value for key, value in fields.pop("scalars", {}).items() if math.isfinite(value)}
    return header | fields | {"scalars": scalars}, {} if crystal is None else slices(crystal)


def _place(run: RunContext, curve_index: int) -> dict[str, Any]:
    """Return the entries that name a curve: uid, scan number, sample, plan and motors of its run, and its index."""
    names = {"scan_id": run.scan_id, "sample": run.sample, "plan_name": run.plan_name, "motors": list(run.motors)}
    return {"raw_uid": run.uid, **names, "curve_index": curve_index}


def slices(crystal: Crystal) -> dict[str, Image]:
    """Return three slices of amplitude and phase through the origin voxel; the phase is relative to its mean."""
    pictures: dict[str, Image] = {}
    mean_phase = np.angle(crystal.density.sum(where=crystal.support))
    for axis, name in enumerate("zyx"):
        middle = crystal.density.shape[axis] // 2
        density, support = (np.take(array, middle, axis=axis) for array in (crystal.density, crystal.support))
        amplitude = np.abs(density) / max(float(np.abs(crystal.density).max()), 1e-30)
        pictures[f"amplitude_{name}"] = (255 * amplitude).astype(np.uint8)
        turn = (np.angle(density * np.exp(-1j * mean_phase)) + np.pi) / (2 * np.pi)
        pictures[f"phase_{name}"] = np.where(support, 1 + 254 * turn, 0).astype(np.uint8)
    return pictures
