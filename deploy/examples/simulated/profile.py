"""Bluesky profile of the simulated beamline: the devices, the two lines for cdi-stream, and plans that decide.

Start the beamline with ``python -m sim_beamline --fast``, then use this file in IPython: ``ipython -i profile.py``.
"""

import os
from pathlib import Path

# Channel Access of the simulated beamline is on this machine only.
os.environ.setdefault("EPICS_CA_ADDR_LIST", "127.0.0.1")
os.environ.setdefault("EPICS_CA_AUTO_ADDR_LIST", "NO")

from bluesky import RunEngine
from bluesky.preprocessors import SupplementalData

from cdi_stream_plugins.bluesky import CdiStream, Reconstruction, count_until_good, map_crystals, rocking_curve
from sim_beamline.epics.devices import Goniometer, TriggeredEiger

RE = RunEngine({"proposal": "2026-1234", "cycle": "2026-3"})
goniometer = Goniometer("SIM:", name="goniometer")
eiger = TriggeredEiger("SIM:eiger:", name="eiger")
for device in (goniometer, eiger):
    device.wait_for_connection(timeout=60)
RE.preprocessors.append(SupplementalData(baseline=[goniometer]))

# The two lines for cdi-stream: documents go to the service, which is started if it does not run ...
cdi = CdiStream(os.environ.get("CDI_STREAM_CONFIG", Path(__file__).with_name("beamline.toml")))
RE.subscribe(cdi)
# ... and a device whose trigger waits for the crystal of the open run.
crystal = Reconstruction("crystal", cdi, timeout_s=120)

PLACES_UM = (0.0, 20.0, 40.0)
"""Places of the three crystals on the sample stage; the second is dim."""

CURVE = (eiger, goniometer.theta, 0.044, 0.604, 48)
"""Detector, motor, and positions of a rocking curve [deg]."""


def one_crystal():
    """Measure the crystal in the beam; the plan itself reads the result."""
    yield from rocking_curve(*CURVE, reconstruction=crystal)
    result = crystal.result
    print(f"{result.verdict}: chi2 {result.chi2:.3f}, {result.size_x_nm:.0f} nm along x, {result.seconds:.1f} s")
    return result


def three_crystals():
    """Go from crystal to crystal, one run each; a crystal that fails is skipped."""
    places = [{goniometer.sample_x: place_um} for place_um in PLACES_UM]
    return (yield from map_crystals(places, lambda number: one_crystal(), reconstruction=crystal))


def count(exposure_s=0.02, budget_s=30.0):
    """Measure the crystal in the beam with growing exposure until it is good, or its dose is spent."""
    return (
        yield from count_until_good(
            *CURVE,
            reconstruction=crystal,
            exposure=eiger.cam.acquire_time,
            exposure_s=exposure_s,
            budget_s=budget_s,
            factor=4.0,
        )
    )


if __name__ == "__main__":
    cdi.wait_for_service()
    RE(one_crystal())
