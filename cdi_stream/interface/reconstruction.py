"""A reconstruction: the object with its metrics and verdict, and its lattice in lab coordinates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cdi_stream.errors import GeometryError
from cdi_stream.files.intensities.objects import LabObject
from cdi_stream.files.plot import Picture, lab_picture, voxel_picture
from cdi_stream.geometry.affine import AffineMap, Floats
from cdi_stream.interface.metric_rows import Row, metric_rows
from cdi_stream.interface.notebook import html_page, png_of, slices_figure, without_ramp
from cdi_stream.interface.object_file import save_object
from cdi_stream.interface.result_export import save_lab_object
from cdi_stream.messages import Crystal, Verdict, read_only
from cdi_stream.metrics import Metrics
from cdi_stream.physics.lattice import Lattice, lattice_of
from cdi_stream.physics.surface import Surface, surface_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LAB_SUFFIXES = (".h5", ".cxi", ".vti")
"""Suffixes of the file formats that hold the object in lab axes alone."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Reconstruction:
    """Object reconstructed from a diffraction pattern, with its metrics and its verdict.

    A notebook shows a reconstruction as a table of its numbers with a picture.

    Parameters
    ----------
    object
        Complex density, complex64, in the shape of the counts, origin at voxel N//2 on each axis.  The transform
        F(q) = sum object exp(+i q.r) gives the counts; a displacement u has the phase +Q.u.
    support
        True where the object may differ from zero; same shape.
    metrics
        Numbers with their units in ``dataclasses.fields(metrics)``; NaN where a number is not known.  ``chi2`` and
        ``r_p`` are over all valid voxels of the counts that cleaning left, with one fitted scale.
    verdict
        ``grade`` (``good``, ``doubtful``, ``failed``; ``unknown`` of a file that holds no verdict) and ``reasons``.
    affine
        Map of the diffraction of ``object``: Q at each voxel [1/m]; None where the geometry is unknown.
    lab
        The object in lab coordinates ``(z, y, x)``: ``density``, ``support`` and ``affine``, with cubic voxels and the
        centre of mass at the origin voxel; None where the geometry is unknown.
    axes
        Name of each axis of ``object``.
    """

    object: NDArray[np.complex64]
    support: NDArray[np.bool_]
    metrics: Metrics
    verdict: Verdict
    affine: AffineMap | None = None
    lab: LabObject | None = None
    axes: tuple[str, ...] = ()

    def displacement(self) -> Floats:
        """Return the displacement along Q in lab coordinates.

        The unwrapped phase over abs(Q), less the ramp of the mean lattice.

        Returns
        -------
        Array ``(z, y, x)`` [m] of the shape of ``lab.density``, its mean zero; NaN outside the crystal.

        Raises
        ------
        GeometryError
            If the geometry is unknown.
        """
        return self._lattice.displacement_m

    def strain(self) -> Floats:
        """Return the strain along Q in lab coordinates, relative to the mean lattice.

        The component Qhat.grad(u) of the strain tensor, positive where the lattice is wider than its mean.

        Returns
        -------
        Array ``(z, y, x)``, a ratio, of the shape of ``lab.density``; NaN outside the crystal.

        Raises
        ------
        GeometryError
            If the geometry is unknown.
        """
        return self._lattice.strain

    def d_spacing(self) -> Floats:
        """Return the spacing of the lattice planes in lab coordinates, 2 pi/abs(Q) times (1 + strain).

        Returns
        -------
        Array ``(z, y, x)`` [m] of the shape of ``lab.density``; NaN outside the crystal.

        Raises
        ------
        GeometryError
            If the geometry is unknown.
        """
        return self._lattice.spacing_m

    def surface(self) -> Surface:
        """Return the surface of the crystal as a closed triangle mesh in lab metres, with the strain beneath it.

        Raises
        ------
        GeometryError
            If the geometry is unknown.
        CurveError
            If no amplitude is large enough for a surface.
        """
        return surface_of(self._lattice)

    def save(self, path: str | Path) -> Path:
        """Write the reconstruction into a file that `cdi_stream.load_result` reads, and return the file's path.

        Parameters
        ----------
        path
            Name of the file; its suffix is the format.  ``.npz`` holds everything.  ``.h5`` (as the live service
            writes results), ``.cxi`` (silx, PyNX, cdiutils) and ``.vti`` (ParaView) hold the object in lab coordinates
            alone; a ``.vti`` file cannot be read back.

        Raises
        ------
        ConfigError
            If the suffix is another, or the file cannot be written.
        GeometryError
            If a format needs lab coordinates and the geometry is unknown.
        """
        path = Path(path)
        if path.suffix.lower() not in LAB_SUFFIXES:
            return save_object(
                path,
                self.object,
                self.support,
                lab=self.lab,
                about={"affine": self.affine, "metrics": self.metrics, "verdict": self.verdict, "axes": self.axes},
            )
        return save_lab_object(path, self._lab_crystal(f"a {path.suffix} file"), self.metrics)

    def plot(self) -> Figure:
        """Return a matplotlib figure of central slices, amplitude above phase; a notebook shows it.

        In lab axes and nanometres where the geometry is known, else in voxels.

        Raises
        ------
        ConfigError
            If matplotlib is not installed.
        """
        return slices_figure(self._picture(), self._title())

    def _picture(self) -> Picture:
        if self.lab is not None:
            return lab_picture(self.lab.density, float(np.linalg.norm(self.lab.affine.br[:, 0])))
        axes = self.axes or tuple(f"axis {k}" for k in range(self.object.ndim))
        return voxel_picture(without_ramp(self.object), axes)

    def _title(self) -> str:
        return f"{self.verdict.grade}: chi2 {self.metrics.chi2:.2g}, r_p {self.metrics.r_p:.4f}"

    @cached_property
    def _lattice(self) -> Lattice:
        return lattice_of(self._lab_crystal("a lattice"))

    def _lab_crystal(self, purpose: str) -> Crystal:
        """Return the crystal in lab coordinates; raises `GeometryError` with the purpose if there is none."""
        if self.lab is None:
            raise GeometryError(
                f"{purpose}: expected a reconstruction with its geometry, got one without: phase a recorded scan "
                "(cdi_stream.read), or give the beamline (cdi_stream.reconstruct)"
            )
        return Crystal(
            density=self.lab.density,
            support=self.lab.support,
            affine=self.lab.affine,
            metrics=self.metrics,
            verdict=self.verdict,
        )

    def _rows(self) -> Iterator[Row]:
        return metric_rows(self.metrics)

    def __post_init__(self) -> None:
        """Make the arrays read-only."""
        super().__setattr__("object", read_only(np.asarray(self.object, dtype=np.complex64)))
        super().__setattr__("support", read_only(np.asarray(self.support, dtype=bool)))

    def __repr__(self) -> str:
        """Return shape, verdict and numbers in one line."""
        shape = " x ".join(map(str, self.object.shape))
        numbers = ", ".join(f"{row.name} {row.text}" for row in self._rows())
        return f"<Reconstruction of {shape} voxels: {self.verdict.grade}; {numbers}>"

    def _repr_html_(self) -> str:
        """Return the table and picture that a notebook shows."""
        return html_page(self.verdict, list(self._rows()), png_of(self._picture(), self._title()))
