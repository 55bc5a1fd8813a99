"""Keys of CurveZMQ, by which a document proxy knows its clients and encrypts what they send.

The files are those of `zmq.auth`, as `bluesky.callbacks.zmq` reads them.
"""

from __future__ import annotations

from pathlib import Path

import zmq
import zmq.auth

from cdi_stream.addresses import CurveKeys
from cdi_stream.errors import ConfigError

SERVER, CLIENT = "proxy", "client"
"""Names of the keys that `make_keys` writes."""


def secure(socket: zmq.Socket[bytes], keys: CurveKeys | None) -> None:
    """Set the keys of a socket before it connects; without keys the socket stays open to everybody.

    Raises
    ------
    ConfigError
        If a file holds no such key.
    """
    if keys is None:
        return
    public, secret = _secret_of(keys.secret)
    server, _ = _key_of(keys.server)
    socket.curve_publickey, socket.curve_secretkey, socket.curve_serverkey = public, secret, server


def serve_with(socket: zmq.Socket[bytes], secret: Path) -> None:
    """Set the secret key of a socket to which clients connect; raises `ConfigError` if the file holds none."""
    public, own = _secret_of(secret)
    socket.curve_publickey, socket.curve_secretkey, socket.curve_server = public, own, True


def make_keys(folder: Path) -> list[Path]:
    """Write a pair of keys for a proxy and one for its clients, and return the four files; no file is replaced.

    Raises
    ------
    ConfigError
        If a file exists already, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        names = [folder / f"{name}.{kind}" for name in (SERVER, CLIENT) for kind in ("key", "key_secret")]
        if existing := [name for name in names if name.exists()]:
            raise ConfigError(f"{existing[0]} exists already: give another folder, or delete the keys there")
        folder.chmod(0o700)
        for owner in (SERVER, CLIENT):
            zmq.auth.create_certificates(folder, owner)
        for name in names:
            name.chmod(0o600 if name.suffix == ".key_secret" else 0o644)
    except OSError as error:
        raise ConfigError(f"{folder}: keys cannot be written: {error}") from error
    return names


def _secret_of(path: Path) -> tuple[bytes, bytes]:
    """Return the public and the secret key of a file."""
    public, secret = _key_of(path)
    if secret is None:
        raise ConfigError(f"{path}: expected a secret key, got a public one; its file ends in .key_secret")
    return public, secret


def _key_of(path: Path) -> tuple[bytes, bytes | None]:
    try:
        return zmq.auth.load_certificate(path)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path}: expected a key of CurveZMQ, got: {error}; 'cdi-stream keys FOLDER' makes a set"
        ) from error
