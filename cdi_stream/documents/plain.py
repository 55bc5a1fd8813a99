"""Plain values: conversion of the values in Bluesky documents to values that msgpack and JSON can write.

Readings of devices are numpy numbers, arrays, enums or dates; metadata of users may be of any type.  `to_plain` turns
each value into numbers, text, lists and maps with text as keys, so that every subscriber can read it.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import numbers
import pathlib
import uuid
from collections.abc import Callable, Collection, Mapping, Set
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_DEPTH = 64
"""Largest number of nested maps and lists; deeper values are written as text.  The limit of msgpack is 511."""

MAX_TEXT = 1000
"""Largest number of characters of the text that replaces a value which cannot be written."""

Report = Callable[[str], None]
"""Function that is called with a sentence for each value that is replaced."""


def to_plain(value: Any, report: Report = lambda _: None) -> Any:
    """Return a value that msgpack and JSON can write; never raises.

    ==========================  =============================================================
    value                       becomes
    ==========================  =============================================================
    numpy number, array         number, nested list (masked elements: null)
    complex number, array       map of ``real`` and ``imag``, each of the value's shape
    structured scalar, array    map of its fields
    enum                        its value
    date, time, datetime        text, ISO 8601
    duration                    seconds
    bytes                       text (UTF-8; other bytes as backslash and hexadecimal)
    path, UUID                  text
    tuple, set, view            list (a set is sorted)
    map, dataclass              map; keys become text
    NaN, infinity               the same (as ``NaN``, ``Infinity`` in JSON, which only Python reads)
    anything else               its text, at most `MAX_TEXT` characters
    ==========================  =============================================================

    Parameters
    ----------
    value
        Any value; it is not changed.
    report
        Called with a sentence for each value that is replaced by its text: an unknown type, an integer beyond
        64 bits, a container within itself; and for two keys of a map that have the same text.
    """
    return _plain(value, report, ())


def _plain(value: Any, report: Report, containers: tuple[int, ...]) -> Any:
    """Return one value converted; ``containers`` holds the ``id`` of each map and list around it."""
    if value is None or type(value) in (bool, float):
        return value
    if type(value) is str:
        return _encodable(value)
    if type(value) is int and -(2**63) <= value < 2**64:
        return value
    if id(value) in containers or len(containers) >= MAX_DEPTH:
        return _text(value, report, "lies too deep, or within itself")
    try:
        return _convert(value, report, (*containers, id(value)))
    except Exception:  # noqa: BLE001 - the methods of foreign objects may raise any error
        return _text(value, report, "cannot be written")


def _convert(value: Any, report: Report, containers: tuple[int, ...]) -> Any:
    if isinstance(value, Mapping):
        return _map(value, report, containers)
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return (value.astype(np.float64) if value.dtype.itemsize > 8 else value).tolist()
    simpler = _simplify(value)
    if isinstance(simpler, list):
        return [_plain(item, report, containers) for item in simpler]
    return _plain(simpler, report, containers)


def _map(value: Mapping[Any, Any], report: Report, containers: tuple[int, ...]) -> dict[str, Any]:
    plain = {_key(key): _plain(item, report, containers) for key, item in value.items()}
    if len(plain) < len(value):
        report("two keys of a map have the same text: the value of the last is kept")
    return plain


def _key(key: Any) -> str:
    key = key.value if isinstance(key, enum.Enum) else key
    return _encodable(key.decode(errors="backslashreplace") if isinstance(key, bytes) else str(key))


def _simplify(value: Any) -> Any:  # noqa: C901 - one line for each kind of value
    """Return a value that is one step closer to a plain value; raises `TypeError` for unknown types."""
    match value:
        case enum.Enum():
            return value.value
        case np.ndarray():
            return _of_array(value)
        case np.generic():
            return _of_scalar(value)
        case str():
            return str(value)
        case bytes() | bytearray() | memoryview():
            return bytes(value).decode(errors="backslashreplace")
        case datetime.date() | datetime.time():
            return value.isoformat()
        case datetime.timedelta():
            return value.total_seconds()
        case pathlib.PurePath() | uuid.UUID():
            return str(value)
        case numbers.Number():
            return _of_number(value)
        case Set():
            return _in_order(value)
        case Collection() if not hasattr(value, "__array__"):
            return list(value)
    return _of_object(value)


def _of_array(array: NDArray[Any]) -> Any:
    if array.dtype.names is not None:
        return {name: array[name] for name in array.dtype.names}
    match array.dtype.kind:
        case "c":
            return {"real": array.real, "imag": array.imag}
        case "m":
            return array / np.timedelta64(1, "s")
        case "M":
            return array.astype(str).tolist()
    return array.tolist()


def _of_scalar(scalar: np.generic) -> Any:
    if isinstance(scalar, np.floating):
        return float(scalar)
    if isinstance(scalar, np.complexfloating):
        return complex(scalar)
    if scalar.dtype.names is not None or scalar.dtype.kind in "mM":
        return _of_array(np.asarray(scalar))
    return scalar.item()


def _of_number(number: numbers.Number) -> Any:
    if isinstance(number, numbers.Integral):
        if type(number) is int:
            raise TypeError("an integer beyond 64 bits")
        return int(number)
    if isinstance(number, numbers.Complex) and not isinstance(number, numbers.Real):
        return {"real": complex(number).real, "imag": complex(number).imag}
    return float(number)  # type: ignore[arg-type]


def _of_object(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if hasattr(type(value), "__array__"):
        return np.asarray(value)
    raise TypeError("an unknown type")


def _in_order(items: Set[Any]) -> list[Any]:
    try:
        return sorted(items)
    except TypeError:
        return sorted(items, key=repr)


def _encodable(text: str) -> str:
    """Return a text that UTF-8 can hold; lone surrogates, as in file names, are written as escapes."""
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def _text(value: Any, report: Report, reason: str) -> str:
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    report(f"a value of type {kind} {reason}: its text stands for it")
    try:
        return _encodable(str(value)[:MAX_TEXT])
    except Exception:  # noqa: BLE001 - the methods of foreign objects may raise any error
        return f"<{kind}>"
