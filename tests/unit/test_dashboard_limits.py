"""Limits of the dashboard against unknown programs and silent browsers, on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from cdi_stream.operators import connection
from cdi_stream.operators.client import Client, client_to_displace
from cdi_stream.operators.hub import MAX_CLIENTS, READY_S, Hub
from tests.system.browser import (
    DASHBOARD,
    feed_request,
    free_port,
    is_up,
    memory_mib,
    progress,
    result,
    source,
    state,
    wait_until,
)
from tests.unit.test_dashboard import drained, health, parts, read, run, until

MIB = 1 << 20


async def opened(host):
    name, port = host.split(":")
    return await asyncio.open_connection(name, int(port))


async def silent_web_socket(host, query=""):
    """Return a web socket that is open and then neither reads nor answers."""
    reader, writer = await opened(host)
    writer.write(feed_request(host, query))
    assert (await reader.readline()).startswith(b"HTTP/1.1 101 ")
    return reader, writer


async def is_cut(reader):
    """Wait until the server has closed the connection."""
    with contextlib.suppress(ConnectionError):
        while await reader.read(1 << 16):
            pass
    return True


def test_silent_browsers_do_not_keep_an_operator_out():
    async def scenario(service, host):
        silent = [await silent_web_socket(host) for _ in range(MAX_CLIENTS + 5)]
        async with connect(f"ws://{host}/ws") as operator:
            assert read(await operator.recv())[0]["kind"] == "history"
            assert (await health(host))["clients"] == MAX_CLIENTS
            begin_s = time.monotonic()
            await asyncio.gather(*(is_cut(reader) for reader, _ in silent))
            assert time.monotonic() - begin_s < 15
            await until(lambda: is_alone(host))
            service.send(state())
            assert read(await operator.recv())[0]["kind"] == "state", "who answers is kept"
        for _, writer in silent:
            writer.close()

    async def is_alone(host):
        return (await health(host))["clients"] == 1

    run(scenario)


async def endless(browser):
    while True:
        yield await browser.recv()


def test_a_browser_that_loses_its_place_is_told_so():
    async def scenario(service, host):
        async with contextlib.AsyncExitStack() as stack:
            first, *_ = [await stack.enter_async_context(connect(f"ws://{host}/ws")) for _ in range(MAX_CLIENTS + 1)]
            with pytest.raises(ConnectionClosed, match=r"1013.*another one has taken this place"):
                _ = [data async for data in endless(first)]

    run(scenario)


def test_the_address_with_most_browsers_gives_a_place_up_first():
    crowd, one, another = ([Client(address) for _ in range(n)] for address, n in (("a", 3), ("b", 1), ("c", 2)))
    assert client_to_displace([*one, *another, *crowd]) is crowd[0]
    assert client_to_displace([*one, *another]) is another[0]
    hub = Hub()
    with contextlib.ExitStack() as stack:
        operator = stack.enter_context(hub.client("10.0.0.1"))
        others = [stack.enter_context(hub.client("10.0.0.2")) for _ in range(MAX_CLIENTS + 10)]
        assert hub.n_clients == MAX_CLIENTS
        assert not operator.has_lost_place.is_set()
        assert [client.has_lost_place.is_set() for client in others] == [True] * 11 + [False] * (MAX_CLIENTS - 1)
    assert hub.n_clients == 0


@pytest.mark.parametrize("begin", [b"", b"GET / HTTP/1.1\r\nHo", b"POST / HTTP/1.1\r\nContent-Length: 99999\r\n\r\nx"])
def test_a_connection_without_a_whole_request_is_cut(begin, monkeypatch):
    monkeypatch.setattr(connection, "REQUEST_S", 0.3)

    async def scenario(service, host):
        reader, writer = await opened(host)
        writer.write(begin.replace(b"1.1\r\nC", f"1.1\r\nHost: {host}\r\nC".encode()))
        begin_s = time.monotonic()
        assert await is_cut(reader)
        assert time.monotonic() - begin_s < 4
        writer.close()

    run(scenario)


def test_a_request_that_trickles_in_is_cut_in_spite_of_its_bytes(monkeypatch):
    monkeypatch.setattr(connection, "REQUEST_S", 0.5)

    async def scenario(service, host):
        reader, writer = await opened(host)
        writer.write(f"GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        assert (await reader.readline()) == b"HTTP/1.1 200 OK\r\n"
        begin_s = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while time.monotonic() - begin_s < 20:
                writer.write(b"G")
                await writer.drain()
                await asyncio.sleep(0.05)
        assert time.monotonic() - begin_s < 5
        writer.close()

    run(scenario)


def test_browsers_that_send_a_flood_or_a_bomb_hold_nobody_up():
    async def scenario(service, host):
        async with connect(f"ws://{host}/ws") as operator, connect(f"ws://{host}/ws") as bomb:
            await operator.recv()
            await bomb.send(b"\0" * (64 * MIB))  # 64 KiB when compressed
            with pytest.raises(ConnectionClosed, match="1009"):
                await endless_read(bomb)
            async with connect(f"ws://{host}/ws", close_timeout=0.1) as flood:
                task = asyncio.create_task(endless_write(flood))
                for n in range(20):
                    service.send(state(n))
                    header, _ = read(await asyncio.wait_for(operator.recv(), 5))
                    assert header["counters"]["malformed"] == n
                assert not task.done()
                task.cancel()
                await asyncio.wait([task])

    async def endless_read(browser):
        while True:
            await browser.recv()

    async def endless_write(browser):
        while True:
            await browser.send(b"a" * 1000)
            await asyncio.sleep(0)  # server and browsers share this loop

    run(scenario)


def test_of_too_many_waiting_connections_the_oldest_goes(monkeypatch):
    monkeypatch.setattr(connection, "MAX_CONNECTIONS", 8)

    async def scenario(service, host):
        async with connect(f"ws://{host}/ws") as operator:
            waiting = [await opened(host) for _ in range(12)]
            await asyncio.gather(*(is_cut(reader) for reader, _ in waiting[:4]))
            _, writer = waiting[-1]
            writer.write(f"GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            assert (await waiting[-1][0].readline()) == b"HTTP/1.1 200 OK\r\n"
            service.send(state())
            assert {read(await operator.recv())[0]["kind"] for _ in range(2)} == {"history", "state"}
            for _, writer in waiting:
                writer.close()

    run(scenario)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory from /proc")
@pytest.mark.parametrize("begin", [b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: ", b"GET /", b""])
def test_an_endless_header_costs_no_memory_and_needs_no_token_to_be_refused(tmp_path, begin):
    port = free_port()
    with source() as service, (tmp_path / "log").open("wb") as log:
        command = [
            sys.executable,
            "-c",
            DASHBOARD,
            service.endpoint,
            str(port),
            "s3cret",
            str(tmp_path / "history.json"),
            "",
        ]
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            wait_until(lambda: process.poll() is not None or is_up(f"http://127.0.0.1:{port}"), 300)
            before = memory_mib(process.pid)
            n_sent = asyncio.run(sent_until_cut(f"127.0.0.1:{port}", begin, 100 * MIB))
            assert n_sent < 20 * MIB, "what the system's buffers hold, and no more"
            assert memory_mib(process.pid) - before < 8
            assert is_up(f"http://127.0.0.1:{port}")
        finally:
            process.terminate()
            process.wait(10)


async def sent_until_cut(host, begin, at_most):
    _, writer = await opened(host)
    writer.write(begin)
    n_sent = 0
    with contextlib.suppress(ConnectionError):
        while n_sent < at_most:
            writer.write(b"a" * MIB)
            await writer.drain()
            n_sent += MIB
    writer.transport.abort()
    return n_sent


# --- is the service heard? ---------------------------------------------------------------------------------


def test_the_dashboard_is_ready_only_while_the_service_is_heard():
    now = [100.0]
    hub = Hub(lambda: now[0])
    assert hub.trouble() == "no message from the service yet"
    hub.take(parts(state()))
    now[0] += READY_S
    assert hub.trouble() == ""
    now[0] += 7.0
    assert hub.trouble() == "no message from the service for 12 s"
    hub.take([b"malformed"])
    assert hub.trouble() != ""


def test_healthz_says_that_the_process_lives_and_readyz_that_the_feed_does(monkeypatch):
    monkeypatch.setattr("cdi_stream.operators.hub.READY_S", 0.5)

    async def scenario(service, host):
        async with httpx.AsyncClient(base_url=f"http://{host}") as client:
            answer = await client.get("/readyz")
            assert (answer.status_code, answer.json()["status"]) == (503, "no message from the service yet")
            service.send(state())
            await until(lambda: is_status(client, 200))
            assert (await client.get("/readyz")).json()["status"] == "ok"
            await until(lambda: is_status(client, 503))
            assert "no message from the service for" in (await client.get("/readyz")).json()["status"]
            answer = await client.get("/healthz")
            assert (answer.status_code, answer.json()["status"]) == (200, "ok")

    async def is_status(client, code):
        return (await client.get("/readyz")).status_code == code

    run(scenario)


def test_what_an_earlier_start_of_the_service_measured_is_not_shown_as_of_now():
    hub = Hub()
    for number, message in enumerate((progress(20), state(), result("reconstruction"))):
        hub.take(parts((message[0] | {"service": "first", "seq": number}, message[1])))
    hub.take(parts((state()[0] | {"service": "second", "seq": 0}, {})))
    kinds = [(header["kind"], header.get("service")) for header, _ in drained(hub)]
    assert kinds == [("history", None), ("result", "first"), ("state", "second")]
