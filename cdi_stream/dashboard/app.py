"""The server of the operators' page: the page itself, a web socket that carries the feed, ``/healthz``.

Read-only: nothing that a browser sends is looked at.  Without a token only this machine is served.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ipaddress
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, quote, urlsplit

import uvicorn
import zmq
from fastapi import FastAPI, WebSocket
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.requests import HTTPConnection, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from cdi_stream.dashboard.hub import Client, Hub, listen, subscribe
from cdi_stream.errors import ConfigError

HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
MAX_CLIENTS = 64
_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


def run_dashboard(feed: str, host: str, port: int, token: str | None) -> None:
    """Serve the page until the process is told to stop.

    Raises
    ------
    ConfigError
        If ``feed`` is no 0MQ address, or ``host`` can be reached from elsewhere and there is no token.
    """
    if not token and not is_loopback(host):
        raise ConfigError(
            f"dashboard: expected a loopback host such as 127.0.0.1, got {host!r}; set a token to serve other machines"
        )
    with zmq.Context() as context:
        subscribe(context, feed).close()
    uvicorn.run(
        make_app(feed, token),
        host=host,
        port=port,
        access_log=False,  # it would write the token
        log_level="warning",
        server_header=False,
        ws_max_size=1024,
        timeout_graceful_shutdown=2,
    )


def make_app(feed: str, token: str | None = None) -> FastAPI:
    """The server, with a hub that listens to ``feed`` while it runs."""
    hub = Hub()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.listener = asyncio.create_task(listen(hub, feed))
        yield
        app.state.listener.cancel()
        await asyncio.wait([app.state.listener])

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Gate, token=token)
    _add_page(app, f"?token={quote(token, safe='')}" if token else "")
    _add_feed(app, hub)
    return app


def _add_page(app: FastAPI, query: str) -> None:
    """The page's files; their links to one another carry the token on."""
    for file in (files("cdi_stream.dashboard") / "page").iterdir():
        content = file.read_text(encoding="utf-8").replace("?QUERY", query)
        path = "/" if file.name == "index.html" else f"/{file.name}"
        app.add_route(path, _always(content, _TYPES[Path(file.name).suffix]))


def _always(content: str, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    async def answer(_: Request) -> Response:
        return Response(content, media_type=media_type)

    return answer


def _add_feed(app: FastAPI, hub: Hub) -> None:
    @app.get("/healthz")
    async def health() -> JSONResponse:
        is_well = not app.state.listener.done()
        facts = {"feed_age_s": hub.feed_age_s(), "clients": hub.n_clients, "malformed": hub.n_malformed}
        return JSONResponse({"status": "ok" if is_well else "failed", **facts}, 200 if is_well else 503)

    @app.websocket("/feed")
    async def feed(socket: WebSocket) -> None:
        if hub.n_clients >= MAX_CLIENTS:
            await socket.close(1013, "too many browsers")
            return
        await socket.accept()
        with hub.client() as client:
            await _serve(socket, client)


async def _serve(socket: WebSocket, client: Client) -> None:
    """Send until the browser has gone."""
    sender = asyncio.create_task(_send(socket, client))
    try:
        while (await socket.receive())["type"] != "websocket.disconnect":
            pass
    finally:
        sender.cancel()
        await asyncio.gather(sender, return_exceptions=True)


async def _send(socket: WebSocket, client: Client) -> None:
    while True:
        await socket.send_bytes(await client.get())


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine and can be reached from no other."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Gate:
    """Refuses requests that come from elsewhere or without the token, and adds the headers to what it lets through.

    Without a token the host that the browser asked for must be this machine, lest a foreign page whose name was
    made to mean 127.0.0.1 reads the feed.  A web socket must be opened by a page of ours.
    """

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self._app = app
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 403 or pass the request on."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
        elif reason := self._refusal(HTTPConnection(scope)):
            await PlainTextResponse(f"{reason}\n", 403, HEADERS)(scope, receive, send)
        else:
            await self._app(scope, receive, _with_headers(send))

    def _refusal(self, request: HTTPConnection) -> str:
        host, origin = request.headers.get("host", ""), request.headers.get("origin")
        if (
            request.scope["type"] == "websocket"
            and origin is not None
            and _split(origin).netloc.lower() != host.lower()
        ):
            return "expected an Origin equal to the Host"
        if self._token:
            given = request.query_params.get("token", "")
            is_right = hmac.compare_digest(given.encode(), self._token.encode())
            return "" if is_right else "expected ?token=... with the token of this dashboard"
        return (
            ""
            if is_loopback(_split(f"//{host}").hostname or "")
            else "expected a loopback Host; start the dashboard with a token to serve it elsewhere"
        )


def _split(url: str) -> SplitResult:
    """Parts of an address that a browser sent; all empty if it is none."""
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")


def _with_headers(send: Send) -> Send:
    async def sending(message: Any) -> None:
        if message["type"] == "http.response.start":
            added = [(key.lower().encode(), value.encode()) for key, value in HEADERS.items()]
            message = {**message, "headers": [*message["headers"], *added]}
        await send(message)

    return sending
