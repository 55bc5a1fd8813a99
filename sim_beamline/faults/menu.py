"""The fault menu: all faults by name, and the faults of one scan."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from cdi_stream.errors import InputError
from sim_beamline.faults import documents, frames
from sim_beamline.faults.fault import (
    DocumentStage,
    Fault,
    FrameStage,
    Points,
    every,
    first,
    middle,
    second_half,
    some,
)

STALL_S = 0.7
"""Time [s] of a stall that a service should wait out."""

LONG_STALL_S = 5.0
"""Time [s] of a stall that is longer than the waiting times in the tests; those at a beamline are longer still."""

SKEW_S = 900.0
"""Error [s] of a clock that was never set."""

JUMP_S = -120.0
"""Jump [s] of a clock that is set in the middle of a scan."""

_ON_FRAMES = (
    Fault(
        name="drop",
        sentence="Three frames are never sent.",
        place="frames",
        points=some(3),
        frames=frames.at_points(frames.drop),
    ),
    Fault(
        name="duplicate",
        sentence="Three frames are sent twice.",
        place="frames",
        points=some(3),
        frames=frames.at_points(frames.twice),
    ),
    Fault(
        name="reorder",
        sentence="The frames are shuffled in windows of eight.",
        place="frames",
        points=every,
        frames=frames.reorder,
    ),
    Fault(
        name="truncate",
        sentence="Three messages end in the middle of the image.",
        place="frames",
        points=some(3),
        frames=frames.at_points(frames.truncate),
    ),
    Fault(
        name="corrupt",
        sentence="Sixteen bytes of three messages are overwritten at random.",
        place="frames",
        points=some(3),
        frames=frames.corrupt,
    ),
    Fault(
        name="flip",
        sentence="In three frames a high bit of one pixel in a hundred is flipped; the frames still decode.",
        place="frames",
        points=some(3),
        frames=frames.flip,
    ),
    Fault(
        name="wrong_shape",
        sentence="Four frames in the middle of the scan lack rows.",
        place="frames",
        points=middle(4),
        frames=frames.at_points(frames.wrong_shape),
    ),
    Fault(
        name="wrong_dtype",
        sentence="Four frames in the middle of the scan have another data type.",
        place="frames",
        points=middle(4),
        frames=frames.at_points(frames.wrong_dtype),
    ),
    Fault(
        name="late_join",
        sentence="The start message and the first five frames were sent before anyone listened.",
        place="frames",
        points=first(5),
        frames=frames.late_join,
    ),
    Fault(
        name="interleave",
        sentence="From the middle on, another series without a run comes between the frames.",
        place="frames",
        points=second_half,
        frames=frames.interleave,
    ),
    Fault(
        name="end_lost",
        sentence="The end message is lost.",
        place="frames",
        frames=frames.at_end(frames.drop),
    ),
    Fault(
        name="end_twice",
        sentence="The end message comes twice.",
        place="frames",
        frames=frames.at_end(frames.twice),
    ),
    Fault(
        name="stall",
        sentence="The second half of the frames is held back for a moment, then comes at once.",
        place="frames",
        points=second_half,
        frames=frames.stall(STALL_S),
    ),
    Fault(
        name="stall_long",
        sentence="The second half of the frames is held back for longer than the service waits.",
        place="frames",
        points=second_half,
        frames=frames.stall(LONG_STALL_S),
    ),
    Fault(
        name="burst",
        sentence="The frames come five at once, at five times the rate of the scan.",
        place="frames",
        points=every,
        frames=frames.burst,
    ),
    Fault(
        name="documents_before",
        sentence="All documents, the stop document too, come before the first frame.",
        place="frames",
        frames=frames.after_documents,
    ),
    Fault(
        name="frames_lost",
        sentence="No message of the detector comes; the documents come as usual.",
        place="frames",
        points=every,
        frames=frames.lost,
    ),
)

_ON_DOCUMENTS = (
    Fault(
        name="documents_after",
        sentence="The documents come after the last frame, all at once.",
        place="documents",
        documents=documents.after_frames,
    ),
    Fault(
        name="documents_lost",
        sentence="No document of the run comes; the frames come as usual.",
        place="documents",
        points=every,
        documents=documents.lose(),
    ),
    Fault(
        name="events_lost",
        sentence="Three events are lost on the bus.",
        place="documents",
        points=some(3),
        documents=documents.lose_events,
    ),
    Fault(
        name="start_lost",
        sentence="The start document and the descriptors are lost on the bus.",
        place="documents",
        documents=documents.lose("start", "descriptor"),
    ),
    Fault(
        name="stop_lost",
        sentence="The stop document is lost on the bus.",
        place="documents",
        documents=documents.lose("stop"),
    ),
    Fault(
        name="clock_skew",
        sentence="The clock of RunEngine and detector is a quarter of an hour fast.",
        place="clock",
        points=every,
        frames=frames.wrong_clock(SKEW_S),
        documents=documents.wrong_clock(SKEW_S),
    ),
    Fault(
        name="clock_jump",
        sentence="The clock of RunEngine and detector is set back by two minutes in the middle of the scan.",
        place="clock",
        points=second_half,
        frames=frames.wrong_clock(JUMP_S),
        documents=documents.wrong_clock(JUMP_S),
    ),
)

_ON_THE_COURSE = (
    Fault(
        name="abort",
        sentence="The run is aborted in the middle of the scan.",
        place="plan",
        points=second_half,
    ),
    Fault(
        name="detector_restart",
        sentence="The detector is restarted in the middle of the scan and counts its series from 1 again.",
        place="process",
        points=second_half,
    ),
    Fault(
        name="proxy_restart",
        sentence="The document proxy is restarted in the middle of the scan.",
        place="process",
    ),
    Fault(
        name="tiled_restart",
        sentence="The Tiled server is killed in the middle of the scan.",
        place="process",
    ),
)

MENU = {fault.name: fault for fault in (*_ON_FRAMES, *_ON_DOCUMENTS, *_ON_THE_COURSE)}
"""All faults by name."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """The faults of one scan of ``n_points`` points, with the seed of their choices."""

    names: tuple[str, ...] = ()
    seed: int = 0
    n_points: int = 0

    @classmethod
    def of(cls, text: str, n_points: int, seed: int = 0) -> Faults:
        """Return the faults that a text names, separated by commas.

        Raises
        ------
        InputError
            If a name is unknown, or names a fault that does not act on the messages of the detector.
        """
        names = tuple(name.strip() for name in text.split(",") if name.strip())
        known = [fault.name for fault in MENU.values() if fault.frames is not None]
        unknown = [name for name in names if name not in known]
        if unknown:
            raise InputError(f"expected faults of {', '.join(known)}, got {', '.join(unknown)}")
        return cls(names=names, seed=seed, n_points=n_points)

    def points(self, name: str) -> Points:
        """Return the points that a fault hits; the same seed hits the same points."""
        return frozenset(MENU[name].points(self._random(name), self.n_points))

    def on_frames(self) -> FrameStage:
        """Return the stage through which the detector's messages of the scan go."""
        makers = [(name, MENU[name].frames) for name in self.names]
        return chained([make(self.points(name), self._random(name)) for name, make in makers if make is not None])

    def on_documents(self) -> DocumentStage:
        """Return the stage through which the documents of the scan go."""
        makers = [(name, MENU[name].documents) for name in self.names]
        return chained([make(self.points(name), self._random(name)) for name, make in makers if make is not None])

    def _random(self, name: str) -> Random:
        return Random(self.seed ^ zlib.crc32(name.encode()))  # noqa: S311 - repeatable, not secret


def chained(stages: list[Callable[[T], Iterable[T]]]) -> Callable[[T], Iterable[T]]:
    """Return one stage that passes each message through all stages in turn."""

    def stage(message: T) -> Iterable[T]:
        """Return what the stages make of a message."""
        messages = [message]
        for each in stages:
            messages = [out for one in messages for out in each(one)]
        return messages

    return stage
