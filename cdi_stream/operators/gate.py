"""Gate: refuses browsers that may not read the page, and adds the security headers to every answer."""

from __future__ import annotations

import hmac
from typing import Any
from urllib.parse import SplitResult, urlsplit

from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from cdi_stream.addresses import is_loopback

HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
"""Headers of every answer: the page loads only its own files, and is neither framed nor stored."""


class Gate:
    """Middleware that answers 403 to requests without the token, and adds `HEADERS` to all other answers.

    Without a token the ``Host`` of a request must be this machine; this stops a foreign page whose host name was made
    to point to 127.0.0.1 (DNS rebinding).  The ``Origin`` of a web socket must be this server.
    """

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self._app = app
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 403, or pass the request on."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
        elif reason := self._refusal(HTTPConnection(scope)):
            await PlainTextResponse(f"{reason}\n", 403, HEADERS)(scope, receive, send)
        else:
            await self._app(scope, receive, _with_headers(send))

    def _refusal(self, request: HTTPConnection) -> str:
        """Return the reason to refuse a request; empty if it is allowed."""
        host, origin = request.headers.get("host", ""), request.headers.get("origin")
        if (
            request.scope["type"] == "websocket"
            and origin is not None
            and _split(origin).netloc.lower() != host.lower()
        ):
            return "expected an Origin equal to the Host"
        if self._token:
            token = request.query_params.get("token", "")
            is_right = hmac.compare_digest(token.encode(), self._token.encode())
            return "" if is_right else "expected ?token=... with the token of this dashboard"
        return (
            ""
            if is_loopback(_split(f"//{host}").hostname or "")
            else "expected a loopback Host; start the dashboard with a token to serve it elsewhere"
        )


def _split(url: str) -> SplitResult:
    """Return the parts of a URL; all are empty if the text is no URL."""
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")


def _with_headers(send: Send) -> Send:
    async def send_with_headers(message: Any) -> None:
        """Send a message, with the headers of this server if it begins a response."""
        if message["type"] == "http.response.start":
            headers = [(key.lower().encode(), value.encode()) for key, value in HEADERS.items()]
            message = {**message, "headers": [*message["headers"], *headers]}
        await send(message)

    return send_with_headers
