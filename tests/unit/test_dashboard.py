from __future__ import annotations

import asyncio
import contextlib
import json
import re
from importlib.resources import files

import httpx
import numpy as np
import pytest
import uvicorn
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from cdi_stream.addresses import is_loopback
from cdi_stream.errors import ConfigError, EndpointError, WireError
from cdi_stream.operators import feed
from cdi_stream.operators.app import DashboardSettings, make_app, open_listening_socket, run_dashboard, server_config
from cdi_stream.operators.binary import from_bytes as read
from cdi_stream.operators.client import QUEUE_LENGTH, Client
from cdi_stream.operators.hub import KEPT_RESULTS, MAX_MESSAGE_BYTES, Hub
from cdi_stream.operators.session import COOKIE, CSRF_HEADER
from tests.system.browser import frame, progress, result, source, state

PAGE = files("cdi_stream.operators") / "page"


def parts(message):
    return feed.pack(*message)


@contextlib.asynccontextmanager
async def served(endpoint, **options):
    config = server_config(make_app(DashboardSettings(feed=endpoint, **options)), "127.0.0.1", 0)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    try:
        async with asyncio.timeout(20):
            while not server.started:
                await asyncio.sleep(0.01)
        yield f"127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


def run(scenario, *arguments, **options):
    """Run a scenario with a feed and a server on real sockets."""

    async def with_server():
        with source() as service:
            async with asyncio.timeout(60), served(service.endpoint, **options) as host:
                await asyncio.to_thread(service.wait_for_listener)
                await scenario(service, host, *arguments)

    asyncio.run(with_server())


async def until(condition):
    while not await condition():
        await asyncio.sleep(0.02)


async def health(host):
    async with httpx.AsyncClient() as client:
        return (await client.get(f"http://{host}/healthz")).json()


# --- hub ---------------------------------------------------------------------------------------------------


def drained(hub):
    with hub.client() as client:
        return [read(data) for _, data in client._queue]


def test_the_snapshot_is_the_newest_of_each_kind_and_stage_with_its_age():
    now = [100.0]
    hub = Hub(lambda: now[0])
    assert [header["kind"] for header, _ in drained(hub)] == ["history"]
    assert hub.feed_age_s() is None
    for message in (progress(3), result("inference"), result("reconstruction", curve=2), frame(1, (30, 150))):
        hub.take(parts(message))
    now[0] = 107.0
    for message in (result("reconstruction", curve=3), frame(2, (31, 150)), progress(9)):
        hub.take(parts(message))
    now[0] = 109.0
    history, *rest = drained(hub)
    assert [r["curve_index"] for r in history[0]["results"]] == [3, 2, 3]
    assert [(h["kind"], h.get("stage"), h["age_s"]) for h, _ in rest] == [
        ("result", "inference", 9.0),
        ("result", "reconstruction", 2.0),
        ("frame", None, 2.0),
        ("progress", None, 2.0),
    ]
    assert rest[2][0]["image_id"] == 2
    np.testing.assert_array_equal(rest[2][1]["frame"], frame(2, (31, 150))[1]["frame"])
    assert hub.feed_age_s() == 2.0
    assert hub.n_clients == 0


def test_a_preview_is_shown_and_is_not_in_the_history():
    hub = Hub()
    for message in (result("reconstruction", curve=2), result("preview", "preliminary")):
        hub.take(parts(message))
    history, *rest = drained(hub)
    assert [r["stage"] for r in history[0]["results"]] == ["reconstruction"]
    assert [header["stage"] for header, _ in rest] == ["reconstruction", "preview"]


def test_the_history_is_bounded():
    hub = Hub()
    for curve in range(KEPT_RESULTS + 7):
        hub.take(parts(result("reconstruction", "failed", curve=curve)))
    results = drained(hub)[0][0]["results"]
    assert [r["curve_index"] for r in results] == list(range(7, KEPT_RESULTS + 7))


