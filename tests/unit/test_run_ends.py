"""Ends of raw runs that ingest passes on: once, after the stop document's delay, and never before an open curve."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from cdi_stream.documents.runs import RunBook
from cdi_stream.live.ingest import STOP_DELAY_S, Ingest, IngestSettings
from tests.assembling import Clock, run_start, run_stop


class Rig:
    """Ingest with a run book and without sockets; `poll` returns the uids of the runs that have ended."""

    def __init__(self, clock) -> None:
        self.clock = clock
        self.book = RunBook(clock)
        self.open_curves: dict[str, str] = {}
        self.open_runs: tuple[str, ...] = ()
        self.restart()

    def restart(self) -> None:
        settings = IngestSettings(progress_every_s=1.0, frame_every_s=1.0)
        assembler = SimpleNamespace(book=self.book, open_runs=lambda: self.open_curves)
        self.ingest = Ingest(settings, None, None, assembler, None)

    def poll(self, after_s: float = 0.0) -> list[str]:
        self.clock.now_s += after_s
        ended = []
        self.ingest._end_runs(self.open_runs, ended.append)
        return [work.uid for work in ended]


@pytest.fixture
def rig(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("cdi_stream.live.ingest.time", SimpleNamespace(time=clock, monotonic=clock))
    return Rig(clock)


def test_a_run_ends_once_after_the_delay(rig):
    rig.book.on_document(*run_start())
    assert rig.poll(10.0) == []
    rig.book.on_document(*run_stop(0))
    assert rig.poll(0.9 * STOP_DELAY_S) == []
    assert rig.poll(0.2 * STOP_DELAY_S) == ["run"]
    assert rig.poll(10.0) == []


def test_a_run_does_not_end_while_a_curve_is_open(rig):
    rig.book.on_document(*run_start())
    rig.book.on_document(*run_stop(0))
    rig.open_curves = {"1": "run"}
    assert rig.poll(10.0) == []
    rig.open_curves = {}
    assert rig.poll() == ["run"]


def test_after_a_restart_the_delay_begins_again(rig):
    rig.book.on_document(*run_start())
    rig.book.on_document(*run_stop(0))
    rig.clock.now_s += 100.0
    rig.restart()
    assert rig.poll(0.5 * STOP_DELAY_S) == []
    assert rig.poll(0.6 * STOP_DELAY_S) == ["run"]


def test_an_unknown_run_ends_once_while_it_is_open(rig):
    rig.open_runs = ("series-5-100",)
    assert rig.poll() == ["series-5-100"]
    assert rig.poll(10.0) == []
    rig.open_runs = ()
    assert rig.poll() == []
    rig.open_runs = ("series-5-100",)
    assert rig.poll() == ["series-5-100"]
