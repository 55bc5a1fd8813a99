"""Stages that spoil the detector's messages, one for each fault of the stream."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from random import Random

import numpy as np

from sim_beamline.faults.fault import FrameStage, Points, Sending

WINDOW = 8
"""Number of frames among which `reorder` shuffles."""

BURST = 5
"""Number of frames that `burst` holds back and then sends at once: five times the rate of the scan."""

FOREIGN = 500_000
"""Distance of the id of a foreign series from the series that it interrupts."""

CUT_ROWS = 8
"""Number of rows that a frame of a wrong shape lacks."""


def at_points(change: Callable[[Sending], Iterable[Sending]]) -> Callable[[Points, Random], FrameStage]:
    """Return the maker of a stage that changes the images of the points that a fault hits."""
    return lambda points, _: lambda it: change(it) if it.kind == "image" and it.image_id in points else (it,)


def drop(_: Sending) -> Iterable[Sending]:
    """Return no message."""
    return ()


def twice(message: Sending) -> Iterable[Sending]:
    """Return a message twice."""
    return (message, message)


def truncate(message: Sending) -> Iterable[Sending]:
    """Return a message whose largest part is cut in the middle."""
    return (replace(message, damage=lambda parts: _in_largest(parts, lambda blob: blob[: len(blob) // 2])),)


def wrong_shape(message: Sending) -> Iterable[Sending]:
    """Return an image that lacks rows."""
    assert message.pixels is not None
    return (replace(message, pixels=message.pixels[:-CUT_ROWS]),)


def wrong_dtype(message: Sending) -> Iterable[Sending]:
    """Return an image of another data type."""
    assert message.pixels is not None
    other = np.uint16 if message.pixels.dtype != np.uint16 else np.uint32
    return (replace(message, pixels=np.minimum(message.pixels, np.iinfo(np.uint16).max).astype(other)),)


def corrupt(points: Points, rng: Random) -> FrameStage:
    """Return a stage that overwrites 16 bytes of the images of some points, anywhere in the largest part."""

    def overwrite(blob: bytes) -> bytes:
        """Return the bytes with 16 of them replaced."""
        place = rng.randrange(len(blob) - 16)
        return blob[:place] + rng.randbytes(16) + blob[place + 16 :]

    return at_points(lambda it: (replace(it, damage=lambda parts: _in_largest(parts, overwrite)),))(points, rng)


def flip(points: Points, rng: Random) -> FrameStage:
    """Return a stage that flips one high bit in some pixels of the images of some points; they still decode."""

    def spoil(message: Sending) -> Iterable[Sending]:
        """Return an image with a bit flipped in one pixel of a hundred."""
        assert message.pixels is not None
        pixels = message.pixels.copy()
        chosen = rng.sample(range(pixels.size), pixels.size // 100)
        pixels.flat[chosen] ^= pixels.dtype.type(1 << (8 * pixels.dtype.itemsize // 2 - 2))
        return (replace(message, pixels=pixels),)

    return at_points(spoil)(points, rng)


def reorder(_: Points, rng: Random) -> FrameStage:
    """Return a stage that shuffles the images in windows of `WINDOW`."""
    return _held(lambda held: len(held) == WINDOW, lambda held: rng.sample(held, len(held)))


def burst(_: Points, __: Random) -> FrameStage:
    """Return a stage that holds images back and sends `BURST` of them at once."""
    return _held(lambda held: len(held) == BURST, list)


def stall(delay_s: float) -> Callable[[Points, Random], FrameStage]:
    """Return the maker of a stage that holds the images of its points until ``delay_s`` [s] after the last one."""

    def make(points: Points, _: Random) -> FrameStage:
        """Return the stage for some points."""
        held: list[Sending] = []

        def stage(message: Sending) -> Iterable[Sending]:
            """Hold an image of the points; return the held images before the end message."""
            if message.kind == "image" and message.image_id in points:
                held.append(message)
                return ()
            if message.kind != "end" or not held:
                return (message,)
            late, held[:] = [replace(held[0], delay_s=delay_s), *held[1:]], []
            return (*late, message)

        return stage

    return make


def after_documents(_: Points, __: Random) -> FrameStage:
    """Return a stage that holds all messages until the run's documents are out."""
    held: list[Sending] = []

    def stage(message: Sending) -> Iterable[Sending]:
        """Hold a message; return all held messages when the run is over."""
        held.append(message)
        if message.kind != "over":
            return ()
        late, held[:] = list(held), []
        return late

    return stage


def late_join(points: Points, _: Random) -> FrameStage:
    """Return a stage that loses the start message and the first images, as a subscriber does that comes too late."""
    return lambda it: () if it.kind == "start" or (it.kind == "image" and it.image_id in points) else (it,)


def lost(_: Points, __: Random) -> FrameStage:
    """Return a stage that loses every message."""
    return lambda _: ()


def interleave(points: Points, _: Random) -> FrameStage:
    """Return a stage that sends another series between the images of its points: another crystal, without a run."""
    foreign_start: list[Sending] = []

    def stage(message: Sending) -> Iterable[Sending]:
        """Return a message, and behind an image of the points one of the foreign series."""
        foreign = replace(message, series=message.series + FOREIGN, user_data=None)
        if message.kind == "start":
            foreign_start[:] = [foreign]
        if message.kind == "end" or message.pixels is None or message.image_id not in points:
            return (message, foreign) if message.kind == "end" and not foreign_start else (message,)
        began, foreign_start[:] = list(foreign_start), []
        return (message, *began, replace(foreign, pixels=message.pixels[::-1]))

    return stage


def at_end(change: Callable[[Sending], Iterable[Sending]]) -> Callable[[Points, Random], FrameStage]:
    """Return the maker of a stage that changes the end message."""
    return lambda _, __: lambda it: change(it) if it.kind == "end" else (it,)


def wrong_clock(error_s: float) -> Callable[[Points, Random], FrameStage]:
    """Return the maker of a stage that puts the times of the images of its points off by ``error_s`` [s]."""
    return at_points(lambda it: (replace(it, clock_s=it.clock_s + error_s),))


def _held(is_full: Callable[[list[Sending]], bool], order: Callable[[list[Sending]], list[Sending]]) -> FrameStage:
    """Return a stage that holds images until there are enough, or another message comes, and sends them in an order."""
    held: list[Sending] = []

    def stage(message: Sending) -> Iterable[Sending]:
        """Hold an image; return the held images when there are enough, or with another message."""
        if message.kind == "image":
            held.append(message)
            if not is_full(held):
                return ()
        released, held[:] = order(held), []
        return released if message.kind == "image" else (*released, message)

    return stage


def _in_largest(parts: list[bytes], change: Callable[[bytes], bytes]) -> list[bytes]:
    """Return the parts of a message with its largest part changed."""
    place = max(range(len(parts)), key=lambda k: len(parts[k]))
    return [change(part) if k == place else part for k, part in enumerate(parts)]
