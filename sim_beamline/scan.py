"""Simulate a recorded scan, with counting noise and with dead, hot and missing pixels."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdi_stream.messages import RecordedScan
from sim_beamline.cases import SimulatedScan, simulated_scan
from sim_beamline.diffract import Experiment, rocking_curve

_DEAD = 12
_GAP_FROM_EDGE = 14
_HOT_COUNTS = 400
_GAP_VALUE = 2**32 - 1


def recorded_scan(name: str, cache: Path | None = None) -> RecordedScan:
    """Return the recorded scan of a case of `sim_beamline.cases`; the diffraction is cached by its parameters."""
    return record(simulated_scan(name), cache)


def record(scan: SimulatedScan, cache: Path | None = None) -> RecordedScan:
    """Return the recording of a simulated scan, with counting noise and bad pixels."""
    rng = np.random.default_rng(scan.seed)
    intensity = _cached(scan, cache or default_cache())
    frames = rng.poisson(intensity * (scan.photons / intensity.sum())).astype(np.uint32)
    mask = _spoil(frames, rng)
    fixed = {**scan.experiment.sample_deg, **scan.experiment.arm_deg, "energy": scan.experiment.photon_energy_ev}
    moving = fixed.pop(scan.rocking)
    assert isinstance(moving, tuple)
    return RecordedScan(
        name=f"simulated {scan.name}",
        frames=frames,
        beamline=_beamline(scan.experiment),
        scanned={scan.rocking: np.array(moving)},
        baseline={k: float(v) for k, v in fixed.items()} | {"detector_distance": scan.experiment.distance_m},  # type: ignore[arg-type]
        units={**dict.fromkeys(fixed, "deg"), scan.rocking: "deg", "energy": "eV", "detector_distance": "m"},
        detector={
            "pixel_row_m": scan.experiment.pixel_row_m,
            "pixel_col_m": scan.experiment.pixel_col_m,
            "beam_row": scan.experiment.beam_row,
            "beam_col": scan.experiment.beam_col,
            "count_time_s": 0.1,
        },
        pixel_mask=mask,
        times_s=np.arange(len(frames), dtype=np.float64) * 0.1,
        frame_sums=np.where(frames == _GAP_VALUE, 0, frames).sum(axis=(1, 2), dtype=np.int64),
        truth={"case": scan.name},
    )


def default_cache() -> Path:
    """Return the folder for computed diffraction, in the user's cache of the XDG base directory specification."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "cdi-stream"


def _cached(scan: SimulatedScan, cache: Path) -> NDArray[np.float64]:
    key = hashlib.sha256(repr((scan.experiment, scan.crystal, scan.pitch_m)).encode()).hexdigest()[:16]
    path = cache / f"{scan.name}-{key}.npy"
    if path.exists():
        result: NDArray[np.float64] = np.load(path, allow_pickle=False).astype(np.float64)
        return result
    intensity = rocking_curve(scan.crystal, scan.experiment, scan.pitch_m)
    cache.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.npy")
    np.save(part, intensity.astype(np.float32))
    part.rename(path)
    return intensity


def _spoil(frames: NDArray[np.uint32], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Add dead pixels, a gap and a hot pixel to the frames; return the detector's mask, without the hot pixel."""
    rows, cols = frames.shape[1:]
    mask = np.ones((rows, cols), dtype=bool)
    mask[rng.integers(0, rows, _DEAD), rng.integers(0, cols, _DEAD)] = False
    frames[:, ~mask] = 0
    mask[:, _GAP_FROM_EDGE : _GAP_FROM_EDGE + 2] = False
    frames[:, :, _GAP_FROM_EDGE : _GAP_FROM_EDGE + 2] = _GAP_VALUE
    hot = (rows - 7, cols - 11)
    frames[:, hot[0], hot[1]] += rng.poisson(_HOT_COUNTS, len(frames)).astype(np.uint32)
    return mask


def _beamline(experiment: Experiment) -> str | dict[str, Any]:
    """Return the name of 34-ID-C if the experiment has its geometry, else the whole geometry."""
    if experiment.col_direction == "x+":
        return "aps_34idc"
    return {
        "name": "simulated",
        "sample_circles": [[name, axis] for name, axis in experiment.sample_circles.items()],
        "detector_circles": [[name, axis] for name, axis in experiment.arm_circles.items()],
        "row_direction": experiment.row_direction,
        "col_direction": experiment.col_direction,
    }
