"""Document proxy of the service's own, where the facility has none."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import zmq
from zmq.auth.thread import ThreadAuthenticator

from cdi_stream.addresses import is_ipv6
from cdi_stream.documents.curve import serve_with
from cdi_stream.errors import EndpointError


@contextlib.contextmanager
def own_proxy(in_address: str, out_address: str, secret: Path | None = None) -> Iterator[None]:
    """Forward documents from ``in_address`` to all listeners at ``out_address``, in a thread.

    Parameters
    ----------
    in_address, out_address
        Addresses to bind, for senders and for listeners.
    secret
        File with the proxy's secret key; then only clients whose public keys lie in the same folder are let in.  None
        lets everybody in.

    Raises
    ------
    EndpointError
        If an address cannot be bound.
    """
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    kinds = ((zmq.XSUB, in_address), (zmq.XPUB, out_address))
    with contextlib.ExitStack() as stack:
        stack.callback(context.term)
        if secret is not None:
            stack.enter_context(authenticator(context, secret.parent))
        with contextlib.ExitStack() as unused:
            ends = [_bound(context, kind, address, unused, secret) for kind, address in kinds]
            unused.pop_all()  # the thread closes the sockets when the context is terminated
        threading.Thread(target=_forward, args=ends, name="document proxy", daemon=True).start()
        yield


def _bound(
    context: zmq.Context[zmq.Socket[bytes]],
    kind: int,
    address: str,
    stack: contextlib.ExitStack,
    secret: Path | None,
) -> zmq.Socket[bytes]:
    socket = context.socket(kind)
    stack.callback(socket.close, 0)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.RCVHWM, 0)
    socket.setsockopt(zmq.SNDHWM, 0)
    socket.setsockopt(zmq.IPV6, is_ipv6(address))
    if secret is not None:
        serve_with(socket, secret)
    try:
        socket.bind(address)
    except zmq.ZMQError as error:
        raise EndpointError(
            f"document proxy {address!r}: {error}; with documents.own_proxy the service opens this address itself"
        ) from error
    return socket


@contextlib.contextmanager
def authenticator(context: zmq.Context[zmq.Socket[bytes]], clients: Path) -> Iterator[None]:
    """Let in the clients whose public keys lie in a folder; once for each context."""
    thread = ThreadAuthenticator(context)
    thread.start()
    try:
        thread.configure_curve(domain="*", location=clients)
        yield
    finally:
        thread.stop()


def _forward(frontend: zmq.Socket[bytes], backend: zmq.Socket[bytes]) -> None:
    """Forward messages until the context is terminated."""
    with contextlib.suppress(zmq.ContextTerminated):
        zmq.proxy(frontend, backend)
    frontend.close(0)
    backend.close(0)
