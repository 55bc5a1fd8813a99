"""Login: a browser enters the token once, and gets the cookie of a session."""

from __future__ import annotations

import asyncio
from importlib.resources import files
from urllib.parse import parse_qs

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from cdi_stream.operators.session import COOKIE, SESSION_S, Sessions

MAX_FORM_BYTES = 4096
"""Largest size of the form [bytes]."""

WRONG_S = 1.0
"""Time [s] before a wrong token is answered; only one is answered at a time, so that nobody can try many."""


def add_login(app: FastAPI, sessions: Sessions) -> None:
    """Add the form at ``/login``, and ``/logout``."""
    page = (files("cdi_stream.operators") / "page" / "login.html").read_text(encoding="utf-8")
    one_at_a_time = asyncio.Lock()

    def form(status: int = 200, text: str = "") -> HTMLResponse:
        """Return the form with a text."""
        return HTMLResponse(page.replace("REASON", text), status)

    @app.get("/login", include_in_schema=False)
    async def show_login() -> HTMLResponse:
        """Return the form."""
        return form()

    @app.post("/login", include_in_schema=False)
    async def login(request: Request) -> Response:
        """Open a session if the token is right."""
        token = await _token_in(request)
        if token is None:
            return form(413, "The form is too large.")
        if not sessions.is_token(token.encode()):
            if one_at_a_time.locked():
                return form(429, "Another wrong token is being answered: try again in a second.")
            async with one_at_a_time:
                await asyncio.sleep(WRONG_S)
            return form(401, "This is not the token of this dashboard: see dashboard.token in its configuration.")
        answer = RedirectResponse("/", 303)
        is_https = request.url.scheme == "https"
        answer.set_cookie(COOKIE, sessions.new_cookie(), SESSION_S, httponly=True, samesite="strict", secure=is_https)
        return answer

    @app.post("/logout", include_in_schema=False)
    async def logout() -> Response:
        """End the session of this browser."""
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return answer


async def _token_in(request: Request) -> str | None:
    """Return the token in the form; None if the form is too large."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM_BYTES:
            return None
    try:
        fields = parse_qs(body.decode(errors="replace"), max_num_fields=4)
    except ValueError:  # more fields than the form has
        return ""
    return fields.get("token", [""])[0]
