"""History: a small file with the last results, which keeps them over a restart of the dashboard.

The file is JSON: ``results`` holds the headers of the last results, oldest first; ``newest`` holds the newest result of
each stage with its pictures, each part of the message in base64.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdi_stream.disk.atomic import atomic_write
from cdi_stream.errors import InputError, WireError
from cdi_stream.operators.feed import FeedMessage, pack, unpack

logger = logging.getLogger(__name__)

SCHEMA = "cdi_stream dashboard history 1"
"""Name and version of the format."""

FILE_NAME = "dashboard-history.json"
"""Default name of the file, in the results folder."""

MAX_FILE_BYTES = 32 << 20
"""Largest size [bytes] of the file; the pictures of three results of 256 voxels a side take 2 MiB."""

WRITE_EVERY_S = 1.0
"""Shortest time [s] between two writes of the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """Headers of the last results, oldest first, and the newest result of each stage with its pictures."""

    headers: Sequence[dict[str, Any]] = ()
    newest: Sequence[FeedMessage] = ()


def write_history(path: Path, results: Results) -> None:
    """Write the file, whole or not at all; raises `OSError` if the disk is full or the folder is not writable."""
    newest = [[base64.b64encode(part).decode() for part in pack(*message)] for message in results.newest]
    content = {"schema": SCHEMA, "results": list(results.headers), "newest": newest}
    text = json.dumps(content, allow_nan=False)
    if len(text) > MAX_FILE_BYTES:
        text = json.dumps(content | {"newest": []}, allow_nan=False)
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8")


def read_history(path: Path) -> Results:
    """Return the results in the file; none if there is no file.

    Raises
    ------
    InputError
        If the file cannot be read, or does not come from `write_history`.
    """
    try:
        if not path.exists():
            return Results()
        if (n_bytes := path.stat().st_size) > MAX_FILE_BYTES:
            raise ValueError(f"expected at most {MAX_FILE_BYTES} bytes, got {n_bytes}")
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA or not all(isinstance(header, dict) for header in content["results"]):
            raise ValueError(f"expected {SCHEMA!r} with a list of results")
        json.dumps(content["results"], allow_nan=False)  # a browser cannot read infinite numbers
        newest = [unpack([base64.b64decode(part, validate=True) for part in parts]) for parts in content["newest"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError, WireError) as error:
        raise InputError(f"{path}: expected the dashboard's history, got something else: {error}") from error
    return Results(headers=content["results"], newest=newest)


def load_history(path: Path) -> Results:
    """Return the results in the file; a damaged file is renamed to ``.damaged``, and the history starts empty."""
    try:
        return read_history(path)
    except InputError as error:
        aside = path.with_name(f"{path.name}.damaged")
        logger.warning("%s; the file is renamed to %s, and the history starts empty", error, aside.name)
        try:
            path.replace(aside)
        except OSError as second:
            logger.warning("%s cannot be renamed: %s", path, second)
        return Results()


class Keeper:
    """Writes the file in a thread, so that no browser waits for a slow disk."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._newest = Results()
        self._has_changed = asyncio.Event()

    def keep(self, results: Results) -> None:
        """Note results to be written by `run`; never waits."""
        self._newest = results
        self._has_changed.set()

    async def run(self) -> None:
        """Write after each change until cancelled; then write the last change."""
        try:
            while await self._has_changed.wait():
                self._has_changed.clear()
                await asyncio.to_thread(self._write)
                await asyncio.sleep(WRITE_EVERY_S)
        finally:
            if self._has_changed.is_set():
                self._write()

    def _write(self) -> None:
        try:
            write_history(self._path, self._newest)
        except (OSError, ValueError) as error:
            logger.warning("the history is kept in memory only, a restart will forget it: %s", error)
