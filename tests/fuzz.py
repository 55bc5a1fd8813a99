"""A seeded fuzzer of the decoders: every input ends in messages or `WireError`, soon and in little memory.

``python -m tests.fuzz --cases 100000`` decodes so many random and so many mutated inputs with each decoder and prints
a table; it ends with code 1 if a limit is exceeded, and with the traceback of whatever else a decoder raises.  A case
is known by decoder, kind, seed and number: ``--decoder NAME --kind KIND --first N --cases 1`` repeats it.  ``--keep
FILE`` writes each input before it is decoded, so that one which kills the process is not lost.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import resource
import struct
import sys
import time
import tracemalloc
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import cbor2
import msgpack
import numpy as np
from rich.console import Console
from rich.table import Table

from cdi_stream.errors import WireError
from cdi_stream.messages import Box, DetectorFrame, SeriesEnd, SeriesStart, WireMessage
from cdi_stream.protocols import Decoder, DecoderFactory
from cdi_stream_plugins.decoders import decompression
from cdi_stream_plugins.decoders.array1 import Array1Decoder
from cdi_stream_plugins.decoders.dectris1 import Dectris1Decoder
from cdi_stream_plugins.decoders.dectris2 import Dectris2Decoder
from sim_beamline import wire, wire1

Parts = list[bytes]
T = TypeVar("T")

DATA = Path(__file__).parent / "data"
DECODERS: dict[str, DecoderFactory] = {
    "array1": Array1Decoder,
    "dectris1": Dectris1Decoder,
    "dectris2": Dectris2Decoder,
}
KINDS = ("random", "mutated")
MAX_PIXELS = 100_000
ROI = (1, 4, 2, 7)
OPTIONS = ((None, None), (ROI, None), (None, wire.CHANNEL))
LARGEST_REAL_BYTES = 30_000
SAMPLE_EVERY = 50
"""One case in so many is traced for the memory that it takes."""

MAX_CASE_S = 1.0
MAX_PEAK_BYTES = 4_000_000
MAX_GROWTH_BYTES = 100_000_000


class BrokenError(AssertionError):
    """A decoder gave what nobody can use."""


# --- one case: decode and use -----------------------------------------------------------------------------------


def decode_and_use(decoder: Decoder, parts: Parts) -> bool:
    """Whether anything came; only `WireError` is held back.  What comes is looked at as its users look at it."""
    n_messages = 0
    try:
        for message in decoder.decode([memoryview(part) for part in parts]):
            use(message)
            n_messages += 1
    except WireError as error:
        if len(str(error)) > 1000:
            raise BrokenError(f"a reason of {len(str(error))} characters") from error
    return n_messages > 0


def decoder_of(name: str, roi: Box | None = None, channel: str | None = None) -> Decoder:
    """A new decoder; that of stream v1 knows a series, so that a configuration by itself means something."""
    decoder = DECODERS[name](roi=roi, channel=channel, max_pixels=MAX_PIXELS)
    if name == "dectris1":
        list(decoder.decode([b'{"htype": "dheader-1.0", "series": 7}']))
    return decoder


def use(message: WireMessage) -> None:
    """Touch all of a message; raises `BrokenError` if it holds what the service could not bear."""
    require(isinstance(message, SeriesStart | DetectorFrame | SeriesEnd), "no message")
    series = message.series
    require(series is None or len(str(series).encode()) <= 1024, "series of no bounded name")
    if isinstance(message, DetectorFrame):
        require(message.pixels.ndim == 2 and 0 < message.pixels.size <= MAX_PIXELS, "pixels beyond the limit")
        require(type(message.image_id) is int and 0 <= message.image_id < 2**63, "image id")
        require(is_finite(message.exposure_s), "exposure")
        with np.errstate(all="ignore"):
            message.pixels.sum()
    elif isinstance(message, SeriesStart):
        use_start(message)


def use_start(start: SeriesStart) -> None:
    """Touch all of a start message."""
    require(start.n_images is None or 0 < start.n_images < 2**63, "number of images")
    require(start.image_shape is None or 0 < math.prod(start.image_shape) <= MAX_PIXELS, "shape of images")
    numbers = [start.photon_energy_ev, start.pixel_row_m, start.pixel_col_m, start.distance_m, start.beam_row]
    numbers += [start.beam_col, start.saturation_counts, start.count_time_s, *chain(*start.goniometer.values())]
    require(all(map(is_finite, numbers)), "numbers")
    require(all(isinstance(axis, str) for axis in start.goniometer), "axes")
    if start.pixel_mask is not None:
        require(start.pixel_mask.dtype == bool and start.pixel_mask.size <= MAX_PIXELS, "mask")
        start.pixel_mask.sum()
    repr(start.user_data)


def require(is_fine: bool, what: str) -> None:
    if not is_fine:
        raise BrokenError(what)


def is_finite(value: float | None) -> bool:
    return value is None or math.isfinite(value)


# --- real messages ----------------------------------------------------------------------------------------------


CORPUS = {
    "array1": (),
    "dectris1": ("tickit_v1_*.msgpack", "libertem_rust_uint*.msgpack"),
    "dectris2": ("tickit_v2_*.msgpack",),
}


def real_messages(name: str) -> list[Parts]:
    """Small messages for a decoder, whole ones: from the corpus, and from the simulated beamline."""
    files = chain.from_iterable(sorted((DATA / "wire").glob(pattern)) for pattern in CORPUS[name])
    found = list(chain.from_iterable(msgpack.unpackb(path.read_bytes()) for path in files))
    found += {"dectris1": simulated_1, "dectris2": simulated_2, "array1": simulated_array}[name]()
    return [parts for parts in found if None not in parts and sum(map(len, parts)) < LARGEST_REAL_BYTES]


def images() -> Iterator[tuple[np.ndarray, str]]:
    """Small images of each type and codec."""
    rng = np.random.default_rng(1)
    for shape in ((5, 8), (31, 17), (96, 160)):
        for dtype in ("uint8", "uint16", "uint32"):
            for codec in ("raw", "lz4", "bslz4"):
                if shape[0] < 96 or codec == "bslz4":
                    yield rng.poisson(0.2, shape).astype(dtype), codec


MASK = np.arange(40).reshape(5, 8) % 7 > 0
HEADER = {"pixel_row_m": 55e-6, "pixel_col_m": 55e-6, "beam_row": 2.5, "beam_col": 4.0, "count_time_s": 0.1}
DATE = re.compile(rb"x.\d{4}-\d\d-\d\dT[\d:.]+Z", re.DOTALL)
START: dict[str, Any] = {"series": 7, "n_images": 61, "shape": (5, 8), "header": HEADER}


def simulated_1() -> list[Parts]:
    pictures = [
        wire1.image_parts(series=7, image_id=k, pixels=pixels, count_time_s=0.1, codec=codec)
        for k, (pixels, codec) in enumerate(images())
    ]
    basic, full = (wire1.start_parts(**START, mask=mask, user_data={"run_uid": "a"}) for mask in (None, MASK))
    end = wire1.end_parts(series=7)
    bare = [[*picture[:2], blob, *picture[3:]] for picture in pictures[2:9:3] for blob in headers_of(picture[2])]
    joined = [full + pictures[0], basic[:1] + pictures[2] + pictures[5], pictures[1] + end]
    return [basic, full, basic[1:2], *pictures, *bare, *joined, end]


def headers_of(blob: bytes) -> tuple[bytes, bytes]:
    """A bitshuffled blob without its header, and with one of zeros."""
    return blob[12:], bytes(12) + blob[12:]


def simulated_2() -> list[Parts]:
    user_data = {"run_uid": "a", "list": [1, 2.5, None]}
    starts = [wire.start_message(**START, mask=mask, user_data=user_data, dtype="uint16") for mask in (None, MASK)]
    starts = [DATE.sub(b"x\x142026-01-01T00:00:00Z", start) for start in starts]
    goniometer = {"omega": {"start": 1, "increment": 2.0}}
    starts.append(cbor2.dumps({"type": "start", "series_id": 7, "goniometer": goniometer}))
    pictures = [
        wire.image_message(series=7, image_id=k, pixels=pixels, count_time_s=0.1, codec=codec)
        for k, (pixels, codec) in enumerate(images())
    ]
    channels = {f"threshold_{k}": wire.array(pixels, codec) for k, (pixels, codec) in enumerate(list(images())[:3])}
    pictures.append(cbor2.dumps({"type": "image", "series_id": 7, "image_id": 0, "data": channels}))
    end = wire.end_message(series=7)
    return [[part] for part in (*starts, *pictures, end)] + [[starts[0], pictures[0]], [pictures[1], end]]


def simulated_array() -> list[Parts]:
    found = [wire1.array_parts(frame=k, pixels=pixels, codec=codec) for k, (pixels, codec) in enumerate(images())]
    old = {"htype": ["array-1.0"], "type": "int32", "shape": [8, 5], "frame": 3, "ndattr": {"NumImages": 5}}
    big = {"htype": "array-1.0", "type": "float64", "shape": [1, 5, 8], "frame": 3, "endianness": "big"}
    return [*found, [json.dumps(old).encode(), bytes(160)], [json.dumps(big).encode(), bytes(320)]]


# --- random inputs ----------------------------------------------------------------------------------------------


class Draw:
    """Draws of one case; all come from its number."""

    def __init__(self, *key: int) -> None:
        self._rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))

    def below(self, n: int) -> int:
        return int(self._rng.integers(n))

    def one(self, choices: Sequence[T]) -> T:
        return choices[self.below(len(choices))]

    def bytes(self, n: int) -> bytes:
        return self._rng.bytes(n)


ALPHABETS = (
    bytes(range(256)),
    b'{}[]",:0123456789.eE+-tfn\\u htype',
    bytes.fromhex("00011b405b6180a1d8fb"),
)
IMAGE_1 = b'{"htype": "dimage-1.0", "series": 7, "frame": 0}'
DATA_1 = b'{"shape": [8, 5], "type": "uint16", "encoding": "%s"}'
OPENINGS: dict[str, list[Parts]] = {
    "dectris1": [
        [b'{"htype": "dheader-1.0", "series": 7}'],
        [b'{"htype": "dheader-1.0", "series": 7, "header_detail": "none"}'],
        [IMAGE_1],
        [IMAGE_1, DATA_1 % b"lz4<"],
        [IMAGE_1, DATA_1 % b"bs16-lz4<"],
    ],
    "dectris2": [[b"\xd9\xd9\xf7"], [b"\xa3\x64type\x65image\x69series_id\x07"], [b"\xa9\x64type\x65start"]],
    "array1": [
        [b'{"htype": "array-1.0", "shape": [5, 8], "type": "uint8", "frame": 0, "encoding": "bslz4"}'],
        [b'{"htype": "array-1.0", "shape": [5, 8], "type": "uint8", "frame": 0, "encoding": "lz4"}'],
    ],
}


def random_parts(draw: Draw, name: str) -> Parts:
    """One to five parts of up to 2000 random bytes, of any value or of such as the format knows.

    Half of them come behind the beginning of a real message.
    """
    alphabet = draw.one(ALPHABETS)
    parts = [random_bytes(draw, alphabet) for _ in range(1 + draw.below(5))]
    if draw.below(2):
        opening = draw.one(OPENINGS[name])
        if name == "dectris2":
            parts[0] = opening[0] + parts[0]
        else:
            parts = opening + parts
    return parts


def random_bytes(draw: Draw, alphabet: bytes) -> bytes:
    content = draw.bytes(draw.one((0, 1, 2, 9, 12, 30, 200, 1 + draw.below(2000))))
    return content.translate(bytes(alphabet[value % len(alphabet)] for value in range(256)))


# --- mutations of bytes and parts -------------------------------------------------------------------------------


def flipped(draw: Draw, part: bytes) -> bytes:
    changed = bytearray(part or b"\0")
    for _ in range(1 + draw.below(8)):
        changed[draw.below(len(changed))] ^= 1 << draw.below(8)
    return bytes(changed)


def overwritten(draw: Draw, part: bytes) -> bytes:
    at, n = draw.below(len(part) + 1), 1 + draw.below(12)
    return part[:at] + draw.one((draw.bytes(n), b"\0" * n, b"\xff" * n)) + part[at + n :]


def truncated(draw: Draw, part: bytes) -> bytes:
    at = draw.below(len(part) + 1)
    return part[at:] if draw.below(4) == 0 else part[:at]


def with_insertion(draw: Draw, part: bytes) -> bytes:
    at, n = draw.below(len(part) + 1), 1 + draw.below(12)
    return part[:at] + draw.one((draw.bytes(n), part[at : at + 40], b"[" * n, b"\x81" * n)) + part[at:]


def without_middle(draw: Draw, part: bytes) -> bytes:
    at = draw.below(len(part) + 1)
    return part[:at] + part[at + 1 + draw.below(20) :]


def with_hostile_header(draw: Draw, part: bytes) -> bytes:
    """Announced bytes and block size of a blob changed, both or one of them."""
    n_bytes, block_bytes = struct.unpack_from(">QI", part) if len(part) >= 12 else (0, 0)
    sizes = (0, 1, n_bytes, n_bytes ^ 1, n_bytes + 1, 2 * n_bytes, 2**31, 2**32, 2**63, 2**64 - 1)
    blocks = (0, 1, 8, 64, 8191, 8192, block_bytes, 2**20, 2**30, 2**31 - 1, 2**31 - 16, 2**31, 2**32 - 16, 2**32 - 1)
    return struct.pack(">QI", draw.one(sizes) % 2**64, draw.one(blocks)) + part[12:]


def with_hostile_block(draw: Draw, part: bytes) -> bytes:
    """Length of the first compressed block changed, behind the header or at the very beginning."""
    at = draw.one((0, 12))
    return part[:at] + struct.pack(">I", draw.one((0, 1, 2**20, 2**31 - 1, 2**31, 2**32 - 1))) + part[at + 4 :]


BYTE_EDITS = (flipped, overwritten, truncated, with_insertion, without_middle, with_hostile_header, with_hostile_block)


def with_parts_moved(draw: Draw, parts: Parts) -> Parts:
    at, other = draw.below(len(parts)), draw.below(len(parts))
    match draw.below(5):
        case 0:
            return parts[:at] + parts[at + 1 :] or [b""]
        case 1:
            return parts[:at] + [parts[other]] * (1 + draw.below(3)) + parts[at:]
        case 2:
            parts = parts.copy()
            parts[at], parts[other] = parts[other], parts[at]
            return parts
        case 3:
            return [*parts[:at], draw.bytes(draw.below(40)), *parts[at:]]
        case _:
            return [*parts[:at], b"", *parts[at + 1 :]]


# --- mutations of JSON ------------------------------------------------------------------------------------------

JUNK: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 2, 1.5, -0.0, 1e308, 5e-324, math.nan, math.inf, 2**31, 2**63 - 1, 2**63, 2**64 - 1),
    *("", "x", "7", "x" * 3000, "\0\n", "nan", "\u5343", [], {}, [[]], [None], [1] * 9, [1, 5e-324], [2**64 - 1, 1]),
    *({"value": 1}, {"value": None}, {"value": {"value": 2}}, {"start": 1, "increment": 2}, [0, 0], [-5, 8]),
    *([True, 40], [8, 5], [5, 8], [1, 40], [40, 1], [40], [5, 8, 1], [1, 5, 8], [2**32, 2**32], [2**63, 2], [1.0, 40]),
    *("uint8", "uint16", "uint32", "uint64", "int8", "float32", "float64", "object", "U1", "u1,u1", "<u2", "big"),
    *("<", ">", "lz4", "lz4<", "lz4>", "bslz4", "bs8-lz4<", "bs16-lz4<", "bs32-lz4<", "bs64-lz4>", "bs9-lz4<", "raw"),
    *("dheader-1.0", "dimage-1.0", "dimage_d-1.0", "dseries_end-1.0", "dpixelmask-1.0", "array-1.0", ["array-1.0"]),
    *("none", "basic", "all", "start", "image", "end"),
)
JSON_JUNK = tuple(map(json.dumps, (*JUNK, 10**400, -(10**400), 2**64, "\ud800")))
KEYS = ("htype", "series", "frame", "shape", "type", "encoding", "endianness", "ndattr", "trigger_mode", "real_time")
CONFIG_KEYS = ("header_detail", "nimages", "ntrigger", "x_pixels_in_detector", "omega_start", "omega_increment")


def with_json_changed(draw: Draw, part: bytes) -> bytes:
    """One to three values of a JSON object replaced, added or removed; other bytes are flipped."""
    try:
        item = json.loads(part)
    except (ValueError, RecursionError):
        return flipped(draw, part)
    if not isinstance(item, dict):
        return flipped(draw, part)
    for _ in range(1 + draw.below(3)):
        place = draw.one(list(places(item)))
        key = draw.one(list(place)) if draw.below(4) and place else draw.one(KEYS + CONFIG_KEYS)
        match draw.below(6):
            case 0:
                place.pop(key, None)
            case _:
                place[key] = json.loads(draw.one(JSON_JUNK))
    text = json.dumps(item)
    if draw.below(20) == 0 and text != "{}":
        text = f'{{"{draw.one(KEYS + CONFIG_KEYS)}": {draw.one(JSON_JUNK)}, {text[1:]}'  # a key twice
    return text.encode(draw.one(("utf-8",) * 19 + ("utf-16",)))


def places(item: Any) -> Iterator[dict[str, Any]]:
    """Objects inside an object, and itself."""
    if isinstance(item, dict):
        yield item
        for value in item.values():
            yield from places(value)


# --- mutations of CBOR ------------------------------------------------------------------------------------------


class Span(NamedTuple):
    """Where an item of a CBOR message begins, where its content does, and where it ends."""

    begin: int
    content: int
    end: int


def spans_of(message: bytes) -> list[Span]:
    """Every item of a well-formed message, those inside before those around them."""
    found: list[Span] = []

    def walk(begin: int) -> int:
        major, argument, at = message[begin] >> 5, message[begin] & 31, begin + 1
        if argument > 23:
            size = 1 << (argument - 24)
            argument = int.from_bytes(message[at : at + size], "big")
            at += size
        content = at
        if major in (2, 3):
            at += argument
        else:
            for _ in range({4: argument, 5: 2 * argument, 6: 1}.get(major, 0)):
                at = walk(at)
        found.append(Span(begin, content, at))
        return at

    if walk(0) != len(message):
        raise ValueError("no single CBOR item")
    return found


def head(major: int, argument: int) -> bytes:
    """First bytes of a CBOR item, as short as they can be."""
    if argument < 24:
        return bytes([major << 5 | argument])
    size = next(k for k in range(4) if argument < 1 << (8 << k))
    return bytes([major << 5 | 24 + size]) + argument.to_bytes(1 << size, "big")


TAGS = (0, 40, 1040, 55799, 56500, 2**64 - 1, *range(64, 88))
COUNTS = (0, 1, 2, 23, 24, 255, 65535, 2**31, 2**32 - 1, 2**63, 2**64 - 1)
ODDITIES = ("f7", "f97e00", "f90001", "40", "4100", "a14000", "ff", "9fff", "1b" + "ff" * 8, "3b" + "ff" * 8)
CBOR_JUNK = (*map(cbor2.dumps, JUNK), *map(bytes.fromhex, ODDITIES))


def with_cbor_changed(draw: Draw, part: bytes, spans: list[Span]) -> bytes:
    """One item's length, tag or value changed; the rest stays what it was."""
    span = draw.one(spans)
    begin, content, end = span
    major = part[begin] >> 5
    match draw.below(6):
        case 0:  # a length or number out of step with what follows
            return part[:begin] + head(major, changed_count(draw, part, span)) + part[content:]
        case 1:
            return part[:begin] + bytes([part[begin] & 0xE0 | 24 + draw.below(8)]) + part[begin + 1 :]
        case 2 if major == 6:
            return part[:begin] + head(6, draw.one(TAGS)) + part[content:]
        case 2:
            return part[:begin] + head(6, draw.one(TAGS)) + part[begin:]
        case 3 if major == 2:  # a blob corrupted in place
            return part[:content] + hostile_blob(draw, part[content:end]) + part[end:]
        case 4:
            begin_2, _, end_2 = draw.one(spans)
            return part[:begin] + part[begin_2:end_2] + part[end:]
        case _:
            return part[:begin] + draw.one(CBOR_JUNK) + part[end:]


