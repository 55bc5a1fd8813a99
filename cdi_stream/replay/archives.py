"""The Tiled server of past runs: from an option, else from the configuration."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from cdi_stream.config import read_config
from cdi_stream.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Address and key of a Tiled server; an empty key for a server that is open to all."""

    uri: str
    api_key: str = field(default="", repr=False)


def tiled_server(uri: str | None, api_key: str | None, config_file: Path | None) -> Server:
    """Return the Tiled server of past runs.

    Parameters
    ----------
    uri, api_key
        Address and key that are given; None: those of the configuration.
    config_file
        Configuration: the server from which its documents come, else the server to which its results go.

    Raises
    ------
    ConfigError
        If neither names a server.
    """
    if uri is not None:
        return Server(uri=uri, api_key=api_key or "")
    server = None if config_file is None else _configured(config_file)
    if server is None:
        raise ConfigError(
            "expected the address of the Tiled server that has the run, got none: give --tiled http://host:8000, or a "
            "configuration that names a server in publish.tiled"
        )
    return Server(uri=server.uri, api_key=api_key or server.api_key)


def _configured(config_file: Path) -> Server | None:
    """Return the server that a configuration names; None if there is none, or if its local server never ran."""
    config = read_config(config_file)
    documents, publish = config.documents, config.publish
    if documents.source == "tiled":
        return Server(uri=documents.source_address, api_key=documents.options.get("api_key", ""))
    if publish.tiled is None:
        return None
    if publish.tiled != "local":
        return Server(uri=publish.tiled, api_key=publish.tiled_api_key or "")
    try:
        kept = json.loads((publish.directory / "tiled.json").read_text())
        return Server(uri=kept["uri"], api_key=kept["api_key"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
