"""Assembler with a clock that is set by hand, and functions that build frames and documents."""

from __future__ import annotations

import numpy as np

from cdi_stream.assemble.assembler import Assembler
from cdi_stream.assemble.settings import AssembleSettings
from cdi_stream.files.recording import DETECTOR_HEADER
from cdi_stream.messages import DetectorFrame, Document, RecordedScan, SeriesStart

Item = tuple[str, Document] | DetectorFrame | SeriesStart
"""Document with its name, or message of the detector."""

N = 7


class Clock:
    """Monotonic clock that is set by hand."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Rig:
    """Assembler with its clock; takes messages and documents, and collects the curves."""

    def __init__(self, incoming=None, **settings) -> None:
        self.clock = Clock()
        self.wall_ahead_s = 0.0
        settings.setdefault("motors", frozenset({"theta"}))
        self.assembler = Assembler(AssembleSettings(**settings), self.clock, self.wall_s, incoming)
        self.curves = []

    def wall_s(self) -> float:
        return 1e9 + self.wall_ahead_s + self.clock()

    def feed(self, *items) -> None:
        for item in items:
            self.clock.now_s += 0.001
            if isinstance(item, tuple):
                self.assembler.on_document(*item)
            else:
                self.assembler.on_message(item)
            self.curves += self.assembler.poll()

    def settle(self, seconds: float = 300.0) -> list:
        for _ in range(30):
            self.clock.now_s += seconds / 30
            self.curves += self.assembler.poll()
        return self.curves


def picture(image_id: int) -> np.ndarray:
    return np.full((3, 5), image_id + 1, dtype=np.uint16)


def begin(series=1, user_data=None, n_images=N, **header) -> SeriesStart:
    return SeriesStart(series=series, n_images=n_images, user_data=user_data, **header)


def frame(image_id: int, series: int | str | None = 1) -> DetectorFrame:
    return DetectorFrame(series=series, image_id=image_id, pixels=picture(image_id))


def run_start(uid="run", **metadata):
    return ("start", {"uid": uid, "time": 1e9 + 99, "scan_id": 7, **metadata})


def descriptor(run="run", uid="primary", name="primary", units=None):
    keys = {"theta": {"units": "deg"} if units is None else {}}
    return ("descriptor", {"uid": uid, "run_start": run, "name": name, "data_keys": keys, "configuration": {}})


def event(seq_num, image_id=None, theta=None, series=None, desc="primary", time=0.0, **more):
    data = {"theta": 0.1 * seq_num if theta is None else theta, **more}
    if image_id is not None:
        data["det_image_id"] = image_id
    if series is not None:
        data["det_series_id"] = series
    return ("event", {"descriptor": desc, "seq_num": seq_num, "time": time, "data": data})


def run_stop(n, uid="run", **more):
    return ("stop", {"run_start": uid, "time": 1e9 + 500, "num_events": {"primary": n}, **more})


def all_events(**keywords):
    return [event(k + 1, image_id=k, **keywords) for k in range(N)]


def scan_begin(scan: RecordedScan, uid: str = "raw", **metadata) -> list[Item]:
    """What comes before the first point of a scan: start document, baseline, and the header of the detector."""
    units = {name: {"units": unit} for name, unit in scan.units.items() if unit}
    base = {"run_start": uid, "data_keys": units, "configuration": {}}
    header = {key: float(scan.detector[key]) for key in DETECTOR_HEADER if key in scan.detector}
    claim = {"run_uid": uid, "curve_index": 0, "n_points": len(scan.frames)}
    return [
        run_start(uid, motors=list(scan.scanned), **metadata),
        ("descriptor", {"uid": "baseline", "name": "baseline", **base}),
        ("event", {"descriptor": "baseline", "seq_num": 1, "time": 0.0, "data": dict(scan.baseline)}),
        ("descriptor", {"uid": "primary", "name": "primary", **base}),
        begin(1, claim, len(scan.frames), pixel_mask=scan.pixel_mask, **header),
    ]


def scan_points(scan: RecordedScan) -> list[list[Item]]:
    """Frame and event of each point of a scan."""
    return [
        [
            DetectorFrame(series=1, image_id=k, pixels=pixels),
            ("event", {"descriptor": "primary", "seq_num": k + 1, "time": 0.0, "data": _readings(scan, k)}),
        ]
        for k, pixels in enumerate(scan.frames)
    ]


def _readings(scan: RecordedScan, k: int) -> dict[str, float]:
    return {name: float(track[k]) for name, track in scan.scanned.items()} | {"det_image_id": k}
