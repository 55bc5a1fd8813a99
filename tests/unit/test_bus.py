"""Documents to bytes and back, and messages on the bus that are refused."""

from __future__ import annotations

import json

import msgpack
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdi_stream.documents.bus import SERIALIZERS, reader, to_plain, unpack, writer
from cdi_stream.errors import ConfigError, WireError

REPEATABLE = settings(
    max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], database=None
)
LEAVES = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(max_size=9)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
DOCUMENTS = st.dictionaries(st.text(max_size=5), VALUES, max_size=4)
DOCUMENT = {"uid": "abc", "data": {"mu": 1.5}, "note": "two words, and three"}


def message(serializer: str, doc: object, prefix: bytes = b"raw", name: bytes = b"event") -> bytes:
    return b" ".join((prefix, name, writer(serializer)(doc)))


@pytest.mark.parametrize("serializer", SERIALIZERS)
@given(doc=DOCUMENTS)
@REPEATABLE
def test_a_document_arrives_as_it_was_sent(serializer, doc):
    assert unpack(message(serializer, doc), b"raw", reader(serializer)) == ("event", doc)


@pytest.mark.parametrize("serializer", ["msgpack", "json"])
def test_numpy_travels_as_plain_numbers(serializer):
    doc = {
        "scalar": np.float32(0.5),
        "count": np.int64(-3),
        "flag": np.bool_(True),
        "array": np.arange(6, dtype=np.uint8).reshape(2, 3),
        "empty": np.zeros((0, 2)),
        "nested": ({"shape": (np.int16(4), 5)},),
        7: "a key that is no text",
    }
    plain = {
        "scalar": 0.5,
        "count": -3,
        "flag": True,
        "array": [[0, 1, 2], [3, 4, 5]],
        "empty": [],
        "nested": [{"shape": [4, 5]}],
        "7": "a key that is no text",
    }
    assert to_plain(doc) == plain
    assert unpack(message(serializer, doc), b"raw", reader(serializer)) == ("event", plain)


def test_the_payload_is_what_others_understand():
    assert msgpack.unpackb(writer("msgpack")(DOCUMENT)) == DOCUMENT
    assert json.loads(writer("json")(DOCUMENT)) == DOCUMENT


@pytest.mark.parametrize(("ours", "theirs"), [(b"raw", b"cdi"), (b"raw", b"ra"), (b"ra", b"raw"), (b"", b"raw")])
def test_a_document_for_another_prefix_is_passed_over(ours, theirs):
    assert unpack(message("json", DOCUMENT, prefix=theirs), ours, reader("json")) is None


def test_another_prefix_is_not_even_read():
    assert unpack(b"cdi event \xff\xff not ours", b"raw", reader("json")) is None


def test_an_empty_prefix_is_a_prefix():
    assert unpack(message("json", DOCUMENT, prefix=b""), b"", reader("json")) == ("event", DOCUMENT)


@pytest.mark.parametrize("message", [b"", b"raw", b"raw event", b"rawevent{}"])
def test_a_message_without_three_parts_is_refused(message):
    with pytest.raises(WireError, match="prefix name payload"):
        unpack(message, b"raw", reader("json"))


@pytest.mark.parametrize("serializer", SERIALIZERS)
@pytest.mark.parametrize("payload", [b"", b"\xd9{", b"\xc1", b"[" * 100_000, b"\xff\xfe", b"\x81"])
def test_a_payload_that_cannot_be_read_is_refused(serializer, payload):
    with pytest.raises(WireError, match="serializer"):
        unpack(b"raw event " + payload, b"raw", reader(serializer))


@pytest.mark.parametrize("serializer", SERIALIZERS)
@pytest.mark.parametrize("payload", [[1, 2], "text", None, 3])
def test_a_payload_that_is_no_document_is_refused(serializer, payload):
    with pytest.raises(WireError, match=f"got {type(payload).__name__}"):
        unpack(message(serializer, payload), b"raw", reader(serializer))


@pytest.mark.parametrize("serializer", ["msgpack", "json"])
@given(payload=st.binary(max_size=60))
@REPEATABLE
def test_random_payloads_are_read_or_refused(serializer, payload):
    try:
        found = unpack(b"raw event " + payload, b"raw", reader(serializer))
    except WireError:
        return
    assert found is not None
    assert isinstance(found[1], dict)


@pytest.mark.parametrize("make", [reader, writer])
def test_an_unknown_serializer_names_those_that_are_known(make):
    with pytest.raises(ConfigError, match="msgpack, json, pickle, got 'yaml'"):
        make("yaml")
