"""Gate: refuses requests that may not pass, and adds the security headers to every answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit

from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from cdi_stream.addresses import is_loopback
from cdi_stream.operators.session import COOKIE, CSRF_HEADER, Sessions

HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
"""Headers of every answer: the page loads only its own files, and is neither framed nor stored.

With the policy ``no-referrer`` browsers would send the Origin ``null`` with the form of the login."""

OPEN_PATHS = frozenset({"/login", "/page.css", "/icon.svg", "/healthz", "/readyz"})
"""Paths that need no token: to enter the token, and for the facility's monitoring."""

_READS = ("GET", "HEAD", "OPTIONS")


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Status and reason of a refused request."""

    status: int
    reason: str


class Gate:
    """Middleware that refuses requests without the token, and adds `HEADERS` to all answers.

    A program sends the token as ``Authorization: Bearer``, a browser the cookie of `Sessions`.  A write with the cookie
    also needs `CSRF_HEADER`.  Without a token the server only reads, and the ``Host`` of a request must be this
    machine; this stops a foreign page whose host name was made to point to 127.0.0.1 (DNS rebinding).  The ``Origin``
    of a web socket and of a write must be this server.
    """

    def __init__(self, app: ASGIApp, sessions: Sessions | None) -> None:
        self._app = app
        self._sessions = sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with the refusal, or pass the request on."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        request = HTTPConnection(scope)
        refusal = self._refusal(request)
        if refusal is None:
            await self._app(scope, receive, _with_headers(send))
        else:
            await _answer(request, refusal)(scope, receive, send)

    def _refusal(self, request: HTTPConnection) -> Refusal | None:
        """Return why a request is refused; None if it may pass."""
        host, origin = request.headers.get("host", ""), request.headers.get("origin")
        is_write = request.scope["type"] == "http" and request.scope["method"] not in _READS
        is_guarded = is_write or request.scope["type"] == "websocket"
        if is_guarded and origin is not None and _split(origin).netloc.lower() != host.lower():
            return Refusal(status=403, reason="expected an Origin equal to the Host")
        if self._sessions is None:
            return _without_token(host, is_write=is_write)
        if request.url.path in OPEN_PATHS:
            return None
        return self._without_session(request, self._sessions, is_write=is_write)

    def _without_session(self, request: HTTPConnection, sessions: Sessions, *, is_write: bool) -> Refusal | None:
        """Return why a request is refused by a server with a token."""
        scheme, _, text = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and sessions.is_token(text.strip().encode("latin-1")):
            return None
        cookie = request.cookies.get(COOKIE, "")
        if not sessions.is_open(cookie):
            return Refusal(status=401, reason="expected the token: log in, or send 'Authorization: Bearer TOKEN'")
        if is_write and not sessions.is_csrf(cookie, request.headers.get(CSRF_HEADER, "")):
            return Refusal(status=403, reason=f"expected the header {CSRF_HEADER} with the value of /api/v1/session")
        return None


def _without_token(host: str, *, is_write: bool) -> Refusal | None:
    """Return why a server without a token refuses a request."""
    if not is_loopback(_split(f"//{host}").hostname or ""):
        reason = "expected a loopback Host; start the dashboard with a token to serve it elsewhere"
        return Refusal(status=403, reason=reason)
    if is_write:
        return Refusal(status=403, reason="this dashboard only shows: set dashboard.token to change anything with it")
    return None


def _answer(request: HTTPConnection, refusal: Refusal) -> Response:
    """Return the answer to a refused request: a browser that opens the page is sent to the login."""
    if refusal.status == 401 and request.scope["type"] == "http" and request.url.path == "/":
        return RedirectResponse("/login", 303, HEADERS)
    more = {"WWW-Authenticate": "Bearer"} if refusal.status == 401 else {}
    return JSONResponse({"detail": refusal.reason}, refusal.status, HEADERS | more)


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
