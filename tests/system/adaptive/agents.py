"""Agents of bluesky-adaptive bring a crystal into the beam: they read the crystals that the plan has waited for.

``python agents.py AGENT`` runs in an environment with bluesky-adaptive, and prints one JSON object: what the agent has
measured, and the readings of ``crystal`` in the raw runs.
"""

from __future__ import annotations

import functools
import json
import os
import sys

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky import RunEngine

from cdi_stream_plugins.bluesky import CdiStream, Reconstruction, rocking_curve
from sim_beamline.epics.devices import Goniometer, TriggeredEiger

STEPS_UM = (1.2, -0.8, 0.1)

RE = RunEngine({}, context_managers=[])
goniometer = Goniometer("SIM:", name="goniometer")
eiger = TriggeredEiger("SIM:eiger:", name="eiger")
for device in (goniometer, eiger):
    device.wait_for_connection(timeout=60)
stream = CdiStream(os.environ["CDI_STREAM_CONFIG"], service_python=os.environ["CDI_STREAM_PYTHON"])
RE.subscribe(stream)
crystal = Reconstruction("crystal", stream, timeout_s=120)
curve = functools.partial(rocking_curve, eiger, goniometer.theta, 0.044, 0.604, 48, reconstruction=crystal)


class Crystals:
    """Readings of the device `crystal`, and the positions of the sample stage, by the uid of their run."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, object]] = {}
        self.starts: dict[str, dict[str, object]] = {}
        self._runs: dict[str, str] = {}

    def __call__(self, name, doc):
        if name == "start":
            self.starts[doc["uid"]] = doc
        elif name == "descriptor" and doc["name"] in ("baseline", "reconstruction"):
            self._runs[doc["uid"]] = doc["run_start"]
        elif name == "event" and doc["descriptor"] in self._runs:
            self.rows.setdefault(self._runs[doc["descriptor"]], {}).update(doc["data"])


crystals = Crystals()
RE.subscribe(crystals)


# --- version 1: an agent of SciPy, a plan that measures curves, and a function that reads their crystals -------------


def acquire(suggestions, actuators, sensors=None, md=None):
    """Measure a curve at each suggested position, in a run of its own; return the uids of the runs."""
    uids = []
    for suggestion in suggestions:
        yield from bps.mv(*(item for motor in actuators for item in (motor, suggestion[motor.name])))
        uids.append((yield from bpp.set_run_key_wrapper(curve(md=md), "curve")))
    return tuple(uids)


def evaluate(uids, suggestions):
    """Return the error of each crystal."""
    return [
        {"_id": s["_id"], "chi2": crystals.rows[uid]["crystal_chi2"]} for uid, s in zip(uids, suggestions, strict=True)
    ]


def optimize():
    from bluesky_adaptive.scipy import SCP, Objective, RangeDOF, Scipy

    place = RangeDOF(actuator=goniometer.sample_x, bounds=(-0.5, 1.5), parameter_type="float")
    agent = Scipy.Agent(
        sensors=[crystal],
        dofs=[place],
        objectives=[Objective(name="chi2", minimize=True)],
        evaluation_function=evaluate,
        acquisition_plan=acquire,
        optimizer=SCP.COBYLA,
    )
    events = []
    RE.subscribe(lambda name, doc: events.append(doc["data"]) if "chi2" in doc.get("data", ()) else None)
    RE(agent.optimize(iterations=4))
    return [(event["goniometer_sample_x"], event["chi2"]) for event in events]


# --- version 0.4: a recommendation after each run, from all its streams ---------------------------------------------


class Steps:
    """Recommends the positions of a list one by one, and keeps what it is told."""

    def __init__(self) -> None:
        self.told = []
        self._places = iter(STEPS_UM[1:])

    def ingest_many(self, places, errors):
        self.told.append((float(places[0]), float(errors[0])))

    def suggest(self, n):
        from bluesky_adaptive.recommendations import NoRecommendation

        try:
            return [next(self._places)]
        except StopIteration:
            raise NoRecommendation from None


def on_stop():
    from bluesky_adaptive.on_stop import recommender_factory
    from bluesky_adaptive.per_start import adaptive_plan

    motor, steps = goniometer.sample_x, Steps()
    callback, queue = recommender_factory(
        adaptive_obj=steps,
        independent_keys=["baseline['goniometer_sample_x'].values[0]"],
        dependent_keys=["reconstruction['crystal_chi2'].values[0]"],
        target_keys=[motor.name],
        stream_names=("baseline", "reconstruction"),
    )
    plan = adaptive_plan(
        [],
        {motor: STEPS_UM[0]},
        to_recommender=callback,
        from_recommender=queue,
        take_reading=lambda _, md: curve(md=md),
    )
    RE(plan)
    return steps.told


def main():
    assert stream.wait_for_service(120)
    measured = {"optimize": optimize, "on_stop": on_stop}[sys.argv[1]]()
    plans = [doc.get("plan_name") for doc in crystals.starts.values()]
    print(json.dumps({"measured": measured, "rows": list(crystals.rows.values()), "plans": plans}, default=float))
    stream.close()


if __name__ == "__main__":
    main()
