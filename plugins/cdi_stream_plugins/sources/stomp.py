"""Receive documents that blueapi publishes through a STOMP broker, such as RabbitMQ or ActiveMQ.

blueapi, the plan service of Diamond Light Source, publishes all its events on one topic, each as a JSON object
(https://diamondlightsource.github.io/blueapi).  A ``DataEvent`` has the keys ``name``, ``doc`` and ``task_id``; events
that describe the worker or its progress have no ``doc``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from urllib.parse import urlsplit

import zmq

from cdi_stream.errors import ConfigError, EndpointError, WireError
from cdi_stream.messages import Document
from cdi_stream_plugins.sources.carrier import CarrierSource, HandOn
from cdi_stream_plugins.sources.stomp_connection import StompConnection

DESTINATION = "/topic/public.worker.event"
"""Topic on which blueapi publishes its events."""

PORT = 61613
"""TCP port of a STOMP broker, where the address names none."""


class StompSource(CarrierSource):
    """Document source on a topic of a STOMP broker; options are ``destination``, ``user`` and ``password``.

    The broker keeps no documents for a service that is not connected: documents that are published meanwhile are lost.

    Parameters
    ----------
    context
        Context of the sockets.
    address
        Address of the broker, ``stomp://host:port``.
    destination
        Topic of the events, for example ``/topic/public.worker.event``.
    user, password
        Account at the broker; an empty text is not sent.

    Raises
    ------
    ConfigError
        If the destination is no path.
    EndpointError
        If the address is not of the form ``stomp://host:port``.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        address: str,
        *,
        destination: str = DESTINATION,
        user: str = "",
        password: str = "",
    ) -> None:
        if not destination.startswith("/"):
            raise ConfigError(f"documents.options.destination: expected a path as {DESTINATION}, got {destination!r}")
        self._place = parse(address)
        self._destination, self._account = destination, (user, password)
        self._connection: StompConnection | None = None
        super().__init__(context, address)
        self.start()

    def receive(self, hand_on: HandOn, is_stopped: Callable[[], bool]) -> None:
        """Connect to the broker, and hand on the documents of its events until stopped.

        Raises
        ------
        OSError
            If the broker cannot be reached, refuses the connection, or the connection is lost.
        """

        def take(body: bytes) -> None:
            """Hand on the document of one message; report a message that cannot be read."""
            try:
                document = read_event(body)
            except WireError as error:
                self.report(error)
            else:
                if document is not None:
                    hand_on(*document)

        self._connection = StompConnection(
            self._place, self._destination, on_open=self.connected, on_body=take, on_unusable=self.report
        )
        self._connection.run(*self._account, is_stopped=is_stopped)

    def interrupt(self) -> None:
        """Close the connection, so that `receive` returns."""
        if self._connection is not None:
            self._connection.interrupt()


def parse(address: str) -> tuple[str, int]:
    """Return host and TCP port of an address ``stomp://host:port``.

    Raises
    ------
    EndpointError
        If the address has another form.
    """
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise EndpointError(f"documents.address: expected stomp://host:{PORT}, got {address!r}: {error}") from error
    if "@" in parts.netloc:
        raise EndpointError("documents.address: expected no account in it; name user and password in documents.options")
    if parts.scheme != "stomp" or not host or parts.path or parts.query or parts.fragment:
        raise EndpointError(f"documents.address: expected stomp://host:{PORT}, got {address!r}")
    return host, PORT if port is None else port


def read_event(body: bytes) -> tuple[str, Document] | None:
    """Return name and document of an event of blueapi; None for an event that carries no document.

    Raises
    ------
    WireError
        If the body is no JSON object, or its document has no name or is no map.
    """
    try:
        event = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise WireError(
            f"expected an event of blueapi in JSON on the STOMP topic, got {body[:40]!r}: {error!s:.80}"
        ) from error
    match event:
        case {"doc": dict(doc), "name": str(name)} if name.isidentifier():
            return name, doc
        case {"doc": _}:
            raise WireError(f"expected an event with the keys name and doc on the STOMP topic, got {body[:80]!r}")
        case dict():
            return None
    raise WireError(f"expected a JSON object on the STOMP topic, got {type(event).__name__}")
