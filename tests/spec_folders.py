"""Small scans laid out as APS 34-ID-C writes them: a SPEC file, and a folder of TIFF files beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

MOTORS = {"Delta": 32.0, "Theta": 0.2, "Chi": 90.0, "Phi": -5.0, "Gamma": 12.6, "Energy": 9.0, "camdist": 500.0}
MNEMONICS = "del th chi phi gam en camdist"
LABELS = ("Theta", "Epoch", "ImageTot", "SECCM Voltage", "Monitor")
N_FRAMES = 20
SHAPE = (24, 28)


def peak_frames(n: int = N_FRAMES, seed: int = 0, dtype: Any = np.int32) -> NDArray[Any]:
    """A Bragg peak that passes the middle of the scan, ``(n, 24, 28)``, no two frames with the same sum."""
    z, y, x = np.meshgrid(np.arange(n) - n // 2, *(np.arange(m) - m // 2 for m in SHAPE), indexing="ij")
    expected = 3000 * np.exp(-(z**2 + y**2 + x**2) / 18) + 0.2
    frames = np.random.default_rng(seed).poisson(expected)
    frames[:, 0, 0] = np.arange(n) + 1  # tells the frames apart
    return frames.astype(dtype)


def head(name: str = "Sample-1a", motors: Iterable[str] = MOTORS, mnemonics: str = MNEMONICS) -> str:
    """Head of a SPEC file with the names of all motors, five a line."""
    lines = [f"#F /data/2020/{name}.spec", "#E 1580609738", "#D Sat Feb 01 20:15:38 2020", "#C sixc  User = 34idc", ""]
    return "\n".join([*lines, *names(motors), f"#o0 {mnemonics}", ""]) + "\n"


def names(motors: Iterable[str]) -> list[str]:
    """Lines ``#O``, five motors a line."""
    listed = list(motors)
    return [f"#O{k} " + "  ".join(listed[5 * k : 5 * k + 5]) for k in range((len(listed) + 4) // 5)]


@dataclass(frozen=True, kw_only=True)
class SpecEntry:
    """One scan of a SPEC file; ``own_names`` are motors whose names stand in the scan itself."""

    frames: NDArray[Any] = field(default_factory=peak_frames)
    number: int = 54
    command: str = "ascan  th 0.1 0.29  19 0.25"
    motors: Mapping[str, float] = field(default_factory=lambda: MOTORS)
    own_names: bool = False
    detector: str | None = "34idcTIM2"
    labels: tuple[str, ...] = LABELS
    extra: tuple[str, ...] = ()

    def rows(self) -> list[dict[str, str]]:
        """Columns of each row as text, by name."""
        sums = self.frames.sum(axis=(1, 2), dtype=np.int64)
        return [
            {
                "Theta": f"{0.1 + 0.01 * k:.8g}",
                "Epoch": f"{100 + 0.5 * k}",
                "ImageTot": f"{total:.8g}",
                "SECCM Voltage": "-0.1",
                "Monitor": f"{1000 + k}",
            }
            for k, total in enumerate(sums)
        ]

    def text(self) -> str:
        """The scan's lines."""
        values = [f"{value:.8g}" for value in self.motors.values()]
        positions = [f"#P{k} " + " ".join(values[5 * k : 5 * k + 5]) for k in range((len(values) + 4) // 5)]
        lines = [f"#S {self.number}  {self.command}", "#D Tue Feb 04 12:28:23 2020", "#T 0.25  (Seconds)"]
        lines += names(self.motors) if self.own_names else []
        lines += positions
        lines += [] if self.detector is None else [f"#UIMDET {self.detector}:"]
        lines += [f"#UIMR5  2 {SHAPE[1]} 3 {SHAPE[0]} 1", *self.extra]
        lines += [f"#N {len(self.labels)}", "#L " + "  ".join(self.labels)]
        lines += [" ".join(row[label] for label in self.labels) for row in self.rows()]
        return "\n".join(lines) + "\n\n"


def write_spec(folder: Path, *parts: str | SpecEntry, name: str = "Sample-1a.spec") -> Path:
    """Write a SPEC file of heads and scans."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text("".join(part if isinstance(part, str) else part.text() for part in parts))
    return path


def write_images(folder: Path, frames: NDArray[Any], first: int = 0, skip: Iterable[int] = ()) -> Path:
    """Write one TIFF file a frame, named after the folder and numbered from ``first``; ``skip`` is left out."""
    folder.mkdir(parents=True, exist_ok=True)
    for k, frame in enumerate(frames):
        if k not in set(skip):
            tifffile.imwrite(folder / f"{folder.name}_{k + first:05d}.tif", frame)
    return folder


def spec_folder(root: Path, entry: SpecEntry | None = None, **images: Any) -> Path:
    """A whole experiment with one scan: SPEC file, and ``AD34idcTIM2_x/Sample-1a_S0054``; returns its folder."""
    entry = entry or SpecEntry()
    write_spec(root, head(), entry)
    write_images(root / "AD34idcTIM2_x" / f"Sample-1a_S{entry.number:04d}", entry.frames, **images)
    return root
