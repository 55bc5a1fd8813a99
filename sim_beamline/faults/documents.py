"""Stages that spoil the RunEngine's documents on their way to the bus, one for each fault of the documents."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random

from cdi_stream.messages import Document
from sim_beamline.faults.fault import DocumentStage, NamedDocument, Points


def lose(*kinds: str) -> Callable[[Points, Random], DocumentStage]:
    """Return the maker of a stage that loses all documents of some kinds; all documents if no kind is named."""
    return lambda _, __: lambda named: () if not kinds or named[0] in kinds else (named,)


def lose_events(points: Points, _: Random) -> DocumentStage:
    """Return a stage that loses the events of some points."""
    number = _PointNumber()
    return lambda named: () if number.of(named) in points else (named,)


def after_frames(_: Points, __: Random) -> DocumentStage:
    """Return a stage that holds all documents until the stop document, when every frame was sent."""
    held: list[NamedDocument] = []

    def stage(named: NamedDocument) -> Iterable[NamedDocument]:
        """Hold a document; return all held documents at the stop document."""
        held.append(named)
        if named[0] != "stop":
            return ()
        late, held[:] = list(held), []
        return late

    return stage


def wrong_clock(error_s: float) -> Callable[[Points, Random], DocumentStage]:
    """Return the maker of a stage that puts the times of documents off by ``error_s`` [s], from the first point hit."""

    def make(points: Points, _: Random) -> DocumentStage:
        """Return the stage for some points."""
        number = _PointNumber()
        is_wrong = 0 in points

        def stage(named: NamedDocument) -> Iterable[NamedDocument]:
            """Return a document, with wrong times from the first point hit."""
            nonlocal is_wrong
            is_wrong = is_wrong or number.of(named) in points
            name, doc = named
            return ((name, {**doc, **_shifted(doc, error_s)}),) if is_wrong else (named,)

        return stage

    return make


def _shifted(doc: Document, error_s: float) -> dict[str, object]:
    """Return the times of a document, put off by ``error_s`` [s]."""
    times: dict[str, object] = {"time": doc["time"] + error_s} if "time" in doc else {}
    if "timestamps" in doc:
        times["timestamps"] = {key: time_s + error_s for key, time_s in doc["timestamps"].items()}
    return times


class _PointNumber:
    """Tells the point to which a document belongs: events of the stream ``primary`` in the order of the scan."""

    def __init__(self) -> None:
        self._primary: str | None = None

    def of(self, named: NamedDocument) -> int | None:
        """Return the point of an event, from 0; None for any other document."""
        name, doc = named
        if name == "descriptor" and doc["name"] == "primary":
            self._primary = doc["uid"]
        return doc["seq_num"] - 1 if name == "event" and doc["descriptor"] == self._primary else None
