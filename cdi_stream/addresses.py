"""Addresses of 0MQ sockets, read in the same way by the configuration, the checks and the sockets."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path

MAX_PORT = 65535
"""Largest TCP port number."""

_TCP = re.compile(
    r"tcp://(?:[^;/\s]+;)?(?:\[(?P<ipv6>[0-9a-fA-F:.]+(?:%\w+)?)\]|(?P<host>[^\[\]:/\s;]+)):(?P<port>\d+|\*)"
)
_WILDCARDS = ("*", "0.0.0.0", "::")  # noqa: S104 - to recognise it


@dataclass(frozen=True, slots=True)
class Address:
    """A 0MQ address: host and port of ``tcp://``, or the path of ``ipc://``.

    ``port`` is None for ``*``, a free port to be chosen when the socket is bound.
    """

    text: str
    host: str
    port: int | None

    @property
    def is_tcp(self) -> bool:
        """Whether this is a TCP address; otherwise it is a socket in the file system."""
        return self.text.startswith("tcp://")

    @property
    def is_ipv6(self) -> bool:
        """Whether the host is an IPv6 address, which a 0MQ socket accepts only with the option ``IPV6``."""
        return ":" in self.host

    @property
    def is_wildcard(self) -> bool:
        """Whether this is a wildcard: every network card of this machine, to bind and not to connect to."""
        return self.host in _WILDCARDS

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the address."""
        return not self.is_tcp or is_loopback(self.host)

    @property
    def place(self) -> tuple[str, int | None]:
        """Host and port for comparisons: all names of this machine become ``localhost``."""
        return ("localhost" if self.is_tcp and (self.is_loopback or self.is_wildcard) else self.host), self.port


def is_loopback(host: str) -> bool:
    """Return whether a host name or IP address means this machine and can be reached from no other machine.

    A zone (``%lo``) is accepted behind an IPv6 address only: behind an IPv4 address it is no valid spelling.
    """
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def parse(text: str) -> Address:
    """Read a 0MQ address.

    Raises
    ------
    ValueError
        If the text is neither ``tcp://host:port`` nor ``ipc:///path``; the message names the valid forms.
    """
    if text.startswith("ipc://") and len(text) > len("ipc://"):
        return Address(text, text.removeprefix("ipc://"), None)
    match = _TCP.fullmatch(text)
    if match is None:
        raise ValueError("expected tcp://host:port, with an IPv6 host in brackets as in tcp://[::1]:5555")
    port = None if match["port"] == "*" else int(match["port"])
    if port is not None and not 0 < port <= MAX_PORT:
        raise ValueError(f"expected a port from 1 to {MAX_PORT}")
    host = match["ipv6"] or match["host"]
    if match["ipv6"] is not None:
        try:
            ipaddress.IPv6Address(match["ipv6"])
        except ValueError as error:
            raise ValueError(f"expected an IPv6 address in the brackets ({error})") from error
    return Address(text, host, port)


def is_ipv6(text: str) -> bool:
    """Return whether an address needs 0MQ's option ``IPV6``; false for a text that is no address."""
    try:
        return parse(text).is_ipv6
    except ValueError:
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveKeys:
    """Key files of a client of a document proxy with CurveZMQ.

    Parameters
    ----------
    secret
        File with the secret key of the client (``client.key_secret``).
    server
        File with the public key of the proxy (``proxy.key``).
    """

    secret: Path
    server: Path

    @classmethod
    def of(cls, secret: str | Path | None, server: str | Path | None) -> CurveKeys | None:
        """Return the keys of two files; None if one is not named."""
        return None if secret is None or server is None else cls(secret=Path(secret), server=Path(server))
