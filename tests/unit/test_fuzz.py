"""The decoders under a seeded fuzzer, and the inputs that once broke one of them."""

from __future__ import annotations

import subprocess
import sys
from itertools import chain
from pathlib import Path

import cbor2
import msgpack
import pytest

from cdi_stream.errors import WireError
from tests import fuzz

pytestmark = pytest.mark.usefixtures("backend")

ROOT = Path(__file__).parents[2]
FOUND = sorted((fuzz.DATA / "fuzz").glob("*.msgpack"))


@pytest.mark.parametrize("kind", fuzz.KINDS)
@pytest.mark.parametrize("name", fuzz.DECODERS)
def test_whatever_comes_is_decoded_or_refused(name, kind):
    tally = fuzz.run(name, kind, range(1, 2001))
    assert not tally.exceeded()
    assert tally.decoded + tally.refused == 2000
    assert tally.refused > 1000
    if kind == "mutated":
        assert tally.decoded > 200


@pytest.mark.parametrize("name", fuzz.DECODERS)
def test_unbroken_messages_are_decoded(name):
    for parts in fuzz.real_messages(name):
        assert fuzz.decode_and_use(fuzz.decoder_of(name), parts)


@pytest.mark.parametrize("kind", fuzz.KINDS)
@pytest.mark.parametrize("name", fuzz.DECODERS)
def test_a_case_follows_from_its_number(name, kind):
    one, other = (fuzz.Source(name, kind, seed=3) for _ in range(2))
    cases = [one.case(number) for number in range(50)]
    assert cases == [other.case(number) for number in reversed(range(50))][::-1]
    assert cases != [fuzz.Source(name, kind, seed=4).case(number) for number in range(50)]


@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.stem)
def test_inputs_that_broke_a_decoder_no_longer_do(path):
    name = path.stem.split("_")[0]
    tally = fuzz.Tally(decoder=name, kind=path.stem)
    for roi in (None, fuzz.ROI):
        fuzz.run_case(tally, fuzz.decoder_of(name, roi), msgpack.unpackb(path.read_bytes()), is_traced=True)
    assert not tally.exceeded()


def test_reasons_are_short():
    channels = {f"threshold_{k}": None for k in range(1000)}
    image = cbor2.dumps({"type": "image", "series_id": 7, "image_id": 0, "data": channels})
    with pytest.raises(WireError, match="expected channel 'total'") as refused:
        list(fuzz.decoder_of("dectris2", channel="total").decode([image]))
    assert len(str(refused.value)) < 300


def fuzzed_in_a_process_of_its_own(*options: str) -> None:
    """The decompressors are written in C: what goes wrong there ends the process."""
    command = [sys.executable, "-W", "error", "-X", "faulthandler", "-m", "tests.fuzz", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(options)}: {done.returncode}\n{done.stdout}\n{done.stderr[-5000:]}"


def test_no_input_ends_the_process(backend):
    fuzzed_in_a_process_of_its_own("--backend", backend, "--first", "10000", "--cases", "1500")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", fuzz.KINDS)
@pytest.mark.parametrize("name", fuzz.DECODERS)
def test_no_input_of_very_many_ends_the_process(name, kind, backend):
    fuzzed_in_a_process_of_its_own(
        "--backend", backend, "--decoder", name, "--kind", kind, "--first", "100000", "--cases", "100000"
    )


# --- the fuzzer itself ------------------------------------------------------------------------------------------


def test_every_item_of_a_message_is_found():
    message = cbor2.dumps({"a": [1, 2], "b": 255})
    items = [message[span.begin : span.end].hex() for span in fuzz.spans_of(message)]
    assert items == ["6161", "01", "02", "820102", "6162", "18ff", "a26161820102616218ff"]
    with pytest.raises(ValueError, match="no single"):
        fuzz.spans_of(message + b"\0")


@pytest.mark.parametrize("edit", fuzz.BYTE_EDITS, ids=lambda edit: edit.__name__)
def test_byte_edits_bear_any_part(edit):
    for number in range(200):
        for part in (b"", b"\0", bytes(range(40))):
            assert isinstance(edit(fuzz.Draw(number), part), bytes)


def test_edits_reach_every_kind_of_part():
    source = fuzz.Source("dectris1", "mutated", seed=0)
    real = set(chain(*fuzz.real_messages("dectris1")))
    parts = [part for number in range(300) for part in source.case(number)[0] if part not in real]
    assert sum(part.startswith(b"{") for part in parts) > 50
    assert sum(not part.startswith(b"{") for part in parts) > 50


def test_what_nobody_can_use_is_noticed(monkeypatch):
    monkeypatch.setattr(fuzz, "MAX_PIXELS", 39)
    decoder = fuzz.DECODERS["array1"](roi=None, channel=None, max_pixels=40)
    with pytest.raises(fuzz.BrokenError, match="pixels beyond"):
        fuzz.decode_and_use(decoder, fuzz.simulated_array()[0])


def test_limits_that_are_exceeded_are_named():
    tally = fuzz.Tally(decoder="array1", kind="random", slowest_s=2.0, peak_bytes=10**9, growth_bytes=10**9)
    assert len(tally.exceeded()) == 3
    assert "slowest case [s] 2 > 1" in tally.exceeded()[0]


def test_the_table_names_every_decoder(capsys, tmp_path):
    assert fuzz.main(["--cases", "3", "--keep", str(tmp_path / "input")]) == 0
    table = capsys.readouterr().out
    assert all(table.count(name) == len(fuzz.KINDS) for name in fuzz.DECODERS)
    assert msgpack.unpackb((tmp_path / "input").read_bytes()) == fuzz.Source("dectris2", "mutated", 0).case(3)[0]


def test_what_a_decoder_raises_comes_with_its_case(monkeypatch):
    class Wrong:
        def decode(self, parts):
            raise KeyError("no")

    monkeypatch.setitem(fuzz.DECODERS, "array1", lambda **_: Wrong())
    with pytest.raises(KeyError) as caught:
        fuzz.run("array1", "random", range(5, 6))
    assert "array1, random, seed 0, case" in "".join(caught.value.__notes__)