def hostile_blob(draw: Draw, blob: bytes) -> bytes:
    """Bytes of a blob changed, its length kept."""
    changed = draw.one((flipped, with_hostile_header, with_hostile_block))(draw, blob)
    return changed[: len(blob)].ljust(len(blob), b"\0")


def changed_count(draw: Draw, part: bytes, span: Span) -> int:
    argument = part[span.begin] & 31
    if argument > 23:
        argument = int.from_bytes(part[span.begin + 1 : span.content], "big")
    return draw.one((*COUNTS, argument + 1, max(argument - 1, 0), 2 * argument, argument // 2)) % 2**64


# --- mutated inputs ---------------------------------------------------------------------------------------------


class Source:
    """Makes the inputs of one kind for one decoder; each follows from its number alone."""

    def __init__(self, name: str, kind: str, seed: int) -> None:
        self._name = name
        self._is_mutated = kind == "mutated"
        self._key = (seed, sorted(DECODERS).index(name), KINDS.index(kind))
        self._real = real_messages(name) if self._is_mutated else []
        self._spans = {part: spans_of(part) for part in chain(*self._real)} if name == "dectris2" else {}

    def case(self, number: int) -> tuple[Parts, tuple[Box | None, str | None]]:
        """Parts, and the region of interest and channel to decode them with."""
        draw = Draw(*self._key, number)
        parts = self._mutated(draw) if self._is_mutated else random_parts(draw, self._name)
        return parts, draw.one(OPTIONS)

    def _mutated(self, draw: Draw) -> Parts:
        """A real message with one to three edits."""
        parts = list(draw.one(self._real))
        for _ in range(draw.one((1, 1, 1, 2, 3))):
            if draw.below(8) == 0:
                parts = with_parts_moved(draw, parts)
            else:
                at = draw.below(len(parts))
                parts[at] = self._edited(draw, parts[at])
        return parts

    def _edited(self, draw: Draw, part: bytes) -> bytes:
        if draw.below(2) == 0:
            if part in self._spans:
                return with_cbor_changed(draw, part, self._spans[part])
            if part[:1] == b"{":
                return with_json_changed(draw, part)
        return draw.one(BYTE_EDITS)(draw, part)


# --- a run ------------------------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class Tally:
    """What a run of cases came to."""

    decoder: str
    kind: str
    decoded: int = 0
    refused: int = 0
    slowest_s: float = 0.0
    peak_bytes: int = 0
    growth_bytes: int = 0

    def exceeded(self) -> list[str]:
        """Limits that the run went beyond."""
        limits = (
            ("slowest case [s]", self.slowest_s, MAX_CASE_S),
            ("peak of one case [bytes]", self.peak_bytes, MAX_PEAK_BYTES),
            ("growth of the process [bytes]", self.growth_bytes, MAX_GROWTH_BYTES),
        )
        return [f"{self.decoder}, {self.kind}: {what} {n:.3g} > {limit:.3g}" for what, n, limit in limits if n > limit]


def largest_rss_bytes() -> int:
    """Most memory that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def run(name: str, kind: str, numbers: Iterable[int], *, seed: int = 0, keep: Path | None = None) -> Tally:
    """Decode and use each case; what a decoder raises but `WireError` comes out with the case's number."""
    source, tally = Source(name, kind, seed), Tally(decoder=name, kind=kind)
    before_bytes = largest_rss_bytes()
    for number in numbers:
        parts, options = source.case(number)
        if keep is not None:
            keep.write_bytes(msgpack.packb(parts))
        try:
            run_case(tally, decoder_of(name, *options), parts, is_traced=number % SAMPLE_EVERY == 0)
        except Exception as error:
            error.add_note(f"{name}, {kind}, seed {seed}, case {number}: {parts!r:.3000}")
            raise
    tally.growth_bytes = largest_rss_bytes() - before_bytes
    return tally


def run_case(tally: Tally, decoder: Decoder, parts: Parts, *, is_traced: bool) -> None:
    """Decode and use one input and note what it took."""
    if is_traced:
        tracemalloc.start()
    begin = time.thread_time()
    try:
        has_decoded = decode_and_use(decoder, parts)
    finally:
        tally.slowest_s = max(tally.slowest_s, time.thread_time() - begin)
        if is_traced:
            tally.peak_bytes = max(tally.peak_bytes, tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    tally.decoded += has_decoded
    tally.refused += not has_decoded


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the options ask for and print a table; returns 1 if a limit was exceeded."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000, help="cases of each kind for each decoder")
    parser.add_argument("--first", type=int, default=1, help="number of the first case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--decoder", choices=DECODERS, action="append")
    parser.add_argument("--kind", choices=KINDS, action="append")
    parser.add_argument("--backend", choices=decompression.BACKENDS, help="decompression; the default one otherwise")
    parser.add_argument("--keep", type=Path, help="file for the input that is being decoded")
    options = parser.parse_args(arguments)
    if options.backend:
        decompression._default = decompression.BACKENDS[options.backend]
    numbers = range(options.first, options.first + options.cases)
    table = Table("decoder", "kind", "cases", "decoded", "refused", "slowest", "peak", "RSS growth")
    exceeded: list[str] = []
    for name in options.decoder or DECODERS:
        for kind in options.kind or KINDS:
            tally = run(name, kind, numbers, seed=options.seed, keep=options.keep)
            exceeded += tally.exceeded()
            table.add_row(name, kind, str(len(numbers)), str(tally.decoded), str(tally.refused), *_costs(tally))
    Console(width=120).print(table)
    print(*exceeded, sep="\n", end="")
    return 1 if exceeded else 0


def _costs(tally: Tally) -> tuple[str, str, str]:
    peak, growth = (f"{n / 1e6:.1f} MB" for n in (tally.peak_bytes, tally.growth_bytes))
    return f"{tally.slowest_s * 1e3:.1f} ms", peak, growth


if __name__ == "__main__":
    sys.exit(main())
