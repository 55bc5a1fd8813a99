"""Addresses for the sockets of tests."""

from __future__ import annotations

from cdi_stream.documents.tiled_server import free_port


def free_endpoint() -> str:
    """Return an address on loopback that is free, and to which the system connects nobody by itself.

    A socket that connects to a free port of the system's own range may be given this very port, and meets itself.
    """
    return f"tcp://127.0.0.1:{free_port()}"
