"""Session: the cookie of a browser whose user has entered the token, and the proof that a write comes from its page.

The server keeps no list.  The cookie holds the end of the session and a code that only the holder of the token can
make, so that a session outlives a restart of the server and ends with the token.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable

COOKIE = "cdi_stream_session"
"""Name of the cookie."""

CSRF_HEADER = "X-CSRF-Token"
"""Header that a page sends with each write; a page of another server cannot know its value."""

SESSION_S = 30 * 24 * 3600
"""Length of a session [s]: a screen in the hutch stays on for a beamtime."""


class Sessions:
    """Sessions of the browsers that know a token.

    Parameters
    ----------
    token
        Secret of this server.
    wall_clock
        Time [s since the epoch].
    """

    def __init__(self, token: str, wall_clock: Callable[[], float] = time.time) -> None:
        self._token = token.encode()
        self._wall_clock = wall_clock

    def is_token(self, text: bytes) -> bool:
        """Whether a text in UTF-8 is the token, compared in constant time."""
        return hmac.compare_digest(text, self._token)

    def new_cookie(self) -> str:
        """Return the cookie of a new session."""
        end_s = str(int(self._wall_clock()) + SESSION_S)
        return f"{end_s}.{self._code('session', end_s)}"

    def is_open(self, cookie: str) -> bool:
        """Whether a cookie is that of a session that has not ended."""
        end_s, _, code = cookie.partition(".")
        is_ours = hmac.compare_digest(code.encode(), self._code("session", end_s).encode())
        return is_ours and self._wall_clock() < int(end_s)

    def csrf(self, cookie: str) -> str:
        """Return the value of `CSRF_HEADER` in the session of a cookie."""
        return self._code("csrf", cookie)

    def is_csrf(self, cookie: str, value: str) -> bool:
        """Whether a value of `CSRF_HEADER` belongs to the session of a cookie."""
        return hmac.compare_digest(value.encode(), self.csrf(cookie).encode())

    def _code(self, purpose: str, text: str) -> str:
        return hmac.new(self._token, f"{purpose} {text}".encode(), hashlib.sha256).hexdigest()
