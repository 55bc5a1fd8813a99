"""Web server of the operators' page: the page, the feed at ``/ws``, ``/api/v1``, ``/healthz`` and ``/readyz``.

Without a token the server serves only this machine, and changes nothing.  Data that a browser sends into the feed's web
socket are ignored.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import uvicorn
import zmq
from fastapi import FastAPI, WebSocket
from fastapi.responses import JSONResponse, Response
from starlette.requests import Request
from starlette.websockets import WebSocketDisconnect

from cdi_stream.addresses import CurveKeys, is_loopback
from cdi_stream.errors import ConfigError, EndpointError
from cdi_stream.operators.api import router
from cdi_stream.operators.archive import Archive
from cdi_stream.operators.client import Client
from cdi_stream.operators.connection import MAX_HEADER_BYTES, Connection
from cdi_stream.operators.exposition import add_metrics
from cdi_stream.operators.gate import Gate
from cdi_stream.operators.history import Keeper, load_history
from cdi_stream.operators.hub import FeedPlace, Hub, listen, subscribe
from cdi_stream.operators.login import add_login
from cdi_stream.operators.parts import Jobs, Parts, Reconstructor
from cdi_stream.operators.session import Sessions

TRY_AGAIN_LATER = 1013
"""Close code of a web socket whose place another browser has taken (RFC 6455, registry of close codes)."""

_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


@dataclass(frozen=True, slots=True, kw_only=True)
class DashboardSettings:
    """Settings of a dashboard.

    Parameters
    ----------
    feed
        0MQ address of the service's feed.
    token
        Secret that browsers and programs must send; None serves only this machine, and changes nothing.
    history
        File that keeps the last results over a restart; None keeps them in memory.
    keys
        Keys for a feed with CurveZMQ.
    results
        Folder of the results, for past scans; None without.
    jobs, reconstructor
        Refinement queue, and program that reconstructs past scans; None without.
    """

    feed: str
    keys: CurveKeys | None = None
    token: str | None = None
    history: Path | None = None
    results: Path | None = None
    jobs: Jobs | None = None
    reconstructor: Reconstructor | None = None


def run_dashboard(settings: DashboardSettings, host: str, port: int) -> None:
    """Serve the page at an address until the process is stopped.

    Raises
    ------
    ConfigError
        If ``feed`` is no 0MQ address, or if other machines can reach ``host`` and there is no token.
    EndpointError
        If the page cannot be served at ``host`` and ``port``.
    """
    if not settings.token and not is_loopback(host):
        raise ConfigError(
            f"dashboard: expected a loopback host such as 127.0.0.1, got {host!r}; set a token to serve other machines"
        )
    with zmq.Context() as context:
        subscribe(context, settings.feed, settings.keys).close()
    config = server_config(make_app(settings), host, port)
    with open_listening_socket(host, port) as place, contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[place])


def open_listening_socket(host: str, port: int) -> socket.socket:
    """Return a socket that listens at an address; raises `EndpointError` if the address cannot be used."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        raise EndpointError(
            f"dashboard: the page cannot be served at {host}:{port}: {error.strerror or error}; "
            "if another program uses the port, choose another port with --port or dashboard.port"
        ) from error


def server_config(app: FastAPI, host: str, port: int) -> uvicorn.Config:
    """Return the configuration of the server, with limits on headers, requests and silent web sockets.

    The parser h11, unlike httptools, limits the size of the headers.  A web socket that does not answer a ping is
    closed after 3 + 7 s.
    """
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        access_log=False,
        log_config=None,  # its lines go the way of all lines, as text or JSON
        log_level="warning",
        server_header=False,
        http=Connection,
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        ws_max_size=1024,
        ws_ping_interval=3,
        ws_ping_timeout=7,
        timeout_graceful_shutdown=2,
    )


