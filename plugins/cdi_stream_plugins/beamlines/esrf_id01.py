"""Geometry of ESRF ID01: sample circles mu, eta, phi and a nu-delta arm, with motor names of BLISS."""

from cdi_stream.geometry.circles import Beamline, Circle, direction

ESRF_ID01 = Beamline(
    name="esrf_id01",
    sample_circles=(
        Circle(name="mu", axis=direction("y-")),
        Circle(name="eta", axis=direction("x-"), motors=("Eta",)),
        Circle(name="phi", axis=direction("y-"), motors=("Phi",)),
    ),
    detector_circles=(
        Circle(name="nu", axis=direction("y-"), motors=("Nu",)),
        Circle(name="delta", axis=direction("x-"), motors=("Delta", "del")),
    ),
    row_direction=direction("y-"),
    col_direction=direction("x+"),
    energy_readings=(("energy", "eV"), ("mononrj", "keV"), ("nrj", "keV")),
    distance_readings=(("detector_distance", "m"),),
)
