"""Geometry of APS 34-ID-C: sample circles theta, chi, phi and a delta-gamma arm, with motor names of its SPEC files."""

from cdi_stream.geometry.circles import Beamline, Circle, direction

APS_34IDC = Beamline(
    name="aps_34idc",
    sample_circles=(
        Circle(name="theta", axis=direction("y+"), motors=("Theta", "th")),
        Circle(name="chi", axis=direction("z-"), motors=("Chi",)),
        Circle(name="phi", axis=direction("y+"), motors=("Phi",)),
    ),
    detector_circles=(
        Circle(name="delta", axis=direction("y+"), motors=("Delta", "del")),
        Circle(name="gamma", axis=direction("x-"), motors=("Gamma", "gam")),
    ),
    row_direction=direction("y-"),
    col_direction=direction("x+"),
    energy_readings=(("energy", "eV"), ("Energy", "keV")),
    distance_readings=(("detector_distance", "m"), ("camdist", "mm")),
)
