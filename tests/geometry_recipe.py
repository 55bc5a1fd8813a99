"""A geometry case as the command `geometry` takes it, which tests change one key at a time."""

from __future__ import annotations

from typing import Any

BASE: dict[str, Any] = {
    "beam": [0, 0, 1],
    "sample_axes": ["y+", "z-", "y+"],
    "sample_names": ["theta", "chi", "phi"],
    "detector_axes": ["y+", "x-"],
    "detector_names": ["delta", "gamma"],
    "det_row_dir": "y-",
    "det_col_dir": "x+",
    "energy_eV": 9000.0,
    "distance_m": 0.5,
    "pixel_row_m": 5.5e-5,
    "pixel_col_m": 5.5e-5,
    "shape": [21, 24, 31],
    "beam_row": 12.0,
    "beam_col": 15.5,
    "sample_deg": {"theta": [0.3, 0.01], "chi": 90.0, "phi": 2.5},
    "scan": "theta",
    "detector_deg": {"delta": 30.5, "gamma": 13.8},
}
