"""A picture of a result file: central slices of amplitude and phase in lab coordinates."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from cdi_stream.errors import ConfigError
from cdi_stream.live.describe import box_vox

_VIEWS = (
    (0, "x", "y", "beam towards you"),
    (1, "x", "z", "up points away from you"),
    (2, "y", "z", "outboard towards you"),
)


def plot_result(file: Path, out: Path, title: str) -> None:
    """Draw three central slices of amplitude and phase, in nanometres.

    Raises
    ------
    ConfigError
        If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("--plot needs matplotlib: pip install 'cdi-stream[plot]'") from error
    with h5py.File(file) as data:
        crystal = data["entry/data/crystal"][0]
        voxel_nm = float(data["entry/cdi_stream"].attrs["voxel_size_m"]) * 1e9
    reach = 0.65 * voxel_nm * box_vox(np.abs(crystal)).max()
    figure = Figure(figsize=(11, 7), layout="constrained")
    axes = figure.subplots(2, 3)
    amplitude = np.abs(crystal)
    inside = amplitude > 0.3 * amplitude.max()
    phase = np.angle(crystal * np.exp(-1j * np.angle(crystal[inside].sum())))
    n = crystal.shape[0]
    half = n // 2 * voxel_nm
    extent = (-half, half, -half, half)
    for column, (axis, across, up, view) in enumerate(_VIEWS):
        cut, mask = (array.take(n // 2, axis) for array in (amplitude, inside))
        angle = np.where(mask, phase.take(n // 2, axis), np.nan)
        top = axes[0, column].imshow(cut, origin="lower", extent=extent, cmap="magma", vmin=0)
        bottom = axes[1, column].imshow(angle, origin="lower", extent=extent, cmap="twilight", vmin=-np.pi, vmax=np.pi)
        for row in range(2):
            axes[row, column].set(
                xlabel=f"{across} / nm", ylabel=f"{up} / nm", xlim=(-reach, reach), ylim=(-reach, reach)
            )
        axes[0, column].set_title(view)
    figure.colorbar(top, ax=axes[0], label="amplitude")
    figure.colorbar(bottom, ax=axes[1], label="phase Q.u / rad")
    figure.suptitle(title)
    figure.savefig(out, dpi=110)
