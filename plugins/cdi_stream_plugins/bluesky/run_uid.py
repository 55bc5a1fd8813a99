"""Preprocessor that writes a run's uid into the detector before it is armed, so that frames are joined to their run."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import operator
from collections.abc import Callable, Generator, Iterator
from typing import Any

import bluesky.plan_stubs as bps
from bluesky.utils import Msg, ensure_generator

from cdi_stream.errors import InputError

logger = logging.getLogger(__name__)

Plan = Generator[Msg, Any, Any]
"""Bluesky plan."""

Device = Any
"""Device of ophyd or ophyd-async; bluesky checks at run time what a device can do."""

_NAMES = ("user_data", "header_appendix", "stream_hdr_appendix")
FIELDS = (*_NAMES, *(f"{part}.{name}" for part in ("cam", "driver") for name in _NAMES))
"""Signals or attributes for the uid; by default the first that the detector has is used."""

_EXPOSURE_COMMANDS = ("trigger", "prepare", "kickoff")
"""Messages that start an exposure."""

_SETTING_COMMANDS = ("set", "configure")
"""Messages whose effect another staging might undo."""


def with_run_uid(plan: Any, detector: Device, field: str | None = None) -> Plan:
    """Return a plan in which the uid of each run is sent with the detector's frames.

    Stock plans (``scan``, ``rel_scan``, ``list_scan``, ``count``) stage their devices before the run is open, when its
    uid is not known.  In the returned plan the staging of ``detector`` waits until the run is open; then the uid is
    written into the detector's field, and the detector is staged.  All other messages of the plan are unchanged.

    - A plan with several runs in one staging: the detector is unstaged and staged again for each run, so that each run
      has its own series of frames.  This is not done if the plan has set a value of the detector since it was staged,
      since another staging might undo the value.
    - Several stagings in one run: the field also holds the number of the curve in the run.
    - Nested runs: the uid is that of the run with the key (`bluesky.preprocessors.set_run_key_wrapper`) of the
      message that triggers the detector.
    - A message to the detector while no run is open: the detector is staged before it.
    - A plan without the detector is not changed.

    Parameters
    ----------
    plan
        Any plan.
    detector
        Device that has the field, itself or in one of its parts.  It may be staged through its parent device.
    field
        Signal or attribute of the detector that its stream sends before the frames (SIMPLON: ``header_appendix``),
        dotted for parts: ``"cam.header_appendix"``.  By default the first of `FIELDS` that the detector has.  It must
        take text: the uid of 36 characters, and for further curves of a run JSON of at most 80 characters.

    Raises
    ------
    InputError
        If the detector has no such field.

    Examples
    --------
    >>> RE(with_run_uid(bp.scan([eiger], theta, -1, 1, 201), eiger))  # doctest: +SKIP
    >>> RE.preprocessors.append(functools.partial(with_run_uid, detector=eiger))  # doctest: +SKIP
    """
    write = _writer(detector, field)
    return _answered(plan, _Armed(detector, write).answer)


def _answered(plan: Any, answer: Callable[[Msg], Plan]) -> Plan:
    """Run a plan in which each message is replaced by the plan ``answer`` returns, with its response or exception."""
    plan = ensure_generator(plan)
    step = functools.partial(next, plan)
    while True:
        try:
            message = step()
        except StopIteration as end:
            return end.value
        try:
            step = functools.partial(plan.send, (yield from answer(message)))
        except GeneratorExit:
            plan.close()
            raise
        except Exception as error:  # noqa: BLE001 - the original plan handles it
            step = functools.partial(plan.throw, error)


class _Armed:
    """State of one detector in a plan: waiting stagings, open runs by key, and the run for which it was armed.

    The detector may be staged in several messages: the detector itself, parts of it, and its parent device.
    """

    def __init__(self, detector: Device, write: Callable[[str], Plan]) -> None:
        self._detector = detector
        self._write = write
        self._staged: list[Any] = []
        self._waiting: list[Any] = []
        self._is_changed = False
        self._uid: str | None = None
        self._runs: dict[Any, str] = {}
        self._n_curves: dict[str, int] = {}

    def answer(self, message: Msg) -> Plan:
        """Replace one message of the plan, and return the response to it."""
        if message.command == "open_run":
            return (yield from self._open_run(message))
        if message.command == "close_run":
            self._runs.pop(message.run, None)
        elif any(_are_of_one(device, self._detector) for device in _devices(message)):
            return (yield from self._of_detector(message))
        return (yield message)

    def _open_run(self, message: Msg) -> Plan:
        uid = yield message
        self._runs[message.run] = uid
        if self._waiting:
            yield from self._stage_waiting(uid)
        elif self._staged and self._uid not in self._runs.values():
            yield from self._rearm(uid)
        return uid

    def _of_detector(self, message: Msg) -> Plan:
        uid = self._runs.get(message.run)
        match message.command:
            case "stage":
                return (yield from self._stage(message, uid))
            case "unstage":
                return (yield from self._unstage(message))
        yield from self._stage_waiting(uid)
        if message.command in _EXPOSURE_COMMANDS and uid is not None and uid != self._uid:
            yield from self._rearm(uid)
        self._is_changed |= message.command in _SETTING_COMMANDS
        return (yield message)

    def _stage(self, message: Msg, uid: str | None) -> Plan:
        """Stage in an open run; without an open run postpone the staging, and return an empty list of devices."""
        if uid is None:
            self._waiting.append(message.obj)
            return []
        if not self._staged:
            yield from self._tell(uid)
        self._staged.append(message.obj)
        self._is_changed = False
        return (yield message)

    def _stage_waiting(self, uid: str | None) -> Plan:
        """Stage the waiting devices; the uid is written before, if a run is open."""
        if self._waiting and uid is not None:
            yield from self._tell(uid)
        while self._waiting:
            device = self._waiting.pop(0)
            self._staged.append(device)
            self._is_changed = False
            yield from bps.stage(device, group=f"stage {id(self)}", wait=True)

    def _unstage(self, message: Msg) -> Plan:
        if any(device is message.obj for device in self._waiting):
            self._waiting = [device for device in self._waiting if device is not message.obj]
            return []
        self._staged = [device for device in self._staged if device is not message.obj]
        if not self._staged:
            self._uid = None
        return (yield message)

    def _rearm(self, uid: str) -> Plan:
        """Start a new series for a run, in a detector that was staged for another run or outside a run."""
        if self._is_changed and self._staged:
            logger.warning("%s was set after it was staged: not staged again for run %s", self._detector.name, uid)
        if self._is_changed or not self._staged:
            yield from self._tell(uid)
            return
        self._waiting, self._staged = self._staged, []
        for device in reversed(self._waiting):
            yield from bps.unstage(device, group=f"unstage {id(self)}", wait=True)
        yield from self._stage_waiting(uid)

    def _tell(self, uid: str) -> Plan:
        index = self._n_curves.get(uid, 0)
        self._n_curves[uid], self._uid = index + 1, uid
        yield from self._write(uid if not index else json.dumps({"run_uid": uid, "curve_index": index}))


def _devices(message: Msg) -> tuple[Any, ...]:
    """Return the devices that a message addresses."""
    return message.args if message.command == "declare_stream" else (message.obj,)


def _are_of_one(obj: Device, detector: Device) -> bool:
    """Return whether a device is the detector, a part of it, or a device of which it is a part."""
    return any(part is detector for part in _with_parents(obj)) or any(part is obj for part in _with_parents(detector))


def _with_parents(device: Device) -> Iterator[Any]:
    while device is not None:
        yield device
        device = getattr(device, "parent", None)


def _writer(detector: Device, field: str | None) -> Callable[[str], Plan]:
    """Return the plan that writes a text into the detector's field, a signal or an attribute."""
    owner, name = _place(detector, FIELDS if field is None else (field,))

    def write(text: str) -> Plan:
        """Write a text into the field."""
        signal = getattr(owner, name)
        if getattr(signal, "as_string", None) is False:
            # ophyd reads such a signal as an array of characters, which never equals the text that `set` waits for
            signal.put(text)
            yield from bps.null()
        elif hasattr(signal, "set"):
            yield from bps.abs_set(signal, text, wait=True)
        else:
            setattr(owner, name, text)

    return write


def _place(detector: Device, fields: tuple[str, ...]) -> tuple[Any, str]:
    """Return the part of the detector that has the first existing field, and the field's name in that part."""
    for field in fields:
        part, _, name = field.rpartition(".")
        with contextlib.suppress(AttributeError):
            owner = operator.attrgetter(part)(detector) if part else detector
            getattr(owner, name)
            return owner, name
    raise InputError(
        f"detector {getattr(detector, 'name', detector)!r}: expected a signal or attribute {' or '.join(fields)} to "
        "write the run's uid into, found none; name the one that its stream sends ('header_appendix' of SIMPLON), as "
        "in field='cam.header_appendix'"
    )
