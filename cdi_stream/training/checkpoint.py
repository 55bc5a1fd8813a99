"""Save and load checkpoints of a training; a checkpoint consists of small files that can be copied between machines.

A checkpoint is a folder of parts with a manifest of their sizes and hashes.  The folder gets its name only when all
parts are written; only then the previous checkpoint is removed.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from pydantic import BaseModel, ValidationError

from cdi_stream.errors import NetworkFileError

PART_BYTES = 15_000_000
"""Largest size of one part [bytes]."""

MOST_BYTES = 60_000_000
"""Largest size of a checkpoint [bytes]."""

_MANIFEST = "manifest.json"
_PARTIAL = ".partial"


class Part(BaseModel):
    """Name, size and hash of one file of a checkpoint."""

    name: str
    n_bytes: int
    sha256: str


class Manifest(BaseModel):
    """All files of a checkpoint, in order."""

    step: int
    parts: list[Part]


def save(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Write the state of a training and return its folder; older checkpoints are removed.

    Parameters
    ----------
    folder
        Folder of the training's checkpoints.
    step
        Step of the training; an existing checkpoint of this step is kept.
    state
        Tensors, numbers and texts.

    Raises
    ------
    NetworkFileError
        If the state is larger than `MOST_BYTES`.
    """
    partial, complete = folder / f"step-{step:08d}{_PARTIAL}", folder / f"step-{step:08d}"
    if (complete / _MANIFEST).is_file():
        return complete
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getvalue()
    if len(data) > MOST_BYTES:
        raise NetworkFileError(
            f"checkpoint of step {step}: expected at most {MOST_BYTES} bytes, got {len(data)}; train fewer weights"
        )
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    parts = [
        _write_part(partial, k, data[at : at + PART_BYTES]) for k, at in enumerate(range(0, len(data), PART_BYTES))
    ]
    _put(partial / _MANIFEST, Manifest(step=step, parts=parts).model_dump_json(indent=1).encode())
    shutil.rmtree(complete, ignore_errors=True)
    partial.rename(complete)
    for checkpoint in folder.glob("step-*"):
        if checkpoint != complete:
            shutil.rmtree(checkpoint)
    return complete


def newest(folder: Path) -> Path | None:
    """Return the newest complete checkpoint; None if there is none."""
    complete = (path for path in folder.glob("step-*") if path.suffix != _PARTIAL and (path / _MANIFEST).is_file())
    return max(complete, default=None)


def load(path: Path) -> dict[str, Any]:
    """Return the state in a checkpoint, after a check of all sizes and hashes.

    Raises
    ------
    NetworkFileError
        If a part is missing, too large or changed.
    """
    try:
        manifest = Manifest.model_validate_json((path / _MANIFEST).read_bytes())
        if sum(part.n_bytes for part in manifest.parts) > MOST_BYTES:
            raise ValueError(f"more than {MOST_BYTES} bytes")
        data = b"".join(_read(path, part) for part in manifest.parts)
        state: dict[str, Any] = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    except UnpicklingError:
        raise NetworkFileError(
            f"checkpoint {path}: expected tensors, numbers and texts, got objects; train without --resume"
        ) from None
    except (OSError, ValueError, RuntimeError, ValidationError) as error:
        raise NetworkFileError(
            f"checkpoint {path}: expected the parts that {_MANIFEST} names, got: {error}; "
            "copy the whole folder again, or train without --resume"
        ) from error
    return state


def _write_part(folder: Path, index: int, data: bytes) -> Part:
    name = f"part-{index:03d}"
    _put(folder / name, data)
    return Part(name=name, n_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def _put(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _read(folder: Path, part: Part) -> bytes:
    path = folder / Path(part.name).name
    if path.stat().st_size != part.n_bytes:
        raise ValueError(f"{part.name} of {path.stat().st_size} bytes, not {part.n_bytes}")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != part.sha256:
        raise ValueError(f"{part.name} with another hash")
    return data
