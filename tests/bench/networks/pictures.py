"""Steps of one crystal beside each other, so that an eye can judge them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from cdi_stream.inversion.correct import centre_of_mass
from cdi_stream.inversion.describe import box_vox
from cdi_stream.phasing.align import align

LEVEL = 0.3
"""Amplitude, relative to the largest, from which a phase is shown."""


def draw(out: Path, title: str, steps: dict[str, Tensor]) -> None:
    """Amplitude and phase in two slices through the middle of each, laid on the last over shift, twin and phase."""
    last = _centred(list(steps.values())[-1])
    figure = Figure(figsize=(3.2 * len(steps), 11), layout="constrained")
    axes = figure.subplots(4, len(steps), squeeze=False)
    reach = int(0.65 * box_vox(last.abs().numpy()).max()) + 1
    steepest = float(np.quantile(np.abs(np.angle(_inside(_turned(last.numpy())))), 0.99))
    for column, (name, crystal) in enumerate(steps.items()):
        laid = _turned(align(last, crystal).crystal.numpy())
        for row, axis in enumerate((0, 1)):
            cut = _middle(laid.take(laid.shape[axis] // 2, axis), reach)
            inside = np.abs(cut) > LEVEL * np.abs(laid).max()
            phase = np.where(inside, np.angle(cut), np.nan)
            axes[2 * row, column].imshow(np.abs(cut), origin="lower", cmap="magma", vmin=0)
            axes[2 * row + 1, column].imshow(phase, origin="lower", cmap="coolwarm", vmin=-steepest, vmax=steepest)
        axes[0, column].set_title(name)
    figure.suptitle(f"{title}; phase within {steepest:.1f} rad")
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=90)


def _centred(crystal: Tensor) -> Tensor:
    """Its centre of mass at the origin, to a voxel."""
    centre = centre_of_mass(crystal.numpy())
    shifts = [n // 2 - round(at) for n, at in zip(crystal.shape, centre.tolist(), strict=True)]
    return crystal.roll(shifts, (0, 1, 2))


def _turned(crystal: NDArray[np.complex64]) -> NDArray[np.complex64]:
    """Its mean phase 0."""
    turned: NDArray[np.complex64] = crystal * np.exp(-1j * np.angle(_inside(crystal).sum()))
    return turned


def _inside(crystal: NDArray[np.complex64]) -> NDArray[np.complex64]:
    """Voxels of the crystal."""
    found: NDArray[np.complex64] = crystal[np.abs(crystal) > LEVEL * np.abs(crystal).max()]
    return found


def _middle(cut: NDArray[np.complex64], reach: int) -> NDArray[np.complex64]:
    """So many pixels to all sides of the origin."""
    spans = (slice(max(0, n // 2 - reach), n // 2 + reach) for n in cut.shape)
    return cut[tuple(spans)]
