"""Frames of one series, in memory or in files that outlive the process.

In files, ``frames.u32`` holds the pixels ``[slot, row, col]`` as uint32 and ``account.bin`` one record a slot; both are
mapped into memory, so that a frame that is copied into its slot is kept by the system even if the process is killed in
the next moment.  Their space is reserved before it is mapped: a full disk is an error here, not a crash at a later
access.
"""

from __future__ import annotations

import errno
import mmap
import os
import shutil
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

ACCOUNT = np.dtype([("has", "u1"), ("exposure_s", "<f8"), ("received_s", "<f8")])
"""Record of a slot: whether its frame came, its exposure (NaN: unknown), and its receipt [s since the epoch]."""

KEEP_FREE_BYTES = 64 << 20
"""Disk space that is left to others."""


class FrameStore(Protocol):
    """Where the frames of a series lie."""

    volume: NDArray[np.uint32]
    account: NDArray[Any]

    def grow(self, n_slots: int, shape: tuple[int, int]) -> None:
        """Make room for slots of images of a shape; raises `OSError` where there is no room."""
        ...

    def clear(self) -> None:
        """Drop all frames."""
        ...

    def discard(self) -> None:
        """Give the place back; arrays that were handed out stay valid."""
        ...


class MemoryStore:
    """Frames in memory, gone with the process."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Drop all frames."""
        self.volume: NDArray[np.uint32] = np.zeros((0, 1, 1), np.uint32)
        self.account: NDArray[Any] = np.zeros(0, ACCOUNT)

    def grow(self, n_slots: int, shape: tuple[int, int]) -> None:
        """Make room for ``n_slots`` images of a shape; the frames that are there are kept."""
        volume = np.zeros((n_slots, *shape), np.uint32)
        if len(self.volume):
            volume[: len(self.volume)] = self.volume
        account = np.zeros(n_slots, ACCOUNT)
        account[: len(self.account)] = self.account
        self.volume, self.account = volume, account

    def discard(self) -> None:
        """Nothing to give back."""


def in_memory(store: FrameStore) -> MemoryStore:
    """Return a store in memory with the frames of another."""
    copy = MemoryStore()
    if len(store.volume):
        copy.volume, copy.account = store.volume.copy(), store.account.copy()
    return copy


class FileStore:
    """Frames in two files of a folder of their own; one that is there already is gone on with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.volume: NDArray[np.uint32] = np.zeros((0, 1, 1), np.uint32)
        self.account: NDArray[Any] = np.zeros(0, ACCOUNT)

    def reopen(self, shape: tuple[int, int]) -> None:
        """Map the files that an earlier process left, of images of a shape."""
        frames, account = self.folder / "frames.u32", self.folder / "account.bin"
        if not frames.exists() or not account.exists():
            return
        n_slots = min(frames.stat().st_size // (4 * shape[0] * shape[1]), account.stat().st_size // ACCOUNT.itemsize)
        if n_slots:
            self._map(n_slots, shape)

    def grow(self, n_slots: int, shape: tuple[int, int]) -> None:
        """Make room for ``n_slots`` images of a shape; the frames that are there are kept.

        Raises
        ------
        OSError
            If the disk has no room.
        """
        n_bytes = 4 * n_slots * shape[0] * shape[1]
        more = n_bytes - self.volume.nbytes
        if more > shutil.disk_usage(self.folder).free - KEEP_FREE_BYTES:
            raise OSError(errno.ENOSPC, f"no room for {more >> 20} MiB of frames", str(self.folder))
        _reserve(self.folder / "frames.u32", n_bytes)
        _reserve(self.folder / "account.bin", ACCOUNT.itemsize * n_slots)
        self._map(n_slots, shape)

    def clear(self) -> None:
        """Drop all frames."""
        self.volume, self.account = np.zeros((0, 1, 1), np.uint32), np.zeros(0, ACCOUNT)
        for name in ("frames.u32", "account.bin"):
            (self.folder / name).unlink(missing_ok=True)

    def discard(self) -> None:
        """Delete the folder; what is mapped lives on until nobody uses it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _map(self, n_slots: int, shape: tuple[int, int]) -> None:
        frames = _mapped(self.folder / "frames.u32", 4 * n_slots * shape[0] * shape[1])
        self.volume = np.frombuffer(frames, np.uint32).reshape(n_slots, *shape)
        self.account = np.frombuffer(_mapped(self.folder / "account.bin", ACCOUNT.itemsize * n_slots), ACCOUNT)


def _reserve(path: Path, n_bytes: int) -> None:
    """Give a file its size, with space on the disk for all of it."""
    handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        os.posix_fallocate(handle, 0, n_bytes)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        os.ftruncate(handle, n_bytes)
    finally:
        os.close(handle)


def _mapped(path: Path, n_bytes: int) -> mmap.mmap:
    handle = os.open(path, os.O_RDWR)
    try:
        return mmap.mmap(handle, n_bytes)
    finally:
        os.close(handle)
