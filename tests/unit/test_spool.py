"""Delivery of documents: in order, once, over restarts, and despite errors of the disk or of a sink."""

from __future__ import annotations

import contextlib
import sqlite3

import pytest

from cdi_stream.alarms import Alarms
from cdi_stream.documents.delivery import GIVE_WAY_S, MAX_RESEND_S, RESEND_AFTER_S, ArchiveDelivery, BusDelivery
from cdi_stream.documents.spool import BUS, SPOOL, Spool
from cdi_stream.errors import ConfigError, ServiceError


def documents(run="ours", n_events=2, has_stop=True):
    start = ("start", {"uid": run, "original_run_uid": f"raw of {run}"})
    descriptor = ("descriptor", {"uid": f"{run} d", "run_start": run, "name": "inference"})
    events = [("event", {"uid": f"{run} e{k}", "descriptor": f"{run} d", "seq_num": k}) for k in range(n_events)]
    stop = [("stop", {"uid": f"{run} s", "run_start": run})] if has_stop else []
    return [start, descriptor, *events, *stop]


def names(entries):
    return [entry.doc["uid"] for entry in entries]


@pytest.fixture
def opened(tmp_path):
    spools = []

    def make(*sinks, alarms=None):
        spools.append(Spool(tmp_path, sinks, alarms))
        return spools[-1]

    yield make
    for spool in spools:
        with contextlib.suppress(sqlite3.ProgrammingError, OSError):  # some are closed by the test
            spool.close()


def test_what_was_not_delivered_is_there_after_a_restart_in_order(opened):
    spool = opened("tiled")
    spool.put("ours", documents(), curve_key="curve 1")
    for entry in spool.waiting(BUS)[:2]:
        spool.mark_delivered(BUS, entry)
    assert spool.close() == {"bus": 3, "tiled": 5}
    again = opened("tiled")
    assert names(again.waiting(BUS)) == ["ours e0", "ours e1", "ours s"]
    assert names(again.waiting("tiled")) == ["ours", "ours d", "ours e0", "ours e1", "ours s"]
    assert again.is_published("curve 1")
    assert not again.is_published("curve 2")
    assert again.next_attempt("raw of ours") == 1


def test_a_run_that_every_sink_has_is_forgotten(opened, tmp_path):
    spool = opened("tiled")
    spool.put("ours", documents())
    for sink in (BUS, "tiled"):
        for entry in spool.waiting(sink):
            spool.mark_delivered(sink, entry)
    spool.close()
    with sqlite3.connect(tmp_path / SPOOL) as db:
        for table in ("documents", "runs", "heard", "done"):
            assert db.execute(f"SELECT COUNT(*) FROM {table}").fetchone() == (0,), table
    db.close()


def test_a_run_that_was_left_open_is_closed_with_its_counts(opened, tmp_path):
    first = Spool(tmp_path)
    first.put("ours", documents(n_events=3, has_stop=False))
    first.close()
    second = Spool(tmp_path)
    assert second.close_open_runs("the service was killed") == 1
    stop = second.waiting(BUS)[-1]
    assert stop.name == "stop"
    assert stop.doc["num_events"] == {"inference": 3}
    assert stop.doc["exit_status"] == "abort"
    assert second.close_open_runs("again") == 0
    second.close()


def test_a_second_service_on_the_folder_is_refused(opened, tmp_path):
    opened()
    with pytest.raises(ConfigError, match="in use by another service"):
        Spool(tmp_path)


def test_a_folder_that_cannot_be_is_a_message(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"publish\.directory .*cannot be written"):
        Spool(tmp_path / "file")


@pytest.mark.parametrize(
    "content", [b"", b"no database at all, but long enough for a page" * 100, b"SQLite format 3\0"]
)
def test_a_file_that_is_no_spool_is_set_aside(tmp_path, content):
    (tmp_path / SPOOL).write_bytes(content)
    spool = Spool(tmp_path)
    spool.put("ours", documents())
    assert len(spool.waiting(BUS)) == 5
    spool.close()
    assert bool(content) == bool(list(tmp_path.glob("*.broken")))


