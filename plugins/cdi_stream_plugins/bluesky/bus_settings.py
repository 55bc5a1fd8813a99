"""Addresses, keys and format of the documents, read from a service's configuration without its own heavy modules."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import zmq

from cdi_stream.addresses import CurveKeys, parse
from cdi_stream.documents.bus import SERIALIZERS
from cdi_stream.documents.curve import secure
from cdi_stream.errors import ConfigError
from cdi_stream.messages import Document

OWN_RESULTS = "tcp://127.0.0.1:5578"
"""Address of the results, where the configuration names none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BusSettings:
    """Place and format of the documents on a bus.

    Parameters
    ----------
    results
        Address at which the service publishes its results.
    prefix, serializer
        Prefix of each message, and format of its content: ``msgpack``, ``json`` or ``pickle``.
    curve
        Keys for CurveZMQ, None without.
    """

    results: str = OWN_RESULTS
    prefix: str = ""
    serializer: str = "msgpack"
    curve: CurveKeys | None = None


def documents_table(config: str | Path | Document) -> Document:
    """Return the table ``documents`` of a configuration, which is a TOML file or its content.

    Raises
    ------
    ConfigError
        If the file cannot be read, or ``documents`` is no table.
    """
    if not isinstance(config, Mapping):
        try:
            config = tomllib.loads(Path(config).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{config}: expected a configuration file, got: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{config} is not TOML: {error}") from error
    documents = config.get("documents", {})
    if not isinstance(documents, Mapping):
        raise ConfigError(f"expected a table [documents], got {documents!r:.80}")
    return documents


def bus_settings(documents: Document) -> BusSettings:
    """Return the settings of the bus in the table ``documents``.

    Raises
    ------
    ConfigError
        If a key or the name of the serializer is not usable.
    """
    serializer = str(documents.get("serializer", "msgpack"))
    if serializer not in SERIALIZERS:
        raise ConfigError(f"documents.serializer: expected one of {', '.join(SERIALIZERS)}, got {serializer!r}")
    return BusSettings(
        results=str(documents.get("subscribe", OWN_RESULTS)),
        prefix=str(documents.get("prefix", "")),
        serializer=serializer,
        curve=_keys_of(documents),
    )


def target_of(documents: Document) -> tuple[str, int]:
    """Return the address to which a RunEngine's documents are sent, and the type of the socket.

    Raises
    ------
    ConfigError
        If the documents come by a source to which nothing is sent, or if the address is not usable.
    """
    source = documents.get("source", "zmq")
    keys = {"process": ("address", zmq.DEALER), "zmq": ("publish", zmq.PUB)}
    if source not in keys:
        raise ConfigError(
            f'documents.source: expected "process" (documents go straight to the service) or "zmq", got {source!r}; '
            f"with {source!r} the documents come without CdiStream"
        )
    key, kind = keys[source]
    text = documents.get(key)
    if not isinstance(text, str):
        raise ConfigError(f"documents.{key}: expected an address such as tcp://127.0.0.1:5579, got {text!r}")
    address = text if "://" in text else f"tcp://{text}"
    try:
        parse(address)
    except ValueError as error:
        raise ConfigError(f"documents.{key}: {error}") from error
    return address, kind


def _keys_of(documents: Document) -> CurveKeys | None:
    keys = CurveKeys.of(documents.get("curve_secret"), documents.get("curve_server"))
    with zmq.Context() as context, context.socket(zmq.PUB) as socket:
        secure(socket, keys)  # an error must come here, not in a thread
    return keys
