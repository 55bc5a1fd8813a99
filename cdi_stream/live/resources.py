"""Resources of the service's machine: free disk of the results folder, memory of the service, memory of the GPU."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

import torch

from cdi_stream.documents.spool import SPOOL


def resources(directory: Path) -> dict[str, int]:
    """Return sizes in bytes by name; a size that the system does not tell is left out.

    ``disk_free_bytes`` and ``disk_size_bytes`` of the file system of ``directory``, ``spool_bytes`` of the documents'
    spool there, ``memory_bytes`` that this process holds, and ``gpu_used_bytes`` and ``gpu_size_bytes`` of the GPU.
    """
    sizes: dict[str, int] = {}
    with contextlib.suppress(OSError):
        disk = shutil.disk_usage(directory)
        sizes |= {"disk_free_bytes": disk.free, "disk_size_bytes": disk.total}
    with contextlib.suppress(OSError):
        sizes["spool_bytes"] = sum(file.stat().st_size for file in directory.glob(f"{SPOOL}*"))
    with contextlib.suppress(OSError, ValueError):
        n_pages = int(Path("/proc/self/statm").read_text().split()[1])
        sizes["memory_bytes"] = n_pages * os.sysconf("SC_PAGE_SIZE")
    return sizes | _gpu()


def _gpu() -> dict[str, int]:
    """Return the memory of the GPU in use; empty where this process uses none, so that none is initialised for this."""
    if not torch.cuda.is_initialized():
        return {}
    with contextlib.suppress(RuntimeError):
        free, size = torch.cuda.mem_get_info()
        return {"gpu_used_bytes": size - free, "gpu_size_bytes": size}
    return {}
