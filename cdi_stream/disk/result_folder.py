"""Folder of the results of a run, made of a template over its start document: one for each proposal, for example."""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Formatter

from cdi_stream.errors import ConfigError

logger = logging.getLogger(__name__)

UNKNOWN = "unknown"
"""Name in place of a value that the start document lacks."""

_MAX_NAME = 80


def keys_of(template: str) -> tuple[str, ...]:
    """Return the keys of a template such as ``{cycle}/{proposal}``.

    Raises
    ------
    ConfigError
        If the template is no relative folder, or has anything but plain keys in braces.
    """
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise ConfigError(f"expected a folder such as '{{cycle}}/{{proposal}}', got {template!r}: {error}") from error
    keys = tuple(key for _, key, _, _ in parts if key is not None)
    is_plain = all(key.isidentifier() for key in keys) and not any(form or change for _, _, form, change in parts)
    names = "".join(text for text, *_ in parts).split("/")
    if not is_plain or template.startswith("/") or ".." in names:
        raise ConfigError(
            f"expected a folder inside publish.directory such as '{{cycle}}/{{proposal}}', with keys of the start "
            f"document in braces, got {template!r}"
        )
    return keys


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultFolder:
    """Folder of the result files.

    Parameters
    ----------
    base
        Folder that holds all results.
    template
        Folder inside ``base``, with keys of the start document in braces; empty for ``base`` itself.
    mode
        Permissions of the folders that are made, as for ``chmod``; None for those of the process.
    group
        Group of the folders that are made; None for that of the process.
    """

    base: Path
    template: str = ""
    mode: int | None = None
    group: str | None = None

    def of(self, values: Mapping[str, object]) -> Path:
        """Return the folder for a run with these values, and make it.

        Values become safe names, a missing value becomes `UNKNOWN`.  A folder that cannot be made is only logged, and
        ``base`` is returned, so that the result is not lost.
        """
        names = {key: _name(values.get(key)) for key in keys_of(self.template)}
        folder = self.base / self.template.format(**names)
        try:
            self._make(folder)
        except (OSError, LookupError) as error:
            logger.warning("%s cannot be made, results go to %s: %s", folder, self.base, error)
            return self.base
        return folder

    def _make(self, folder: Path) -> None:
        """Make a folder and its missing parents with the permissions of the template."""
        if folder.exists() or folder == self.base:
            return
        self._make(folder.parent)
        folder.mkdir(exist_ok=True, parents=True)
        if self.group is not None:
            shutil.chown(folder, group=self.group)
        if self.mode is not None:
            os.chmod(folder, self.mode)  # noqa: PTH101 - mkdir's own mode is cut by the umask


def result_files(folder: Path, stages: Collection[str]) -> Iterator[tuple[Path, str]]:
    """Yield the result files of some stages in a folder and its subfolders, each with its stage."""
    endings = {f"_{stage}.h5": stage for stage in stages}
    for place, _, names in os.walk(folder):
        for name in names:
            ending = f"_{name.rpartition('_')[2]}"
            if ending in endings:
                yield Path(place) / name, endings[ending]


def _name(value: object) -> str:
    """Return a value as the name of a folder: letters, digits, dot, dash and underscore."""
    if isinstance(value, Mapping):
        value = value.get("name") or value.get("proposal_id")
    text = re.sub(r"[^\w.-]+", "_", str(value)).lstrip(".")[:_MAX_NAME] if value not in (None, "") else ""
    return text or UNKNOWN
