"""Addresses of 0MQ sockets: read once, in one way, for the configuration, the checks and the sockets."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

MAX_PORT = 65535
_TCP = re.compile(
    r"tcp://(?:[^;/\s]+;)?(?:\[(?P<ipv6>[0-9a-fA-F:.]+(?:%\w+)?)\]|(?P<host>[^\[\]:/\s;]+)):(?P<port>\d+|\*)"
)
_ANYWHERE = ("*", "0.0.0.0", "::")  # noqa: S104 - to recognise it


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
        """Whether it is a TCP address, as against a socket in the file system."""
        return self.text.startswith("tcp://")

    @property
    def is_ipv6(self) -> bool:
        """Whether the host is written as an IPv6 address: 0MQ's sockets take those only with an option."""
        return ":" in self.host

    @property
    def is_anywhere(self) -> bool:
        """Whether it stands for every network card of this machine: an address to bind, not to connect to."""
        return self.host in _ANYWHERE

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return not self.is_tcp or is_loopback(self.host)

    @property
    def place(self) -> tuple[str, int | None]:
        """Host and port with all spellings of this machine made one, to compare addresses."""
        return ("localhost" if self.is_tcp and (self.is_loopback or self.is_anywhere) else self.host), self.port


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host, by its name or its number."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def parse(text: str) -> Address:
    """Read a 0MQ address.

    Raises
    ------
    ValueError
        If it is neither ``tcp://host:port`` nor ``ipc:///path``; it says which forms are taken.
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
    """Whether an address needs 0MQ's option for IPv6; false for what is no address."""
    try:
        return parse(text).is_ipv6
    except ValueError:
        return False
