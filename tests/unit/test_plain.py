"""Values of Bluesky documents become numbers, text, lists and maps, which every subscriber can read."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import json
import math
import pathlib
import types
import uuid

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdi_stream.documents.bus import reader, writer
from cdi_stream.documents.plain import MAX_DEPTH, MAX_TEXT, to_plain


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


@dataclasses.dataclass
class Pose:
    theta: np.float32
    names: tuple[str, ...]


class Unspeakable:
    def __str__(self) -> str:
        raise RuntimeError("no text")


STRUCTURED = np.array([(1, 2.5), (3, 4.5)], dtype=[("row", int), ("col", float)])
KINDS = {
    "float32": (np.float32(0.5), 0.5),
    "float16": (np.float16(0.5), 0.5),
    "longdouble": (np.longdouble(1.5), 1.5),
    "array of longdouble": (np.array([1.5], dtype=np.longdouble), [1.5]),
    "big-endian array": (np.arange(3, dtype=">u2"), [0, 1, 2]),
    "largest uint64": (np.uint64(2**64 - 1), 2**64 - 1),
    "array without axes": (np.array(7), 7),
    "masked array": (np.ma.array([1, 2], mask=[False, True]), [1, None]),
    "array of text": (np.array(["a", "ä"]), ["a", "ä"]),
    "array of bytes": (np.array([b"a", b"\xff"]), ["a", "\\xff"]),
    "array of objects": (np.array([{1: np.int8(2)}, None], dtype=object), [{"1": 2}, None]),
    "structured array": (STRUCTURED, {"row": [1, 3], "col": [2.5, 4.5]}),
    "structured scalar": (STRUCTURED[1], {"row": 3, "col": 4.5}),
    "complex": (1 + 2j, {"real": 1.0, "imag": 2.0}),
    "complex64": (np.complex64(2j), {"real": 0.0, "imag": 2.0}),
    "complex array": (np.array([[1 + 2j], [3]]), {"real": [[1.0], [3.0]], "imag": [[2.0], [0.0]]}),
    "enum": (Colour.RED, "red"),
    "integer enum": (Level.HIGH, 3),
    "bytes": (b"abc\xff", "abc\\xff"),
    "numpy bytes": (np.bytes_(b"abc"), "abc"),
    "datetime": (dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC), "2026-01-02T03:04:05+00:00"),
    "date": (dt.date(2026, 1, 2), "2026-01-02"),
    "time": (dt.time(3, 4), "03:04:00"),
    "timedelta": (dt.timedelta(milliseconds=1500), 1.5),
    "datetime64": (np.datetime64("2026-01-02T03:04"), "2026-01-02T03:04"),
    "array of datetime64": (np.array(["2026-01-02", "NaT"], dtype="M8[D]"), ["2026-01-02", "NaT"]),
    "timedelta64": (np.timedelta64(3, "ms"), 0.003),
    "path": (pathlib.PurePosixPath("/data/a"), "/data/a"),
    "uuid": (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    "decimal": (decimal.Decimal("0.25"), 0.25),
    "set": ({3, 1, 2}, [1, 2, 3]),
    "frozenset": (frozenset({"b", "a"}), ["a", "b"]),
    "tuple": ((np.int64(1), (2,)), [1, [2]]),
    "named tuple": (collections.namedtuple("Step", "start stop")(1, 2), [1, 2]),
    "deque": (collections.deque([np.bool_(True)]), [True]),
    "frozen map": (types.MappingProxyType({Colour.RED: {7: b"x"}}), {"red": {"7": "x"}}),
    "dataclass": (Pose(np.float32(0.25), ("mu",)), {"theta": 0.25, "names": ["mu"]}),
    "infinity": (np.float32("inf"), math.inf),
    "name of a file that is not UTF-8": ("a\udcff", "a\\udcff"),
}


@pytest.mark.parametrize(("value", "plain"), KINDS.values(), ids=KINDS.keys())
@pytest.mark.parametrize("serializer", ["msgpack", "json"])
def test_each_kind_of_value_is_read_at_the_other_end(serializer, value, plain):
    reports: list[str] = []
    doc = {"uid": "x", "data": {"value": value}}
    assert reader(serializer)(writer(serializer, reports.append)(doc)) == {"uid": "x", "data": {"value": plain}}
    assert reports == []


@pytest.mark.parametrize("serializer", ["msgpack", "json"])
def test_nan_stays_nan(serializer):
    read = reader(serializer)(writer(serializer)({"one": np.float64("nan"), "all": np.array([np.nan, 1])}))
    assert math.isnan(read["one"])
    assert math.isnan(read["all"][0])


@pytest.mark.parametrize(
    ("value", "text", "reason"),
    [
        (2**70, str(2**70), "builtins.int"),
        (len, str(len), "builtin_function_or_method"),
        (np.timedelta64(3, "M"), "3 months", "numpy.timedelta64"),
        (Unspeakable(), f"<{__name__}.Unspeakable>", "Unspeakable"),
        ("x" * 2000, "x" * 2000, None),
        (Exception("y" * 2000), "y" * MAX_TEXT, "Exception"),
    ],
)
def test_what_cannot_be_written_is_replaced_by_its_text_and_reported(value, text, reason):
    reports: list[str] = []
    assert to_plain({"value": value}, reports.append) == {"value": text}
    assert len(reports) == (reason is not None)
    assert all(reason in report for report in reports)


def test_a_container_within_itself_ends():
    loop: list[object] = [1]
    loop.append({"again": loop})
    reports: list[str] = []
    assert to_plain(loop, reports.append) == [1, {"again": str(loop)}]
    assert "within itself" in reports[0]


def test_what_lies_too_deep_is_text():
    deep: object = "end"
    for _ in range(MAX_DEPTH + 5):
        deep = [deep]
    assert msgpack.unpackb(msgpack.packb(to_plain(deep))) == to_plain(deep)
    assert str(["end"]) in json.dumps(to_plain(deep))


def test_two_keys_of_one_text_are_reported():
    reports: list[str] = []
    assert to_plain({1: "number", "1": "text"}, reports.append) == {"1": "text"}
    assert len(reports) == 1


def test_the_value_given_is_not_changed():
    doc = {"tuple": (1, 2), 3: {"array": np.arange(2)}}
    to_plain(doc)
    assert list(doc) == ["tuple", 3]
    assert isinstance(doc[3]["array"], np.ndarray)


ANYTHING = st.recursive(
    st.from_type(object).filter(lambda value: not isinstance(value, type)) | st.integers() | st.complex_numbers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.integers() | st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(value=ANYTHING)
@settings(max_examples=150, deadline=None, derandomize=True, database=None)
def test_nothing_raises_and_everything_is_readable(value):
    for serializer in ("msgpack", "json"):
        assert reader(serializer)(writer(serializer)({"value": value})).keys() == {"value"}