def test_a_slow_client_loses_the_oldest_and_results_last():
    async def scenario():
        client = Client()
        client.put("result", b"crystal")
        for n in range(100):
            client.put("frame", b"%d" % n)
        kept = [await client.get() for _ in range(QUEUE_LENGTH)]
        assert kept == [b"crystal", *(b"%d" % n for n in range(100 - QUEUE_LENGTH + 1, 100))]
        assert client.n_dropped == 101 - QUEUE_LENGTH
        for n in range(100):
            client.put("result", b"%d" % n)
        assert await client.get() == b"%d" % (100 - QUEUE_LENGTH)

    asyncio.run(scenario())


def header_with(**fields):
    return [json.dumps({"schema": feed.SCHEMA, "images": [], "kind": "state"} | fields).encode()]


MALFORMED = {
    "nothing": [],
    "no JSON": [b"\xff\x00"],
    "no object": [b"[]"],
    "another schema": [b'{"schema": "cdi_stream feed 99"}'],
    "unknown kind": header_with(kind="command"),
    "kind that is a list": header_with(kind=["state"]),
    "unknown stage": header_with(kind="result", stage="x" * 10_000),
    "too few bytes": [*header_with(images=[{"name": "frame", "shape": [3, 4]}]), b"\x00"],
    "too few parts": header_with(images=[{"name": "frame", "shape": [3, 4]}]),
    "too many parts": [*header_with(), b"\x00"],
    "shape beyond numbers": [*header_with(images=[{"name": "frame", "shape": [10**30]}]), b"\x00"],
    "nested beyond reading": [b"[" * 200_000],
    "infinity": [header_with(lag_s="?")[0].replace(b'"?"', b"1e999")],
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_message_is_counted_and_dropped(name):
    hub = Hub()
    hub.take(MALFORMED[name])
    assert hub.n_malformed == 1
    assert len(drained(hub)) == 1


@pytest.mark.parametrize("name", ["no JSON", "shape beyond numbers", "nested beyond reading"])
def test_the_feed_refuses_what_it_did_not_make(name):
    with pytest.raises(WireError, match="expected a message of the feed"):
        feed.unpack(MALFORMED[name])


def test_frames_after_the_newest_are_awaited_until_the_curve_is_over():
    header, _ = progress(5, (1, 2), expected=8)
    assert header["strip"] == "#xx##..."
    assert [header[name] for name in ("expected", "received", "missing", "awaited")] == [8, 3, 2, 3]
    header, _ = progress(5, (1, 2), expected=8, is_over=True)
    assert header["strip"] == "#xx##xxx"
    assert [header[name] for name in ("received", "missing", "awaited")] == [3, 5, 0]
    assert progress(0, expected=4)[0]["strip"] == "...."


# --- server ------------------------------------------------------------------------------------------------


def test_a_browser_gets_the_snapshot_then_each_message():
    async def scenario(service, host):
        service.send(result("inference", "doubtful", ("a reason",)))
        service.send(state())
        await until(lambda: is_heard(host))
        async with connect(f"ws://{host}/ws") as browser:
            kinds = [read(await browser.recv())[0]["kind"] for _ in range(3)]
            assert kinds == ["history", "result", "state"]
            service.send(frame(5, (30, 150)))
            header, images = read(await browser.recv())
            assert (header["kind"], header["image_id"], header["seq"]) == ("frame", 5, 3)
            assert "age_s" not in header
            assert images["frame"].shape == (120, 200)
            assert np.unravel_index(images["frame"].argmax(), (120, 200)) == (30, 150)
            assert (await health(host))["clients"] == 1
        await until(lambda: is_left(host))

    async def is_heard(host):
        return (await health(host))["feed_age_s"] is not None

    async def is_left(host):
        return (await health(host))["clients"] == 0

    run(scenario)


def test_a_browser_that_does_not_read_holds_nobody_up():
    n = 500
    noise = np.random.default_rng(0).integers(0, 256, (256, 256), dtype=np.uint8)

    async def scenario(service, host):
        async with (
            connect(f"ws://{host}/ws", compression=None) as slow,
            connect(f"ws://{host}/ws", compression=None) as fast,
        ):
            await fast.recv()
            for seq in range(1, n + 1):
                service.send(({"kind": "frame", "image_id": seq}, {"frame": noise}))
                assert read(await fast.recv())[0]["seq"] == seq
            seen = [0]
            await slow.recv()
            while seen[-1] < n:
                seen.append(read(await slow.recv())[0]["seq"])
        assert seen == sorted(set(seen))
        assert len(seen) < n - QUEUE_LENGTH, "it cannot have got everything"
        assert seen[-QUEUE_LENGTH:] == list(range(n - QUEUE_LENGTH + 1, n + 1)), "the newest are kept"

    run(scenario)


def test_the_server_outlives_malformed_and_huge_messages(monkeypatch):
    monkeypatch.setattr("cdi_stream.operators.hub.SILENT_MS", 300)

    async def scenario(service, host):
        async with connect(f"ws://{host}/ws") as browser:
            await browser.recv()
            for malformed in MALFORMED.values():
                if malformed:
                    service.send_raw(malformed)
            service.send(state())
            assert read(await browser.recv())[0]["kind"] == "state"
            assert (await health(host))["malformed"] == len(MALFORMED) - 1
            service.send_raw([bytes(MAX_MESSAGE_BYTES + 1)])
            heard = asyncio.create_task(browser.recv())
            while not heard.done():  # the connection was cut, and a new one is made
                await asyncio.sleep(0.05)
                service.send(state())
            assert read(await heard)[0]["kind"] == "state"
            assert (await health(host))["status"] == "ok"

    run(scenario)


async def status(host, path="/", **headers):
    async with httpx.AsyncClient() as client:
        return (await client.get(f"http://{host}{path}", headers=headers)).status_code


async def is_refused(address, **options):
    try:
        async with connect(address, **options):
            return False
    except InvalidStatus as error:
        return error.response.status_code in (401, 403)


TOKEN = "s3cret/+&é"


@contextlib.asynccontextmanager
async def browser_of(host, **headers):
    """A browser without a session; it follows no redirection."""
    async with httpx.AsyncClient(base_url=f"http://{host}", headers=headers) as client:
        yield client


@pytest.fixture
def quick_answers(monkeypatch):
    monkeypatch.setattr("cdi_stream.operators.login.WRONG_S", 0.05)


def test_a_program_sends_the_token_in_a_header_and_nowhere_else():
    async def scenario(service, host):
        bearer = {"Authorization": b"Bearer " + TOKEN.encode()}
        for path in ("/page.js", "/api/v1/state", "/api/v1/scans", "/openapi.json", "/nothing"):
            for wrong in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic wrong"}, {"Cookie": "a=b"}):
                assert await status(host, path, **wrong) == 401
            assert await status(host, f"{path}?token=s3cret%2F%2B%26%C3%A9") == 401
            assert await status(host, path, **bearer) == (404 if path == "/nothing" else 200)
        assert await is_refused(f"ws://{host}/ws")
        async with connect(f"ws://{host}/ws", additional_headers={"Authorization": "Bearer s3cret/+&Ã©"}) as browser:
            assert read(await browser.recv())[0]["kind"] == "history"
        assert await status(host, "/healthz") == 200, "the facility's monitoring needs no token"

    run(scenario, token=TOKEN)


def test_a_person_enters_the_token_once(quick_answers):
    async def scenario(service, host):
        async with browser_of(host) as client:
            answer = await client.get("/")
            assert (answer.status_code, answer.headers["location"]) == (303, "/login")
            assert "Token of this dashboard" in (await client.get("/login")).text
            answer = await client.post("/login", data={"token": "wrong"})
            assert (answer.status_code, client.cookies) == (401, {})
            assert "This is not the token" in answer.text
            answer = await client.post("/login", data={"token": TOKEN})
            assert (answer.status_code, answer.headers["location"]) == (303, "/")
            cookie = answer.headers["set-cookie"]
            assert "HttpOnly" in cookie
            assert "SameSite=strict" in cookie
            assert TOKEN not in cookie
            assert (await client.get("/")).status_code == 200
            session = f"{COOKIE}={client.cookies[COOKIE]}"
            async with connect(f"ws://{host}/ws", additional_headers={"Cookie": session}) as browser:
                assert read(await browser.recv())[0]["kind"] == "history"
            for forged in (session[:-1], session.replace("=", "=9"), f"{COOKIE}=9999999999.é", f"{COOKIE}=.", COOKIE):
                assert await status(host, "/page.js", Cookie=forged.encode()) == 401
            await client.post("/logout", headers={CSRF_HEADER: (await client.get("/api/v1/session")).json()["csrf"]})
            assert (await client.get("/")).status_code == 303

    run(scenario, token=TOKEN)


def test_a_form_that_is_none_opens_no_session(quick_answers):
    async def scenario(service, host):
        async with browser_of(host) as client:
            for body, expected in (
                (b"x" * 5000, 413),
                (b"&".join([b"a=1"] * 9), 401),
                (b"\xff\xfe=%", 401),
                (b"", 401),
            ):
                assert (await client.post("/login", content=body)).status_code == expected
            tries = [client.post("/login", data={"token": str(k)}) for k in range(20)]
            assert {answer.status_code for answer in await asyncio.gather(*tries)} == {401, 429}

    run(scenario, token=TOKEN)


def test_a_write_needs_the_proof_of_the_page():
    jobs = JobsOfTest()

    async def scenario(service, host):
        bearer = {"Authorization": b"Bearer " + TOKEN.encode()}
        async with browser_of(host) as client:
            await client.post("/login", data={"token": TOKEN})
            csrf = (await client.get("/api/v1/session")).json()["csrf"]
            assert (await client.post("/api/v1/queue/3/cancel")).status_code == 403
            assert (await client.post("/api/v1/queue/3/cancel", headers={CSRF_HEADER: "é".encode()})).status_code == 403
            proof = {CSRF_HEADER: csrf}
            foreign = {"Origin": "http://evil.example"}
            assert (await client.post("/api/v1/queue/3/cancel", headers=proof | foreign)).status_code == 403
            assert jobs.changes == []
            assert (await client.post("/api/v1/queue/3/cancel", headers=proof)).json() == {"is_changed": True}
        async with browser_of(host, **bearer) as program:
            assert (await program.post("/api/v1/queue/4/raise")).json() == {"is_changed": True}
            assert (await program.post("/api/v1/queue/99/raise")).status_code == 404
            assert (await program.post("/api/v1/queue/4/delete")).status_code == 422
        assert jobs.changes == [(3, "cancel"), (4, "raise")]

    run(scenario, token=TOKEN, jobs=jobs)


class JobsOfTest:
    """A queue that notes the changes of its jobs 1 to 9."""

    def __init__(self):
        self.changes = []

    def jobs(self, limit):
        return []

    def change(self, job_id, action):
        if job_id > 9:
            return None
        self.changes.append((job_id, action))
        return True


def test_without_a_token_nothing_is_changed():
    jobs = JobsOfTest()

    async def scenario(service, host):
        async with browser_of(host) as client:
            answer = await client.post("/api/v1/queue/3/cancel")
            assert answer.status_code == 403
            assert "set dashboard.token" in answer.json()["detail"]
            assert (await client.get("/api/v1/queue")).json() == {"jobs": []}
        assert jobs.changes == []

    run(scenario, jobs=jobs)


def test_the_page_names_its_own_files_only():
    links = re.findall(r'(?:href|src)="(.*?)"', (PAGE / "index.html").read_text())
    scripts = [file for file in PAGE.glob("*.js") if file.name != "three.js"]
    links += [link for file in scripts for link in re.findall(r'from "\./(.*?)"', file.read_text())]
    assert set(links) == {file.name for file in PAGE.iterdir()} - {"index.html", "login.html"}


def test_a_browser_that_connects_again_gets_what_it_missed():
    async def scenario(service, host):
        async with connect(f"ws://{host}/ws") as browser:
            await browser.recv()
            service.send(frame(1, (30, 150)))
            first, _ = read(await browser.recv())
        for image_id in (2, 3):
            service.send(frame(image_id, (30, 150)))

        async def has_both():
            async with httpx.AsyncClient() as client:
                return (await client.get(f"http://{host}/api/v1/state")).json()["seq"] == first["n"] + 2

        await until(has_both)
        async with connect(f"ws://{host}/ws?hub={first['hub']}&since={first['n']}") as browser:
            missed = [read(await browser.recv())[0] for _ in range(2)]
        assert [header["image_id"] for header in missed] == [2, 3]
        for elsewhere in (
            "hub=other&since=1",
            f"hub={first['hub']}&since=99",
            f"hub={first['hub']}&since=-1",
            "since=x",
        ):
            async with connect(f"ws://{host}/ws?{elsewhere}") as browser:
                assert read(await browser.recv())[0]["kind"] == "history"

    run(scenario)


def test_foreign_pages_are_refused():
    async def scenario(service, host):
        port = host.split(":")[1]
        for origin in ("http://evil.example", "http://127.0.0.1:1", "null", "http://[", f"http://localhost:{port}"):
            assert await is_refused(f"ws://{host}/ws", origin=origin)
        assert not await is_refused(f"ws://{host}/ws", origin=f"http://{host}")
        assert await status(host) == await status(host, Host=f"localhost:{port}") == 200
        assert await status(host, Host="[::1]:80") == 200
        for foreign in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "["):
            assert await status(host, Host=foreign) == 403

    run(scenario)


