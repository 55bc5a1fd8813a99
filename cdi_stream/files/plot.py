"""Plot a crystal: central slices of amplitude and phase."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdi_stream.disk.atomic import atomic_write
from cdi_stream.errors import ConfigError
from cdi_stream.files.result_file import read_result
from cdi_stream.inversion.describe import box_vox

Complex = NDArray[np.complex64]
LAB_AXES = ("z", "y", "x")
LAB_VIEWS = {0: "beam towards you", 1: "up points away from you", 2: "outboard towards you"}
INSIDE = 0.3
"""Least amplitude, relative to the largest, at which the phase is shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A crystal, 2D or 3D, with the labels of its axes.

    Parameters
    ----------
    crystal
        Complex crystal with the same step along every axis.
    axes
        Name of each axis.
    unit
        Unit of ``step``.
    step
        Side of a voxel.
    views
        Title of the slice across an axis, by axis.
    phase
        Label of the phase.
    """

    crystal: Complex
    axes: tuple[str, ...]
    unit: str = "voxels"
    step: float = 1.0
    views: dict[int, str]
    phase: str = "phase / rad"


def require_matplotlib() -> None:
    """Raise `ConfigError` if matplotlib is not installed."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ConfigError("--plot needs matplotlib: pip install 'cdi-stream[plot]'") from error


def plot_result(file: Path, out: Path, title: str) -> None:
    """Plot central slices of a result file's crystal in lab axes, in nanometres.

    Raises
    ------
    RecordingError
        If the file is no result file, or has no crystal.
    """
    result = read_result(file)
    plot(lab_picture(result.density, float(result.voxel_m[0])), out, title)


def lab_picture(crystal: Complex, voxel_m: float) -> Picture:
    """Return the picture of a crystal on a lab grid [z, y, x] with cubic voxels of side ``voxel_m``."""
    return Picture(
        crystal=crystal, axes=LAB_AXES, unit="nm", step=voxel_m * 1e9, views=LAB_VIEWS, phase="phase Q.u / rad"
    )


def voxel_picture(crystal: Complex, axes: tuple[str, ...]) -> Picture:
    """Return the picture of a crystal of unknown geometry, with its centre of mass moved to the middle."""
    weights = np.abs(crystal) ** 2
    turns = [np.exp(2j * np.pi * index / n) for index, n in zip(np.indices(crystal.shape), crystal.shape, strict=True)]
    centre = [np.angle((weights * turn).sum()) / (2 * np.pi) for turn in turns]  # periodic
    shift = [n // 2 - round(n * c) for n, c in zip(crystal.shape, centre, strict=True)]
    views = {axis: f"across {axes[axis]}" for axis in range(3)} if crystal.ndim == 3 else {}
    return Picture(crystal=np.roll(crystal, shift, tuple(range(crystal.ndim))), axes=axes, views=views)


def plot(picture: Picture, out: Path, title: str) -> None:
    """Plot central slices of amplitude and phase into a file, which gets its name only when it is complete.

    Raises
    ------
    ConfigError
        If matplotlib is not installed, or the file cannot be written.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure()
    draw_slices(figure, picture, title)
    try:
        with atomic_write(out) as part:
            figure.savefig(part, dpi=110, format=out.suffix.lstrip(".").lower() or "png")
    except (OSError, ValueError) as error:
        raise ConfigError(f"--plot {out}: cannot be written: {error}; choose another place, ending in .png") from error


def draw_slices(figure: Any, picture: Picture, title: str) -> None:
    """Draw central slices of amplitude and phase into an empty matplotlib figure, and set its size and title."""
    slices = _slices(picture)
    figure.set_size_inches(1.3 + 3.3 * len(slices), 7)
    figure.set_layout_engine("constrained")
    axes = figure.subplots(2, len(slices), squeeze=False)
    for column, part in enumerate(slices):
        _draw(axes[:, column], part, picture)
    figure.colorbar(axes[0, -1].images[0], ax=axes[0], label="amplitude")
    figure.colorbar(axes[1, -1].images[0], ax=axes[1], label=picture.phase)
    figure.suptitle(title)


@dataclass(frozen=True, slots=True)
class _Slice:
    """Amplitude and phase ``(up, across)`` of one slice, the crystal's largest amplitude, labels, and half width."""

    amplitude: NDArray[np.float32]
    phase: NDArray[np.float32]
    largest: float
    up: str
    across: str
    view: str
    reach: float


def _slices(picture: Picture) -> list[_Slice]:
    """Return the middle slices across each axis of a volume, or the single slice of a 2D crystal."""
    crystal = picture.crystal
    amplitude = np.abs(crystal)
    inside = amplitude > INSIDE * amplitude.max()
    phase = np.where(inside, np.angle(crystal * np.exp(-1j * np.angle(crystal[inside].sum()))), np.nan)
    reach = (0.65 * float(box_vox(amplitude).max()) + 1) * picture.step
    if crystal.ndim == 2:
        return [_Slice(amplitude, phase, float(amplitude.max()), picture.axes[0], picture.axes[1], "", reach)]
    cuts = []
    for axis in range(3):
        up, across = (name for k, name in enumerate(picture.axes) if k != axis)
        middle_amplitude, middle_phase = (array.take(crystal.shape[axis] // 2, axis) for array in (amplitude, phase))
        cuts.append(
            _Slice(
                middle_amplitude, middle_phase, float(amplitude.max()), up, across, picture.views.get(axis, ""), reach
            )
        )
    return cuts


def _draw(axes: Any, part: _Slice, picture: Picture) -> None:
    """Draw one slice into two axes, the amplitude above the phase."""
    extent = [side * picture.step for n in part.amplitude.shape[::-1] for side in (-(n // 2) - 0.5, n - n // 2 - 0.5)]
    common: dict[str, Any] = {"origin": "lower", "extent": extent}
    axes[0].imshow(part.amplitude, cmap="magma", vmin=0, vmax=part.largest, **common)
    axes[1].imshow(part.phase, cmap="twilight", vmin=-np.pi, vmax=np.pi, **common)
    for panel in axes:
        panel.set(
            xlabel=f"{part.across} / {picture.unit}",
            ylabel=f"{part.up} / {picture.unit}",
            xlim=(-part.reach, part.reach),
            ylim=(-part.reach, part.reach),
        )
    axes[0].set_title(part.view)
