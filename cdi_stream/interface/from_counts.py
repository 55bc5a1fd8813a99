"""From counts in memory to a reconstruction."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cdi_stream.errors import IntensitiesError
from cdi_stream.files.intensities.limits import require_intensities, require_mask
from cdi_stream.files.intensities.masks import apply_mask
from cdi_stream.files.intensities.read import mark_untrusted
from cdi_stream.files.intensities.volume import Intensities, require_signal
from cdi_stream.files.intensities.window import peak_of
from cdi_stream.interface.limits import require_method, require_search
from cdi_stream.interface.phase_counts import PhasedCounts, PhaseOptions, method_settings, phase_counts
from cdi_stream.interface.progress import ProgressCallback, ProgressReport
from cdi_stream.interface.reconstruction import Reconstruction
from cdi_stream.inversion.describe import describe
from cdi_stream.phasing.deadline import Deadline

_SOURCE = "counts"
"""Name of counts in memory, in errors and notes."""


def phase(
    counts: Intensities | ArrayLike,
    mask: ArrayLike | None = None,
    *,
    budget_s: float = 30.0,
    seed: int = 0,
    method: str = "auto",
    device: str = "cpu",
    progress: ProgressCallback | None = None,
) -> Reconstruction:
    """Return the object behind the counts of a diffraction pattern, with its verdict.

    The command ``cdi-stream phase`` runs the same code.

    Parameters
    ----------
    counts
        Raw counts, 2D or 3D, at least 8 voxels along each axis, zero frequency at voxel N//2; or the intensities
        that `cdi_stream.read` returns, which may hold the geometry.
    mask
        True or 1 = use; the shape of the counts, or 2D for all frames.
    budget_s
        Wall time for everything [s].  A good crystal ends the search before.
    seed
        Seed of the random starts.
    method
        ``auto``, ``recipe`` (``wu2021-2d``, one random start), ``object``, ``network`` or ``hybrid``.
    device
        ``cpu`` or ``cuda``.
    progress
        Function that is called with a `cdi_stream.Progress`, such as ``cdi_stream.progress_bar()``.

    Raises
    ------
    IntensitiesError
        If the counts or the mask cannot be used.
    ConfigError
        If any other argument is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> import cdi_stream as cdi
    >>> crystal = np.zeros((16, 16, 16))
    >>> crystal[5:11, 6:10, 6:11] = 1
    >>> counts = np.round(1e3 * np.abs(np.fft.fftshift(np.fft.fftn(crystal))) ** 2)
    >>> result = cdi.phase(counts, method="recipe", budget_s=10)
    >>> result.object.shape, result.object.dtype, result.metrics.r_p > 0.9
    ((16, 16, 16), dtype('complex64'), True)
    """
    require_search(budget_s, seed, device)
    with ProgressReport(progress, budget_s) as report:
        deadline = Deadline(budget_s, wait_turn=report.tick)
        report.stage("looking at the counts")
        intensities = usable_counts(counts, mask)
        require_method(method, intensities.counts.ndim)
        settings = method_settings(budget_s=budget_s, seed=int(seed))
        options = PhaseOptions(method=method, settings=settings, deadline=deadline, device=device, report=report.stage)
        return reconstruction_of(phase_counts(intensities, options))


def usable_counts(counts: Intensities | ArrayLike, mask: ArrayLike | None = None) -> Intensities:
    """Return counts with all unusable voxels marked; intensities of `cdi_stream.read` are marked already.

    Raises
    ------
    IntensitiesError
        If the counts or the mask cannot be used.
    """
    usable = None if mask is None else _usable_mask(mask)
    if isinstance(counts, Intensities):
        if usable is None:
            return counts
        masked = apply_mask(counts, usable, "mask")
        require_signal(masked)
        return replace(masked, peak=peak_of(masked))
    array = _plain_array(counts, "counts")
    require_intensities(array.shape, array.dtype, _SOURCE)
    plain = Intensities(
        counts=array,
        valid_pixels=np.ones(array.shape, dtype=bool),
        axes=tuple(f"axis {k}" for k in range(array.ndim)),
        source=_SOURCE,
    )
    return mark_untrusted(plain if usable is None else apply_mask(plain, usable, "mask"), is_plain=True)


def reconstruction_of(phased: PhasedCounts) -> Reconstruction:
    """Return a solution as a reconstruction on the grid of its input, in lab coordinates where they are known."""
    misfit, lab = phased.misfit, phased.lab
    in_lab: Any = {} if lab is None else describe(lab.density, lab.support, lab.affine)
    return Reconstruction(
        object=phased.density.detach().cpu().numpy(),
        support=phased.density_support.cpu().numpy(),
        metrics=replace(phased.metrics, chi2=misfit["chi2_cleaned"], r_p=misfit["r_p_cleaned"], **in_lab),
        verdict=replace(phased.verdict, reasons=tuple(phased.reasons)),
        affine=phased.intensities.affine,
        lab=lab,
        axes=phased.intensities.axes,
    )


def _usable_mask(mask: ArrayLike) -> NDArray[np.bool_]:
    array = _plain_array(mask, "mask")
    require_mask(array.shape, array.dtype, "mask")
    if array.dtype != bool and not np.isin(array, (0, 1)).all():
        raise IntensitiesError("mask: expected 1 where a voxel may be used and 0 elsewhere, got other values")
    return array.astype(bool)


def _plain_array(values: ArrayLike, name: str) -> NDArray[Any]:
    """Return values as an array; a path or a ragged list is refused."""
    if isinstance(values, str | Path):
        raise IntensitiesError(
            f"{name}: expected an array, got the path {str(values)!r}: give cdi_stream.read({str(values)!r})"
        )
    try:
        return np.asarray(values)
    except (TypeError, ValueError) as error:
        raise IntensitiesError(f"{name}: expected an array, got {type(values).__name__}: {error}") from error