def test_the_page_is_read_only_and_loads_nothing_from_elsewhere():
    async def scenario(service, host):
        async with httpx.AsyncClient() as client:
            for path in ("/", "/page.js", "/healthz", "/nothing"):
                answer = await client.get(f"http://{host}{path}")
                assert answer.headers["content-security-policy"].startswith("default-src 'self';")
                assert answer.headers.get_list("x-content-type-options") == ["nosniff"]
            assert (await client.post(f"http://{host}/")).status_code == 403
            assert (await client.get(f"http://{host}/docs")).status_code == 404
        async with connect(f"ws://{host}/ws") as browser:
            await browser.recv()
            await browser.send("anything")
            await browser.send(b"anything")
            service.send(state())
            assert read(await browser.recv())[0]["kind"] == "state"

    run(scenario)
    for file in set(PAGE.iterdir()) - {PAGE / "three.js"}:
        text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|innerHTML|outerHTML|insertAdjacentHTML|eval\(|style=", text), file.name


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "beamline.example", ""])
def test_other_machines_are_served_with_a_token_only(host):
    with pytest.raises(ConfigError, match=r"expected a loopback host .* set a token"):
        run_dashboard(DashboardSettings(feed="tcp://127.0.0.1:5570"), host, 0)
    assert not is_loopback(host)


def test_a_feed_that_is_no_address_is_refused_before_anything_is_served():
    with pytest.raises(ConfigError, match="expected an address such as tcp://"):
        run_dashboard(DashboardSettings(feed="beamline"), "127.0.0.1", 0)


def test_a_port_that_is_taken_is_an_error_with_the_remedy():
    with open_listening_socket("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(EndpointError, match=rf"cannot be served at 127\.0\.0\.1:{port}: .* choose another port"):
            run_dashboard(DashboardSettings(feed="tcp://127.0.0.1:5570"), "127.0.0.1", port)
    with pytest.raises(EndpointError, match=r"cannot be served at nowhere\.invalid:80"):
        open_listening_socket("nowhere.invalid", 80)
