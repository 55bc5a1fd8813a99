"""Runs plans of the example profile in a process of its own: Channel Access takes its addresses from the environment.

``python -m tests.system.epics_plans PLAN`` prints one JSON object: results, and the readings of ``crystal`` by run.
"""

from __future__ import annotations

import json
import math
import runpy
import sys
import time
from pathlib import Path
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
from bluesky.preprocessors import SupplementalData

PROFILE = Path(__file__).parents[2] / "deploy" / "examples" / "simulated" / "profile.py"


class Session:
    """The profile, and the documents of its RunEngine."""

    def __init__(self) -> None:
        self.profile = runpy.run_path(str(PROFILE))
        self.documents: list[tuple[str, dict[str, Any]]] = []
        self.engine = self.profile["RE"]
        self.engine.subscribe(lambda name, doc: self.documents.append((name, doc)))
        assert self.profile["cdi"].wait_for_service(120)

    def readings(self) -> list[dict[str, Any]]:
        """Readings of the device `crystal`, with the uid of their run."""
        names = {doc["uid"]: doc for name, doc in self.documents if name == "descriptor"}
        events = [(names[doc["descriptor"]], doc) for name, doc in self.documents if name == "event"]
        return [
            {"run": descriptor["run_start"], **event["data"]}
            for descriptor, event in events
            if descriptor["name"] == "reconstruction"
        ]


def three_crystals(session: Session) -> dict[str, Any]:
    """Map the three crystals."""
    results: list[Any] = []

    def plan():
        results.extend((yield from session.profile["three_crystals"]()))

    session.engine(plan())
    return {"verdicts": [r.verdict for r in results], "uids": [r.uid for r in results], "readings": session.readings()}


def one_crystal(session: Session) -> dict[str, Any]:
    """Measure the crystal in the beam."""
    session.engine(session.profile["one_crystal"]())
    return {"readings": session.readings(), "last": session.documents[-1][0]}


def count(session: Session) -> dict[str, Any]:
    """Count until good, on the bright crystal and on the dim one."""
    answer = {}
    for name, place_um in (("bright", 0.0), ("dim", 20.0)):
        session.documents.clear()
        session.engine(bps.mv(session.profile["goniometer"].sample_x, place_um))
        session.engine(session.profile["count"]())
        answer[name] = [reading["crystal_verdict"] for reading in session.readings()]
    return answer


def recentre(session: Session) -> dict[str, Any]:
    """Find the peak of a crystal whose lattice is rotated, and the place of its peak on the detector."""
    from cdi_stream_plugins.bluesky import recentre

    profile, places, regions = session.profile, [], []
    detector, theta, start, stop, _ = profile["CURVE"]

    def move_roi(row: float, col: float):
        regions.append((row, col))
        yield from bps.null()

    centroid = ("eiger_centroid_row", "eiger_centroid_col")
    for place_um in profile["PLACES_UM"]:
        session.engine(bps.mv(profile["goniometer"].sample_x, place_um))
        session.engine(
            recentre(detector, theta, start, stop, 30, intensity="eiger_total", move_roi=move_roi, centroid=centroid)
        )
        places.append(theta.position)
    return {"theta_deg": places, "regions": regions}


def asynchronous(session: Session) -> dict[str, Any]:
    """Measure with ophyd-async devices and bluesky's own scan."""
    from ophyd_async.core import init_devices

    from cdi_stream_plugins.bluesky import with_run_uid
    from sim_beamline.epics.async_devices import AsyncEiger, AsyncGoniometer

    with init_devices():
        gonio = AsyncGoniometer("SIM:")
        camera = AsyncEiger("SIM:eiger:")
    circles = [gonio.chi, gonio.phi, gonio.delta, gonio.gamma, gonio.energy]
    session.engine.preprocessors = [SupplementalData(baseline=circles)]
    _, _, start, stop, n_points = session.profile["CURVE"]
    session.engine(with_run_uid(bp.scan([camera], gonio.theta, start, stop, n_points), camera))
    uid = session.documents[0][1]["uid"]
    result = session.profile["crystal"]._wait._listener.results.wait(uid, 0, 120)
    return {"verdict": result.verdict, "reasons": result.reasons, "size_x_nm": result.size_x_nm}


def fly(session: Session) -> dict[str, Any]:
    """Let the motor move while the camera takes frames by itself."""
    from cdi_stream_plugins.bluesky import with_run_uid
    from sim_beamline.epics.fly_scan import FlyScan

    _, theta, start, stop, n_points = session.profile["CURVE"]
    flyer = FlyScan("SIM:eiger:", theta, start, stop, n_points, 0.25, name="flyer")
    flyer.wait_for_connection(timeout=30)
    session.engine(with_run_uid(bpp.stage_wrapper(bp.fly([flyer]), [flyer]), flyer))
    uid = session.documents[0][1]["uid"]
    result = session.profile["crystal"]._wait._listener.results.wait(uid, 0, 120)
    sizes = [result.size_x_nm, result.size_y_nm, result.size_z_nm]
    return {"verdict": result.verdict, "reasons": result.reasons, "sizes_nm": sizes}


def motors(session: Session) -> dict[str, Any]:
    """Move motors to their limits, against their preferred direction, and stop one on its way."""
    theta = session.profile["goniometer"].theta
    try:
        theta.move(400)
        refusal = ""
    except Exception as error:  # noqa: BLE001 - the test looks at the error
        refusal = f"{type(error).__name__}: {error}"
    theta.move(1.0, wait=True)
    status = theta.move(-100.0, wait=False)
    time.sleep(0.3)
    theta.stop()
    status_is_over = _is_done(status)
    return {"refusal": refusal, "moved": theta.position, "is_over": status_is_over, "unit": theta.egu}


def _is_done(status: Any) -> bool:
    deadline = time.monotonic() + 5
    while not status.done and time.monotonic() < deadline:
        time.sleep(0.05)
    return bool(status.done)


def main() -> None:
    """Run the plan that the command line names."""
    session = Session()
    answer = globals()[sys.argv[1]](session)
    print(json.dumps(answer, default=lambda v: None if isinstance(v, float) and math.isnan(v) else str(v)))
    session.profile["cdi"].close()


if __name__ == "__main__":
    main()
