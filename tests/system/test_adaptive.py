"""Agents of bluesky-adaptive read the crystal from the raw run, and say where to measure next.

bluesky-adaptive needs an environment of its own with bluesky, ophyd and pyepics; CDI_STREAM_ADAPTIVE names its folder.
Version 1 has the plan `optimize`, version 0.4 has recommendations after each run; the test of the other version skips.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.system.test_epics import Line

ENVIRONMENT = Path(os.environ.get("CDI_STREAM_ADAPTIVE", "/nowhere"))
AGENTS = Path(__file__).parent / "adaptive" / "agents.py"
PARTS = {"optimize": "scipy", "on_stop": "on_stop.py"}
"""Part of bluesky-adaptive that a way needs."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ENVIRONMENT / "bin" / "python").exists(), reason="no environment with bluesky-adaptive"),
]


@pytest.mark.parametrize("way", PARTS)
def test_an_agent_measures_where_the_crystals_before_tell_it_to(tmp_path, way):
    if not list(ENVIRONMENT.glob(f"lib/python*/site-packages/bluesky_adaptive/{PARTS[way]}")):
        pytest.skip(f"another version of bluesky-adaptive is installed, without {PARTS[way]}")
    line = Line(tmp_path, ["--fast"])
    line.environment |= {
        "CDI_STREAM_PYTHON": sys.executable,
        "PYTHONPATH": os.pathsep.join(map(str, (AGENTS.parents[3], AGENTS.parents[3] / "plugins"))),
    }
    try:
        answer = line.run(way, script=(str(ENVIRONMENT / "bin" / "python"), str(AGENTS)))
    finally:
        line.close()
    rows = answer["rows"]
    assert all(row["crystal_verdict"] in ("good", "doubtful") for row in rows), rows
    assert [chi2 for _, chi2 in answer["measured"]] == [row["crystal_chi2"] for row in rows]
    places_um = [place_um for place_um, _ in answer["measured"]]
    assert places_um == pytest.approx([row["goniometer_sample_x"] for row in rows], abs=0.1)
    assert len(set(places_um)) == len(rows) >= 3
    assert answer["plans"].count("rocking_curve") == len(rows)
