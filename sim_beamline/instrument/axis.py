"""Motorised axis: moves at constant speed between limits, with play in its gear and a small error of each stop."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cdi_stream.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisModel:
    """Properties of an axis, in its own unit.

    Parameters
    ----------
    unit
        Unit of the positions: deg, um, eV or K.
    value
        Position at the start.
    speed
        Speed [unit/s].
    low, high
        Soft limits.
    play
        Play of the gear: after a move in negative direction the true position is higher by this much.
    jitter
        Standard deviation of the position at which a move stops; the encoder reads it.
    """

    unit: str
    value: float
    speed: float = 1.0
    low: float = -math.inf
    high: float = math.inf
    play: float = 0.0
    jitter: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Leg:
    """Part of a move, at constant speed."""

    start: float
    stop: float
    begin_s: float
    speed: float

    @property
    def end_s(self) -> float:
        """Time of arrival [s]."""
        return self.begin_s + abs(self.stop - self.start) / self.speed

    def position(self, time_s: float) -> float:
        """Return the position at a time."""
        if time_s >= self.end_s:
            return self.stop
        return self.start + math.copysign(self.speed * max(0.0, time_s - self.begin_s), self.stop - self.start)


class Axis:
    """An axis that moves with time.  Safe to use from several threads.

    Parameters
    ----------
    model
        Properties.
    clock
        Monotonic time [s].
    rng
        Generator of the stop errors.
    """

    def __init__(self, model: AxisModel, clock: Callable[[], float], rng: np.random.Generator) -> None:
        self.model = model
        self.speed = model.speed
        self._clock = clock
        self._rng = rng
        self._lock = threading.Lock()
        self._legs: tuple[_Leg, ...] = (_Leg(start=model.value, stop=model.value, begin_s=clock(), speed=1.0),)
        self._is_negative = False

    def move(self, target: float, backlash: float = 0.0) -> None:
        """Start a move; with a backlash distance the axis arrives from ``target - backlash``, always the same side.

        Raises
        ------
        InputError
            If the target is outside the limits.
        """
        if not self.model.low <= target <= self.model.high:
            raise InputError(
                f"expected a position from {self.model.low:g} to {self.model.high:g} {self.model.unit}, got {target:g}"
            )
        with self._lock:
            now, here = self._clock(), self._readback()
            stop = target + self.model.jitter * float(self._rng.standard_normal())
            places = [here, stop]
            if backlash and (target - here) * backlash < 0:
                places = [here, target - backlash, stop]
            legs: list[_Leg] = []
            for start, end in itertools.pairwise(places):
                begin_s = legs[-1].end_s if legs else now
                legs.append(_Leg(start=start, stop=end, begin_s=begin_s, speed=self.speed))
            self._legs = tuple(legs)
            self._is_negative = places[-1] < places[-2] or (places[-1] == places[-2] and self._is_negative)

    def stop(self) -> None:
        """Stop where the axis is."""
        with self._lock:
            here = self._readback()
            self._legs = (_Leg(start=here, stop=here, begin_s=self._clock(), speed=1.0),)

    @property
    def is_moving(self) -> bool:
        """Whether the axis has not arrived."""
        return self._clock() < self._legs[-1].end_s

    @property
    def readback(self) -> float:
        """Position of the encoder now."""
        with self._lock:
            return self._readback()

    @property
    def true_position(self) -> float:
        """Position of the part that the axis moves, now."""
        with self._lock:
            return self._readback() + (self.model.play if self._is_negative else 0.0)

    def _readback(self) -> float:
        now = self._clock()
        leg = next((leg for leg in self._legs if now < leg.end_s), self._legs[-1])
        return leg.position(now)
