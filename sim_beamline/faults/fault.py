"""Fault: a named way in which a scan goes wrong, and the messages on which it acts.

A fault that acts on messages is a stage: it takes one message and returns the messages that go on in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random
from typing import Literal

from cdi_stream.messages import Document
from sim_beamline.frame_stream import Counts, Damage

Kind = Literal["start", "image", "end", "over"]
"""Kind of a detector message; ``over`` is not sent, it tells the stages that the run's documents are out."""

Place = Literal["frames", "documents", "clock", "plan", "process"]
"""Part of the beamline on which a fault acts; ``clock`` is the times in frames and documents."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sending:
    """One message of the simulated detector before it is encoded.

    Parameters
    ----------
    kind, series, image_id
        Kind of the message, its series, and the number of its image.
    number
        Number of the image across all series, for formats without series.
    pixels
        Counts of the image.
    n_images, user_data
        Content of a start message.
    clock_s
        Error of the detector's clock [s].
    damage
        Changes the encoded parts.
    delay_s
        Time to wait before the message is sent [s].
    """

    kind: Kind
    series: int
    image_id: int = 0
    number: int = 0
    pixels: Counts | None = None
    n_images: int = 0
    user_data: object = None
    clock_s: float = 0.0
    damage: Damage = lambda parts: parts
    delay_s: float = 0.0


NamedDocument = tuple[str, Document]
"""Name and content of a Bluesky document."""

Points = frozenset[int]
"""Points of a scan, counted from 0."""

FrameStage = Callable[[Sending], Iterable[Sending]]
DocumentStage = Callable[[NamedDocument], Iterable[NamedDocument]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault of the menu.

    Parameters
    ----------
    name, sentence
        Name on the command line, and what goes wrong.
    place
        Part of the beamline on which the fault acts.
    points
        Returns the points that the fault hits, of a number of points in all.
    frames, documents
        Return a stage for the messages of one scan, made for the points that the fault hits.
    """

    name: str
    sentence: str
    place: Place
    points: Callable[[Random, int], Iterable[int]] = lambda _, __: ()
    frames: Callable[[Points, Random], FrameStage] | None = None
    documents: Callable[[Points, Random], DocumentStage] | None = None


def some(n_points: int) -> Callable[[Random, int], Iterable[int]]:
    """Return a choice of points at random, without the first and the last."""
    return lambda rng, n: rng.sample(range(1, n - 1), n_points)


def first(n_points: int) -> Callable[[Random, int], Iterable[int]]:
    """Return a choice of the first points."""
    return lambda _, n: range(min(n_points, n))


def middle(n_points: int) -> Callable[[Random, int], Iterable[int]]:
    """Return a choice of points in a row from the middle of the scan on."""
    return lambda _, n: range(n // 2, n // 2 + n_points)


def second_half(_: Random, n: int) -> Iterable[int]:
    """Return all points from the middle of the scan on."""
    return range(n // 2, n)


def every(_: Random, n: int) -> Iterable[int]:
    """Return all points of the scan."""
    return range(n)
