"""Sockets of the service, opened before torch and the network are loaded.

A service that is started during a scan loses the documents, and the frames of a publishing detector, that are sent
before it subscribes.  To load torch and the network takes seconds, to connect takes milliseconds; messages that come
in between wait in the sockets.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass

import zmq

from cdi_stream.config import Config
from cdi_stream.documents import bus
from cdi_stream.documents.proxy import own_proxy
from cdi_stream.documents.source import DocumentSource, DocumentSourceFactory
from cdi_stream.errors import ConfigError
from cdi_stream.registry import load
from cdi_stream.stream.detector import socket_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Sockets:
    """Connections of a service.

    Parameters
    ----------
    context
        Context of the sockets.
    documents
        Source of the documents of the RunEngine, for the assembler.
    delivery_monitor
        Socket on the document bus, which shows whether documents of this service arrive.
    detector
        Socket of the detector; None if it is not open yet.
    """

    context: zmq.Context[zmq.Socket[bytes]]
    documents: DocumentSource
    delivery_monitor: zmq.Socket[bytes]
    detector: zmq.Socket[bytes] | None


@contextlib.contextmanager
def open_sockets(config: Config) -> Iterator[Sockets]:
    """Yield sockets that are connected to the documents, and to the detector if it publishes (``socket = "sub"``).

    The service's own document proxy is started, if the configuration asks for one.  A detector that pushes waits until
    its frames are taken; its socket is opened later.

    Raises
    ------
    EndpointError
        If an address is invalid, or in use.
    """
    settings = config.documents
    with contextlib.ExitStack() as stack:
        context = stack.enter_context(zmq.Context())
        if settings.own_proxy:
            stack.enter_context(own_proxy(settings.publish, settings.subscribe, settings.proxy_secret))
        make: DocumentSourceFactory = load("cdi_stream.source", settings.source)
        documents = _source(make, context, config)
        stack.callback(documents.close)
        delivery_monitor = bus.listen(context, settings.subscribe, settings.curve)
        stack.callback(delivery_monitor.close, 0)
        detector = socket_of(config.detector, context) if config.detector.socket == "sub" else None
        if detector is not None:
            stack.callback(detector.close, 0)
        yield Sockets(context=context, documents=documents, delivery_monitor=delivery_monitor, detector=detector)


def _source(make: DocumentSourceFactory, context: zmq.Context[zmq.Socket[bytes]], config: Config) -> DocumentSource:
    """Return the document source; raises `ConfigError` for options that the source does not know."""
    options = config.documents.source_options
    try:
        inspect.signature(make).bind(context, config.documents.source_address, **options)
    except TypeError as error:
        raise ConfigError(f"documents.options of the source {config.documents.source!r}: {error}") from error
    return make(context, config.documents.source_address, **options)
