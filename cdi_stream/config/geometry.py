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
    """A beamline written out: circles outermost first, each as [name, signed axis, further motor names].

    ``energy_readings`` and ``distance_readings`` are pairs of a name in the documents and the unit to assume where the
    documents state none.  deploy/docs/geometry.md explains frame and senses.
    """

    name: Name
    sample_circles: list[list[str]]
    detector_circles: list[list[str]]
    row_direction: str
    col_direction: str
    energy_readings: tuple[tuple[Name, Literal["eV", "keV"]], ...] = (("energy", "eV"),)
    distance_readings: tuple[tuple[Name, Literal["m", "cm", "mm", "um"]], ...] = (("detector_distance", "m"),)

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
        if doubled := sorted({name for name in motors if motors.count(name) > 1}):
            raise ValueError(f"expected each motor in one circle, got {', '.join(doubled)} in several")
        return self

    def beamline(self) -> Beamline:
        """Return it as the value that plugins provide."""
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


class GeometryConfig(Section):
    """Beamline by plugin name or written out, and numbers that override documents and wire."""

    beamline: str | None = None
    inline: InlineBeamline | None = None
    distance_m: Metres | None = None
    pixel_row_m: PixelSize | None = None
    pixel_col_m: PixelSize | None = None
    beam_row: PixelPlace | None = None
    beam_col: PixelPlace | None = None
    photon_energy_ev: PhotonEnergy | None = None
    circles_deg: dict[str, Degrees] = Field(default_factory=dict)

    @field_validator("beamline")
    @classmethod
    def _installed(cls, name: str | None) -> str | None:
        return None if name is None else require_plugin("cdi_stream.beamline", name)

    @model_validator(mode="after")
    def _known(self) -> GeometryConfig:
        if (self.beamline is None) == (self.inline is None):
            raise ValueError("expected either 'beamline', the name of a plugin, or a table 'inline'")
        circles = [circle.name for circle in _circles(in_words(GeometryConfig.value, self))]
        if unknown := [name for name in self.circles_deg if name not in circles]:
            raise ValueError(f"expected circles_deg of {circles}, got {', '.join(unknown)}")
        return self

    def value(self) -> Beamline:
        """The beamline as a value; raises `PluginError` if there is no plugin of its name."""
        if self.inline is not None:
            return self.inline.beamline()
        assert self.beamline is not None
        result: Beamline = load("cdi_stream.beamline", self.beamline)
        return result


def _circles(beamline: Beamline) -> tuple[Circle, ...]:
    return beamline.sample_circles + beamline.detector_circles
