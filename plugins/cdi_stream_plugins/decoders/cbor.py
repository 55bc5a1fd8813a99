"""Read CBOR without copies: byte strings are views of the message.

The reader supports RFC 8949 with definite lengths, as detectors send it.  Every length is compared with the rest of the
message before memory is allocated, and the number of items is limited, so that a message cannot need much more memory
than its own length.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from cdi_stream.errors import WireError

_MAX_DEPTH = 16
_MAX_ITEMS = 100_000
_FLOATS = {25: ("!e", 2), 26: ("!f", 4), 27: ("!d", 8)}
_SIMPLE = {20: False, 21: True, 22: None, 23: None}


@dataclass(frozen=True, slots=True)
class Tag:
    """A tagged item, which the caller interprets."""

    number: int
    value: Any


class CborReader:
    """Reader of one item at the start of a message."""

    def __init__(self, message: memoryview) -> None:
        self._data = message
        self._at = 0
        self._end = len(message)
        self._n_items = 0

    def read(self, depth: int = 0) -> Any:
        """Read the next item; raises `WireError` if it is malformed."""
        if depth > _MAX_DEPTH:
            raise WireError(f"CBOR nested deeper than {_MAX_DEPTH}")
        at = self._at
        if at >= self._end:
            raise WireError(f"CBOR item of 1 bytes at {at} in a message of {self._end}")
        initial = self._data[at]
        self._at = at + 1
        major, argument = initial >> 5, initial & 31
        if major == 7:
            return self._simple(argument)
        if argument > 23:
            argument = self._long_argument(argument)
        if major == 0:
            return argument
        if major == 3:
            return self._text(argument)
        if major == 2:
            return self._take(argument)
        if major == 6:
            self._announce(1)
            return Tag(argument, self.read(depth + 1))
        if major == 1:
            return -1 - argument
        return self._sized(major, argument, depth + 1)

    def _sized(self, major: int, n: int, depth: int) -> Any:
        """Read an array or a map of ``n`` entries, each of a byte or more."""
        if n > self._end - self._at:
            raise WireError(f"CBOR item of {n} bytes or entries at {self._at} in a message of {self._end}")
        if major == 4:
            self._announce(n)
            return [self.read(depth) for _ in range(n)]
        self._announce(2 * n)
        return {self._key(depth): self.read(depth) for _ in range(n)}

    def _text(self, n: int) -> str:
        try:
            return str(self._take(n), "utf-8")
        except UnicodeDecodeError as error:
            raise WireError(f"CBOR text is not UTF-8: {error}") from error

    def _announce(self, n: int) -> None:
        self._n_items += n
        if self._n_items > _MAX_ITEMS:
            raise WireError(f"CBOR of {self._n_items} items or more: {_MAX_ITEMS} are allowed")

    def _take(self, n: int) -> memoryview:
        at = self._at
        if n > self._end - at:
            raise WireError(f"CBOR item of {n} bytes or entries at {at} in a message of {self._end}")
        self._at = at + n
        return self._data[at : at + n]

    def _long_argument(self, info: int) -> int:
        """Read a number of one byte or more behind the initial byte."""
        at = self._at
        if info == 24 and at < self._end:
            self._at = at + 1
            return self._data[at]
        if info > 27:
            raise WireError(f"CBOR length of kind {info} is not supported")
        return int.from_bytes(self._take(1 << (info - 24)), "big")

    def _key(self, depth: int) -> Any:
        key = self.read(depth)
        if not isinstance(key, str | int):
            raise WireError(f"CBOR map key of type {type(key).__name__}")
        return key

    def _simple(self, info: int) -> Any:
        if info in _FLOATS:
            code, size = _FLOATS[info]
            return struct.unpack(code, self._take(size))[0]
        if info in _SIMPLE:
            return _SIMPLE[info]
        raise WireError(f"CBOR simple value {info} is not supported")
