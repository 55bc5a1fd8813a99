"""Stock plans of a real RunEngine, `publisher` and `with_run_uid`, through the service: joined by uid, no doubt."""

from __future__ import annotations

import contextlib
import functools
import time
from collections import OrderedDict
from typing import Any

import bluesky.plans as bp
import numpy as np
import pytest
import zmq
from bluesky import RunEngine
from bluesky.preprocessors import SupplementalData

from cdi_stream_plugins.bluesky import publisher, rocking_curve, with_run_uid
from sim_beamline.devices import Axis, DetectorClient
from sim_beamline.scan import recorded_scan
from tests.system.beamline import beamline


class NamelessDetector(DetectorClient):
    """A detector whose events name neither series nor image, as most do."""

    def read(self) -> OrderedDict[str, Any]:
        return OrderedDict({f"{self.name}_total": {"value": np.float32(1), "timestamp": time.time()}})

    def describe(self) -> OrderedDict[str, Any]:
        return OrderedDict({f"{self.name}_total": {"source": "SIM", "dtype": "number", "shape": []}})


@pytest.fixture(scope="module")
def scan():
    return recorded_scan("plain")


@pytest.mark.slow
def test_stock_plans_are_joined_by_uid(scan, tmp_path):
    """Three plans, one after the other; the service learns of the run from the detector alone.

    Quicker: `test_profile` measures one curve through the service, `test_bluesky_run_uid` holds what stock plans send.
    """
    (moving,) = scan.scanned
    positions = scan.scanned[moving]
    with beamline(tmp_path, scan, has_tiled=False) as line, zmq.Context() as context:
        line.start_service()
        line.start_detector()
        axes = {name: Axis(name=name, unit=scan.units[name], value=value) for name, value in scan.baseline.items()}
        motor = Axis(name=moving, unit=scan.units[moving], value=float(positions[0]))
        detector = NamelessDetector(name="eiger", control_endpoint=line.control, context=context)
        span = (float(positions[0]), float(positions[-1]), len(positions))
        with contextlib.closing(publisher(line.config.documents.publish)) as send, contextlib.closing(detector):
            engine = RunEngine({}, context_managers=[])
            engine.subscribe(send)
            engine.preprocessors = [SupplementalData(baseline=list(axes.values()))]
            time.sleep(1)  # a publisher loses what it sends before its subscribers have met it
            stock = bp.scan([detector], motor, *span)
            uids = [*engine(with_run_uid(stock, detector)), *engine(rocking_curve(detector, motor, *span))]
            engine.preprocessors.append(functools.partial(with_run_uid, detector=detector))
            uids += engine(bp.list_scan([detector], motor, positions.tolist()))
            line.wait_until(lambda: len(line.ours("event", "reconstruction")) == 3 and len(line.ours("stop")) == 3)
        assert send.n_dropped == send.n_replaced == 0
        starts, events = line.ours("start"), line.ours("event", "reconstruction")
    assert {start["original_run_uid"] for start in starts} == set(uids)
    for event in events:
        data = event["data"]
        assert data["reconstruction_frames_received"] == data["reconstruction_frames_expected"] == len(scan.frames)
        assert data["reconstruction_reasons"] == ""
        assert data["reconstruction_verdict"] == "good"
