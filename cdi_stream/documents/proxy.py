"""Document proxy of the service's own, where the facility has none."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import zmq

from cdi_stream.addresses import is_ipv6
from cdi_stream.errors import EndpointError


@contextlib.contextmanager
def own_proxy(in_address: str, out_address: str) -> Iterator[None]:
    """Forward documents from ``in_address`` to all listeners at ``out_address``, in a thread.

    Raises
    ------
    EndpointError
        If an address cannot be bound.
    """
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with contextlib.ExitStack() as stack:
        stack.callback(context.term)
        with contextlib.ExitStack() as unused:
            ends = [_bound(context, zmq.XSUB, in_address, unused), _bound(context, zmq.XPUB, out_address, unused)]
            unused.pop_all()  # the thread closes the sockets when the context is terminated
        threading.Thread(target=_forward, args=ends, name="document proxy", daemon=True).start()
        yield


def _bound(
    context: zmq.Context[zmq.Socket[bytes]], kind: int, address: str, stack: contextlib.ExitStack
) -> zmq.Socket[bytes]:
    socket = context.socket(kind)
    stack.callback(socket.close, 0)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.RCVHWM, 0)
    socket.setsockopt(zmq.SNDHWM, 0)
    socket.setsockopt(zmq.IPV6, is_ipv6(address))
    try:
        socket.bind(address)
    except zmq.ZMQError as error:
        raise EndpointError(
            f"document proxy {address!r}: {error}; with documents.own_proxy the service opens this address itself"
        ) from error
    return socket


def _forward(frontend: zmq.Socket[bytes], backend: zmq.Socket[bytes]) -> None:
    """Forward messages until the context is terminated."""
    with contextlib.suppress(zmq.ContextTerminated):
        zmq.proxy(frontend, backend)
    frontend.close(0)
    backend.close(0)
