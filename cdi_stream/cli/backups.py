"""Commands ``backup`` and ``restore``: queue, spool and catalog of a results folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cdi_stream.cli.output import JsonOption, NeededConfig, show


def backup(
    config: NeededConfig,
    out: Annotated[Path, typer.Option("--out", help="Folder of the backups; each is a folder in it.")],
    keep: Annotated[int, typer.Option(help="Number of backups that are kept.", min=1)] = 14,
    as_json: JsonOption = False,
) -> None:
    """Copy queue, spool and catalog of the results folder, while the service runs."""
    from cdi_stream.config import read_config
    from cdi_stream.live.backup import back_up

    folder = back_up(read_config(config).publish.directory.resolve(), out.resolve(), keep=keep)
    show({"backup": str(folder), "bytes": sum(file.stat().st_size for file in folder.rglob("*"))}, as_json)


def restore(
    folder: Annotated[Path, typer.Argument(help="Folder of one backup, as 'backup' has printed it.")],
    config: NeededConfig,
    as_json: JsonOption = False,
) -> None:
    """Put a backup back into the results folder; service and workers must be stopped."""
    from cdi_stream.config import read_config
    from cdi_stream.live.backup import restore as put_back

    directory = read_config(config).publish.directory.resolve()
    show({"directory": str(directory), "restored": put_back(folder.resolve(), directory)}, as_json)