def make_app(settings: DashboardSettings) -> FastAPI:
    """Return the server; while it runs, a hub listens to the feed."""
    keeper = None if settings.history is None else Keeper(settings.history)
    old = None if settings.history is None else load_history(settings.history)
    hub = Hub() if keeper is None else Hub(results=old, on_results=keeper.keep)
    sessions = Sessions(settings.token) if settings.token else None

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        """Run the tasks of the hub while the server runs."""
        app.state.listener = asyncio.create_task(listen(hub, settings.feed, settings.keys))
        tasks = [app.state.listener] if keeper is None else [app.state.listener, asyncio.create_task(keeper.run())]
        yield
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    app = FastAPI(title="cdi-stream dashboard", version="1", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_middleware(Gate, sessions=sessions)
    _add_page(app)
    _add_health(app, hub)
    add_metrics(app, hub)
    _add_feed(app, hub)
    if sessions is not None:
        add_login(app, sessions)
    archive = None if settings.results is None else Archive(settings.results)
    parts = Parts(hub=hub, sessions=sessions, archive=archive, jobs=settings.jobs, reconstructor=settings.reconstructor)
    app.include_router(router(parts))
    return app


def _add_page(app: FastAPI) -> None:
    """Add the files of the page."""
    for file in (files("cdi_stream.operators") / "page").iterdir():
        if file.name != "login.html":
            path = "/" if file.name == "index.html" else f"/{file.name}"
            app.add_route(path, _always(file.read_text(encoding="utf-8"), _TYPES[Path(file.name).suffix]))


def _always(content: str, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    async def answer(_: Request) -> Response:
        """Return the content."""
        return Response(content, media_type=media_type)

    return answer


def _add_health(app: FastAPI, hub: Hub) -> None:
    """Add ``/healthz`` (the server runs) and ``/readyz`` (the server receives the feed)."""
    silent: dict[int | str, dict[str, Any]] = {503: {"description": "The feed of the service is not received."}}

    def answer(trouble: str) -> JSONResponse:
        """Return the state of the feed: status 503 if ``trouble`` is not empty, else 200."""
        facts = {"feed_age_s": hub.feed_age_s(), "clients": hub.n_clients, "malformed": hub.n_malformed}
        return JSONResponse({"status": trouble or "ok", **facts}, 503 if trouble else 200)

    def failure() -> str:
        """Return the reason why the feed is not received any more; empty if it is."""
        return "the task that receives the feed has ended: see the log" if app.state.listener.done() else ""

    @app.get("/healthz", responses=silent)
    async def health() -> JSONResponse:
        """Return whether the server runs."""
        return answer(failure())

    @app.get("/readyz", responses=silent)
    async def ready() -> JSONResponse:
        """Return whether the server receives the feed."""
        return answer(failure() or hub.trouble())


def _add_feed(app: FastAPI, hub: Hub) -> None:
    @app.websocket("/ws")
    async def feed(browser: WebSocket) -> None:
        """Send the feed to one browser."""
        await browser.accept()
        with hub.client(browser.client.host if browser.client else "", _place(browser)) as client:
            await _serve(browser, client)
        if client.has_lost_place.is_set():
            with contextlib.suppress(WebSocketDisconnect):
                await browser.close(TRY_AGAIN_LATER, "too many browsers: another one has taken this place")


def _place(browser: WebSocket) -> FeedPlace | None:
    """Return the place in the feed from which a browser goes on; None if it states none."""
    hub, n = browser.query_params.get("hub", ""), browser.query_params.get("since", "")
    return FeedPlace(hub=hub, n=int(n)) if n.isascii() and n.isdigit() and len(n) < 16 else None


async def _serve(browser: WebSocket, client: Client) -> None:
    """Send the feed until the browser disconnects or loses its place."""
    bodies = (_receive(browser), _send(browser, client), client.has_lost_place.wait())
    tasks = [asyncio.create_task(body) for body in bodies]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _receive(browser: WebSocket) -> None:
    """Ignore all data from the browser, until it disconnects."""
    while (await browser.receive())["type"] != "websocket.disconnect":
        pass


async def _send(browser: WebSocket, client: Client) -> None:
    while True:
        await browser.send_bytes(await client.get())
