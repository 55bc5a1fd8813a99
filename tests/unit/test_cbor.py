"""The CBOR reader against cbor2 as a foreign encoder, and against broken bytes."""

from __future__ import annotations

from typing import Any

import cbor2
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cdi_stream.errors import WireError
from cdi_stream_plugins.decoders.cbor import CborReader, Tag

REPEATABLE = settings(
    max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], database=None
)
LARGEST = 2**64 - 1
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-LARGEST - 1, LARGEST)
    | st.floats(allow_nan=False)
    | st.text(max_size=40)
    | st.binary(max_size=300)
)
TAG_NUMBERS = st.integers(100, LARGEST).filter(lambda n: n not in (256, 258, 260, 261, 1004, 43000, 55799))
ITEMS = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=30)
        | st.dictionaries(st.text(max_size=20) | st.integers(-LARGEST - 1, LARGEST), inner, max_size=30)
        | st.builds(cbor2.CBORTag, TAG_NUMBERS, inner)
    ),
    max_leaves=12,
)


def read(message: bytes) -> Any:
    return CborReader(memoryview(message)).read()


def as_cbor2(item: Any) -> Any:
    """What the reader returned, in the types that cbor2 was given."""
    match item:
        case memoryview():
            return bytes(item)
        case Tag():
            return cbor2.CBORTag(item.number, as_cbor2(item.value))
        case list():
            return [as_cbor2(one) for one in item]
        case dict():
            return {key: as_cbor2(value) for key, value in item.items()}
    return item


@given(ITEMS)
@REPEATABLE
def test_reads_what_cbor2_writes(item):
    assert as_cbor2(read(cbor2.dumps(item))) == item


@given(st.floats(allow_nan=False, width=16) | st.floats(allow_nan=False, width=32))
@REPEATABLE
def test_reads_floats_of_every_width(number):
    assert read(cbor2.dumps(number, canonical=True)) == number


@pytest.mark.parametrize("n", [0, 23, 24, 255, 256, 65535, 65536, 2**32 - 1, 2**32, LARGEST])
def test_reads_integers_at_the_edges_of_their_widths(n):
    assert read(cbor2.dumps(n)) == n
    assert read(cbor2.dumps(-1 - n)) == -1 - n


def test_byte_strings_are_views_of_the_message():
    message = cbor2.dumps({"pixels": bytes(range(200))})
    view = read(message)["pixels"]
    assert view.obj is message
    assert bytes(view) == bytes(range(200))


def test_only_the_first_item_is_read():
    assert read(cbor2.dumps([1, 2]) + b"\xff\xff") == [1, 2]


@pytest.mark.parametrize("opening", [b"\x81", b"\xc1", b"\xa1\x00"])
def test_nesting_is_limited(opening):
    read(opening * 16 + b"\x00")
    for depth in (17, 100_000):
        with pytest.raises(WireError, match="deeper than 16"):
            read(opening * depth + b"\x00")


@pytest.mark.parametrize("major", [2, 3, 4, 5])
@pytest.mark.parametrize("length", [3, 2**32, LARGEST])
def test_a_length_beyond_the_message_is_refused(major, length):
    with pytest.raises(WireError, match=f"of {length} "):
        read(bytes([major << 5 | 27]) + length.to_bytes(8, "big") + b"\x00\x00")


@given(ITEMS, st.data())
@REPEATABLE
def test_a_message_cut_short_is_refused(item, data):
    message = cbor2.dumps(item)
    with pytest.raises(WireError):
        read(message[: data.draw(st.integers(0, len(message) - 1))])


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("9f00ff", "kind 31"),
        ("bf0000ff", "kind 31"),
        ("5f4100ff", "kind 31"),
        ("7f6161ff", "kind 31"),
        ("1c", "kind 28"),
        ("62c328", "UTF-8"),
        ("63eda080", "UTF-8"),
        ("a14100f6", "map key of type memoryview"),
        ("a18000", "map key of type list"),
        ("a1f600", "map key of type NoneType"),
        ("a1fb3ff800000000000000", "map key of type float"),
        ("e0", "simple value 0"),
        ("f820", "simple value 24"),
        ("ff", "simple value 31"),
        ("", "1 bytes at 0"),
    ],
)
def test_what_is_not_supported_is_refused_with_its_reason(message, reason):
    with pytest.raises(WireError, match=reason):
        read(bytes.fromhex(message))


@given(st.binary(max_size=64))
@example(b"\xbf" * 64)
@REPEATABLE
def test_random_bytes_are_read_or_refused(message):
    try:
        item = read(message)
    except WireError:
        return
    assert isinstance(item, None | bool | int | float | str | memoryview | list | dict | Tag)