def test_a_locked_file_holds_nothing_up_and_is_written_later(opened, tmp_path):
    alarms = Alarms()
    spool = opened(alarms=alarms)
    holder = sqlite3.connect(tmp_path / SPOOL, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    spool.put("ours", documents(), curve_key="curve 1")
    assert len(spool.waiting(BUS)) == 5
    assert [alarm["key"] for alarm in alarms.active()] == ["spool"]
    holder.execute("ROLLBACK")
    holder.close()
    spool.put("other", documents("other"))
    assert alarms.active() == []
    spool.close()
    again = Spool(tmp_path)
    assert len(again.waiting(BUS)) == 10
    assert again.is_published("curve 1")
    again.close()


# --- the bus ------------------------------------------------------------------------------------------------------


class Bus:
    """A proxy and its subscriber: a document that is sent while the proxy is up is received at the next look."""

    def __init__(self):
        self.is_up = self.passes_on = True
        self.sent = []
        self._new = []
        self._is_new = False

    def start_again(self):
        self.is_up = self._is_new = True

    def settle(self):
        is_new, self._is_new = self._is_new, False
        return is_new

    def __call__(self, name, doc):
        if self.is_up:
            self.sent.append(doc["uid"])
            self._new += [doc["uid"]] if self.passes_on else []

    def heard(self, timeout_ms):
        new, self._new = self._new, []
        return iter(new)

    def close(self):
        pass


class Clock:
    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s


def test_documents_are_sent_at_once_and_counted_when_heard(opened):
    spool, bus = opened(), Bus()
    delivery = BusDelivery(spool, bus, bus.heard, clock=Clock())
    spool.put("ours", documents())
    delivery.push()
    assert bus.sent == ["ours", "ours d", "ours e0", "ours e1", "ours s"]
    assert len(spool.waiting(BUS)) == 5
    delivery.step(0)
    assert spool.waiting(BUS) == []


def test_documents_sent_while_the_proxy_was_down_come_in_order_once_it_is_up(opened):
    spool, bus, clock, alarms = opened(), Bus(), Clock(), Alarms()
    delivery = BusDelivery(spool, bus, bus.heard, alarms, clock)
    bus.is_up = False
    spool.put("ours", documents())
    delivery.push()
    for _ in range(20):
        clock.now_s += RESEND_AFTER_S
        delivery.step(0)
    assert [alarm["key"] for alarm in alarms.active()] == ["bus"]
    spool.put("other", documents("other"))
    delivery.push()
    bus.is_up = True
    for _ in range(60):
        clock.now_s += 1.0
        delivery.step(0)
    assert bus.sent == names_of("ours") + names_of("other")
    assert spool.waiting(BUS) == []
    assert alarms.active() == []


def names_of(run):
    return [doc["uid"] for _, doc in documents(run)]


def delivery_of_one(spool):
    """Return a bus, its clock, and a delivery whose first run has been received."""
    bus, clock = Bus(), Clock()
    delivery = BusDelivery(spool, bus, bus.heard, clock=clock)
    spool.put("one", documents("one"))
    delivery.push()
    delivery.step(0)
    return bus, clock, delivery


@pytest.mark.parametrize("pushes_first", [False, True])
def test_documents_keep_their_order_over_a_quick_restart_of_the_proxy(opened, pushes_first):
    spool = opened()
    bus, _, delivery = delivery_of_one(spool)
    bus.is_up = False
    spool.put("two", documents("two"))
    delivery.push()
    bus.start_again()
    spool.put("three", documents("three"))
    for each in (delivery.push, lambda: delivery.step(0))[:: 1 if pushes_first else -1]:
        each()
    for _ in range(3):
        delivery.step(0)
    assert bus.sent == names_of("one") + names_of("two") + names_of("three")
    assert spool.waiting(BUS) == []


def test_documents_keep_their_order_if_the_proxy_comes_back_between_two_of_them(opened):
    spool, bus = opened(), Bus()
    delivery = BusDelivery(spool, sink := Restarting(bus, at=3), bus.heard, clock=Clock())
    spool.put("one", documents("one"))
    bus.is_up = False
    delivery.push()
    for _ in range(3):
        delivery.step(0)
    assert sink.n_calls > 3
    assert bus.sent == names_of("one")


class Restarting:
    """A sink whose proxy is back before a given document is sent."""

    def __init__(self, bus, at):
        self.n_calls, self._bus, self._at = 0, bus, at

    def settle(self):
        if self.n_calls == self._at and not self._bus.is_up:
            self._bus.start_again()
        return self._bus.settle()

    def __call__(self, name, doc):
        self.n_calls += 1
        self._bus(name, doc)


def test_after_a_restart_a_single_document_is_sent_until_one_is_heard(opened):
    spool = opened()
    bus, clock, delivery = delivery_of_one(spool)
    bus.start_again()
    delivery.step(0)
    bus.passes_on = False  # the subscribers are not back
    spool.put("two", documents("two"))
    delivery.push()
    delivery.step(0)
    assert bus.sent == [*names_of("one"), "two"]
    bus.passes_on = True
    clock.now_s += RESEND_AFTER_S + 0.1
    for _ in range(3):
        delivery.step(0)
    assert bus.sent == [*names_of("one"), "two", *names_of("two")]


def test_after_a_long_time_without_a_proxy_a_document_is_soon_sent_again(opened):
    spool, bus, clock = opened(), Bus(), Clock()
    delivery = BusDelivery(spool, bus, bus.heard, clock=clock)
    bus.is_up = bus.passes_on = False
    spool.put("one", documents("one"))
    delivery.push()
    for _ in range(20):
        clock.now_s += MAX_RESEND_S + 1
        delivery.step(0)
    bus.start_again()
    delivery.step(0)
    assert bus.sent == ["one"]
    bus.passes_on = True
    clock.now_s += RESEND_AFTER_S + 0.1
    for _ in range(3):
        delivery.step(0)
    assert bus.sent == ["one", *names_of("one")]


@pytest.mark.parametrize("is_stopped_in_order", [False, True])
def test_what_was_lost_without_a_proxy_is_sent_by_the_next_service(opened, tmp_path, is_stopped_in_order):
    first = Spool(tmp_path)
    bus, clock, delivery = delivery_of_one(first)
    bus.is_up = False
    first.put("two", documents("two"))
    delivery.push()
    if is_stopped_in_order:
        delivery.run(lambda: True)
    else:
        clock.now_s += RESEND_AFTER_S + 0.1
        delivery.step(0)
    first.close()
    assert names(opened().waiting(BUS)) == names_of("two")


def test_what_was_sent_over_a_bus_that_is_heard_is_not_sent_again_after_a_kill(opened, tmp_path):
    bus = Bus()
    first = Spool(tmp_path)
    delivery = BusDelivery(first, bus, bus.heard, clock=Clock())
    first.put("one", documents("one"))
    delivery.push()
    delivery.step(0)
    first.put("two", documents("two"))
    delivery.push()  # killed before it hears them
    first.close()
    second = Spool(tmp_path)
    assert second.waiting(BUS) == []
    second.close()
    with sqlite3.connect(tmp_path / SPOOL) as db:
        assert db.execute("SELECT COUNT(*) FROM documents").fetchone() == (0,)
    db.close()


def test_what_was_sent_before_anything_was_heard_is_sent_again_after_a_kill(opened, tmp_path):
    bus = Bus()
    first = Spool(tmp_path)
    delivery = BusDelivery(first, bus, bus.heard, clock=Clock())
    first.put("one", documents("one"))
    delivery.push()
    first.close()
    second = Spool(tmp_path)
    assert len(second.waiting(BUS)) == 5
    second.close()


def test_a_sink_that_raises_stops_nothing(opened):
    spool, bus, clock = opened(), Bus(), Clock()
    calls = []

    def breaks_once(name, doc):
        calls.append(name)
        if len(calls) == 1:
            raise RuntimeError
        bus(name, doc)

    breaks_once.close = lambda: None
    delivery = BusDelivery(spool, breaks_once, bus.heard, clock=clock)
    spool.put("ours", documents())
    delivery.push()
    for _ in range(10):
        clock.now_s += RESEND_AFTER_S
        delivery.step(0)
    assert spool.waiting(BUS) == []


# --- archives -----------------------------------------------------------------------------------------------------


class Server:
    """Runs by uid, as a server stores them; `error` is raised while it is set."""

    def __init__(self):
        self.runs = {}
        self.error = None
        self.n_opened = 0

    def open(self):
        if self.error is not None:
            raise self.error
        self.n_opened += 1
        return Connection(self)


class Connection:
    def __init__(self, server):
        self.server = server

    def __call__(self, name, doc):
        if self.server.error is not None:
            raise self.server.error
        run = doc["uid"] if name == "start" else doc.get("run_start") or doc["descriptor"].split()[0]
        self.server.runs.setdefault(run, []).append(doc["uid"])

    def has_run(self, uid):
        if self.server.runs.get(uid, [""])[-1].endswith(" s"):
            return True
        self.server.runs.pop(uid, None)
        return False

    def close(self):
        pass


def run_archive(spool, server, on_sleep=lambda: None):
    """Deliver until no document waits; `on_sleep` is called at each pause."""
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        on_sleep()
        return False

    delivery = ArchiveDelivery("tiled", spool, server.open, sleep=sleep)
    delivery.run(lambda: not spool.waiting("tiled") or len(slept) > 50)
    return slept


@pytest.mark.parametrize(("urgent_checks", "waited_s"), [(0, 0.0), (30, 3.0), (10**9, GIVE_WAY_S)])
def test_an_archive_gives_way_to_urgent_work_for_a_limited_time(opened, urgent_checks, waited_s):
    spool, server, slept_s = opened("tiled"), Server(), []

    def sleep(seconds):
        assert not server.runs, "nothing is written before"
        slept_s.append(seconds)
        return False

    spool.put("one", documents("one"))
    delivery = ArchiveDelivery("tiled", spool, server.open, sleep=sleep)
    delivery.run(lambda: not spool.waiting("tiled"), lambda: len(slept_s) < urgent_checks)
    assert sum(slept_s) == pytest.approx(waited_s, abs=0.15)
    assert server.runs == {"one": names_of("one")}


def test_an_archive_gets_every_run_whole(opened):
    spool, server = opened("tiled"), Server()
    for run in ("one", "two"):
        spool.put(run, documents(run))
    run_archive(spool, server)
    assert server.runs == {run: names_of(run) for run in ("one", "two")}


def test_an_archive_that_is_down_gets_everything_when_it_is_back(opened):
    spool, server = opened("tiled"), Server()
    server.error = ServiceError("down")
    spool.put("one", documents("one"))

    def back():
        server.error = None

    assert run_archive(spool, server, on_sleep=back) == [1.0]
    assert server.runs == {"one": names_of("one")}


def test_an_archive_that_fails_in_mid_run_gets_that_run_from_its_beginning(opened):
    spool, server = opened("tiled"), Server()
    spool.put("one", documents("one", has_stop=False))
    run_archive(spool, server)
    server.error = ServiceError("killed")
    spool.put("one", documents("one")[-1:])

    def back():
        server.error = None

    run_archive(spool, server, on_sleep=back)
    assert server.runs == {"one": names_of("one")}


def test_after_a_restart_a_run_in_mid_way_is_written_from_its_beginning(opened, tmp_path):
    server = Server()
    first = Spool(tmp_path, ("tiled",))
    first.put("one", documents("one", has_stop=False))
    run_archive(first, server)
    first.close()
    second = Spool(tmp_path, ("tiled",))
    second.close_open_runs("killed")
    run_archive(second, server)
    assert server.runs["one"] == [*names_of("one")[:-1], "one-stop"]
    second.close()


def test_a_run_that_is_refused_for_itself_is_left_out_and_the_next_goes_on(opened):
    spool, server = opened("tiled"), Server()
    whole = Connection.__call__

    def refuses(self, name, doc):
        if doc["uid"] == "bad e0":
            raise ValueError("schema")
        whole(self, name, doc)

    Connection.__call__ = refuses
    try:
        spool.put("bad", documents("bad"))
        spool.put("good", documents("good"))
        run_archive(spool, server)
    finally:
        Connection.__call__ = whole
    assert server.runs["good"] == names_of("good")
    assert spool.waiting("tiled") == []


def test_an_archive_that_cannot_be_opened_blames_no_run(opened):
    spool, server = opened("tiled"), Server()
    n_tries = []

    def opens_late():
        n_tries.append(1)
        if len(n_tries) < 12:
            raise RuntimeError("no HTTP at all")
        return Connection(server)

    server.open = opens_late
    spool.put("one", documents("one"))
    run_archive(spool, server)
    assert server.runs == {"one": names_of("one")}


def test_a_spool_that_is_damaged_inside_is_put_aside(tmp_path):
    first = Spool(tmp_path)
    for k in range(200):
        first.put(f"run {k}", documents(f"run {k}", n_events=5, has_stop=False))
    first.close()
    content = bytearray((tmp_path / SPOOL).read_bytes())
    content[8192:49152] = bytes(40960)
    (tmp_path / SPOOL).write_bytes(content)
    second = Spool(tmp_path)
    second.put("ours", documents())
    assert len(second.waiting(BUS)) >= 5
    second.close()
