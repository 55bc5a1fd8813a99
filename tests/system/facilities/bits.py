"""A rocking curve in an instrument made by BITS, whose startup has the lines for cdi-stream: ``python bits.py curve``.

The folder ``src`` with the instrument is in the working directory.  Prints the readings of ``crystal`` as JSON.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path("src").resolve()))

from bcdi import startup

assert startup.stream.wait_for_service(120)
goniometer, eiger = startup.oregistry["goniometer"], startup.oregistry["eiger"]
plan = startup.rocking_curve(eiger, goniometer.theta, 0.044, 0.604, 48, reconstruction=startup.crystal)
(uid,) = startup.RE(plan)
startup.stream.close()
print(json.dumps({"run": uid, **dataclasses.asdict(startup.crystal.result)}))
