"""Message log: byte for byte, and readable up to the last whole message."""

from __future__ import annotations

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdi_stream.errors import RecordingError
from cdi_stream.stream.message_log import FORMAT, MessageLog, read_log

MESSAGES = [(1, [b"one"]), (2**62, [b"", b"\x00\xff" * 9, b""]), (3, [b""]), (4, []), (4, [b'{"a": 1}', b"\n"])]
HEADER = msgpack.packb({"format": FORMAT})


def written(path, messages):
    log = MessageLog(path)
    for time_ns, parts in messages:
        log.write(parts, time_ns)
    log.close()
    return path


def test_messages_come_back_byte_for_byte(tmp_path):
    assert [tuple(entry) for entry in read_log(written(tmp_path / "a.log", MESSAGES))] == MESSAGES


@given(messages=st.lists(st.tuples(st.integers(0, 2**63 - 1), st.lists(st.binary(max_size=300), max_size=4))))
@settings(max_examples=100, deadline=None, derandomize=True, database=None)
def test_any_bytes_come_back(messages, tmp_path_factory):
    path = written(tmp_path_factory.mktemp("log") / "a.log", messages)
    assert [tuple(entry) for entry in read_log(path)] == messages


def test_large_parts_come_back(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, 20_000_000, dtype=np.uint8).tobytes()
    path = written(tmp_path / "a.log", [(1, [b"header", image]), (2, [b"after"])])
    (_, parts), (_, after) = read_log(path)
    assert parts == [b"header", image]
    assert after == [b"after"]


def test_parts_may_be_views_of_memory_that_changes_afterwards(tmp_path):
    memory = bytearray(b"before")
    log = MessageLog(tmp_path / "a.log")
    log.write([memoryview(memory)[1:4]], 5)
    memory[:] = b"after!"
    log.close()
    assert list(read_log(tmp_path / "a.log")) == [(5, [b"efo"])]


def test_an_empty_log_holds_no_message(tmp_path):
    assert list(read_log(written(tmp_path / "a.log", []))) == []


def test_a_killed_writer_leaves_the_whole_messages_before_the_last(tmp_path):
    whole = written(tmp_path / "a.log", MESSAGES).read_bytes()
    ends = [len(HEADER)]
    for time_ns, parts in MESSAGES:
        ends.append(ends[-1] + len(msgpack.packb([time_ns, parts])))
    assert ends[-1] == len(whole)
    for n_bytes in range(len(HEADER), len(whole) + 1):
        (tmp_path / "cut.log").write_bytes(whole[:n_bytes])
        n_whole = sum(end <= n_bytes for end in ends[1:])
        assert [tuple(entry) for entry in read_log(tmp_path / "cut.log")] == MESSAGES[:n_whole]


FOREIGN = {
    "nothing": b"",
    "half a header": HEADER[:-1],
    "text": b"#S 12 ascan theta 0 0.3 3 1\n",
    "JSON": b'{"format": "cdi_stream message log 1"}',
    "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(40),
    "another format": msgpack.packb({"format": "cdi_stream message log 0"}),
    "no format": msgpack.packb({"version": 1}),
    "a list": msgpack.packb([FORMAT]),
    "no msgpack": b"\xc1",
    "no UTF-8": b"\x81\xa2\xff\xff\x01",
    "a list for a key": b"\x81\x91\x01\x02",
    "nested without end": b"\x91" * 5000,
    "a list of billions": b"\xdd\x7f\xff\xff\xff",
    "a map of billions": b"\xdf\x7f\xff\xff\xff",
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_a_foreign_file_is_refused(tmp_path, content):
    (tmp_path / "a.log").write_bytes(content)
    with pytest.raises(RecordingError, match=r"a\.log: expected a 'cdi_stream message log 1'"):
        list(read_log(tmp_path / "a.log"))


def test_rubbish_behind_good_messages_is_refused_after_them(tmp_path):
    path = written(tmp_path / "a.log", MESSAGES[:2])
    path.write_bytes(path.read_bytes() + b"\xc1 rubbish")
    entries = read_log(path)
    assert [tuple(next(entries)), tuple(next(entries))] == MESSAGES[:2]
    with pytest.raises(RecordingError):
        next(entries)


@pytest.mark.parametrize("name", ["absent.log", "."])
def test_a_file_that_cannot_be_opened_is_refused(tmp_path, name):
    with pytest.raises(RecordingError, match="message log"):
        list(read_log(tmp_path / name))
