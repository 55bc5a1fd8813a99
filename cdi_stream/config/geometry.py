"""Section ``[geometry]``, with a beamline by name or written out."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from cdi_stream.config.section import Section, in_words, require_plugin
from cdi_stream.config.values import Degrees, Metres, Name, PhotonEnergy, PixelPlace, PixelSize
from cdi_stream.errors import ConfigError
from cdi_stream.geometry.circles import Beamline, Circle, direction
from cdi_stream.registry import load


class InlineBeamline(Section):
    """Beamline written out in the configuration; deploy/docs/how-to/beamline.md explains axes and senses."""

    name: Name = Field(
        description="Name of the beamline, as it is published with each result.",
    )
    sample_circles: list[list[str]] = Field(
        description=(
            "Sample circles, the outermost first, each as [name, signed axis, further motor names in the documents]."
        ),
    )
    detector_circles: list[list[str]] = Field(
        description=(
            "Circles of the detector arm, the outermost first, each as [name, signed axis, further motor names in the "
            "documents]."
        ),
    )
    row_direction: str = Field(
        description="Direction in which row numbers grow with the arm at zero: x+, x-, y+ or y-; y- is downwards.",
    )
    col_direction: str = Field(
        description=(
            "Direction in which column numbers grow with the arm at zero: x+, x-, y+ or y-; x+ is to the left, seen "
            "downstream."
        ),
    )
    energy_readings: tuple[tuple[Name, Literal["eV", "keV"]], ...] = Field(
        default=(("energy", "eV"),),
        description=(
            "Names of the photon energy in the documents, each with the unit to assume where the documents state none: "
            "eV or keV."
        ),
    )
    distance_readings: tuple[tuple[Name, Literal["m", "cm", "mm", "um"]], ...] = Field(
        default=(("detector_distance", "m"),),
        description=(
            "Names of the detector distance in the documents, each with the unit to assume where the documents state "
            "none: m, cm, mm or um."
        ),
    )

    @field_validator("sample_circles", "detector_circles")
    @classmethod
    def _readable(cls, circles: list[list[str]]) -> list[list[str]]:
        for entry in circles:
            in_words(_circle, entry)
        return circles

    @field_validator("row_direction", "col_direction")
    @classmethod
    def _across_the_beam(cls, axis: str) -> str:
        if in_words(direction, axis)[2]:
            raise ValueError("expected x+, x-, y+ or y-: the detector stands across the beam, which goes along z+")
        return axis

    @model_validator(mode="after")
    def _consistent(self) -> InlineBeamline:
        if self.row_direction[0] == self.col_direction[0]:
            raise ValueError(
                f"expected row_direction and col_direction across each other, got {self.row_direction!r} and "
                f"{self.col_direction!r}"
            )
        motors = [name for circle in self.sample_circles + self.detector_circles for name in {circle[0], *circle[2:]}]
        if repeated := sorted({name for name in motors if motors.count(name) > 1}):
            raise ValueError(f"expected each motor in one circle, got {', '.join(repeated)} in several")
        return self

    def beamline(self) -> Beamline:
        """Return the beamline as a value, like the value of a plugin."""
        return Beamline(
            name=self.name,
            sample_circles=tuple(_circle(c) for c in self.sample_circles),
            detector_circles=tuple(_circle(c) for c in self.detector_circles),
            row_direction=direction(self.row_direction),
            col_direction=direction(self.col_direction),
            energy_readings=self.energy_readings,
            distance_readings=self.distance_readings,
        )


def _circle(entry: list[str]) -> Circle:
    if len(entry) < 2 or not all(entry):
        raise ConfigError(f"expected a circle as [name, signed axis, motors ...], got {entry}")
    return Circle(name=entry[0], axis=direction(entry[1]), motors=tuple(entry[2:]))


class FixedGeometry(Section):
    """Numbers that override the Bluesky documents and the detector's header; None: taken from there."""

    distance_m: Metres | None = Field(
        default=None,
        description=(
            "Distance from the crystal to the detector in metres; by default from the documents, else from the "
            "detector's header."
        ),
    )
    pixel_row_m: PixelSize | None = Field(
        default=None,
        description="Height of a pixel, along the rows' direction, in metres; by default from the detector's header.",
    )
    pixel_col_m: PixelSize | None = Field(
        default=None,
        description=(
            "Width of a pixel, along the columns' direction, in metres; by default from the detector's header."
        ),
    )
    beam_row: PixelPlace | None = Field(
        default=None,
        description=(
            "Row of the full image that the direct beam hits with the arm at zero, in pixels; by default from the "
            "detector's header, else the centre, which each result then reports."
        ),
    )
    beam_col: PixelPlace | None = Field(
        default=None,
        description=(
            "Column of the full image that the direct beam hits with the arm at zero, in pixels; by default from the "
            "detector's header, else the centre, which each result then reports."
        ),
    )
    photon_energy_ev: PhotonEnergy | None = Field(
        default=None,
        description="Photon energy in eV; by default from the documents, else from the detector's header.",
    )
    circles_deg: dict[str, Degrees] = Field(
        default_factory=dict,
        description=(
            "Fixed angles of circles in degrees, by the circle's name; they override the documents. The circle that "
            "rocks must not be fixed for a real scan."
        ),
    )


class GeometryConfig(FixedGeometry):
    """Beamline by plugin name or written out, and numbers that override documents and detector header."""

    beamline: str | None = Field(
        default=None,
        description=(
            "Name of a beamline plugin, for example aps_34idc or esrf_id01. Either this key or the table inline is "
            "needed."
        ),
    )
    inline: InlineBeamline | None = Field(
        default=None,
        description="Beamline written out in the configuration, instead of a plugin.",
    )

    @field_validator("beamline")
    @classmethod
    def _installed(cls, name: str | None) -> str | None:
        return None if name is None else require_plugin("cdi_stream.beamline", name)

    @model_validator(mode="after")
    def _known(self) -> GeometryConfig:
        if (self.beamline is None) == (self.inline is None):
            raise ValueError("expected either 'beamline', the name of a plugin, or a table 'inline'")
        circles = [circle.name for circle in _circles(in_words(GeometryConfig.value, self))]
        if unknown_circles := [name for name in self.circles_deg if name not in circles]:
            raise ValueError(f"expected circles_deg of {circles}, got {', '.join(unknown_circles)}")
        return self

    def value(self) -> Beamline:
        """Return the beamline as a value; raises `PluginError` if no plugin has its name."""
        if self.inline is not None:
            return self.inline.beamline()
        assert self.beamline is not None
        result: Beamline = load("cdi_stream.beamline", self.beamline)
        return result


def _circles(beamline: Beamline) -> tuple[Circle, ...]:
    return beamline.sample_circles + beamline.detector_circles
