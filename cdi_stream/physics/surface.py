"""Surface of a crystal: a triangle mesh in lab coordinates [m], with the strain just beneath it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates
from skimage.measure import marching_cubes

from cdi_stream.errors import CurveError
from cdi_stream.geometry.affine import AffineMap, Floats
from cdi_stream.physics.lattice import Lattice
from cdi_stream.physics.strain import typical_amplitude

Triangles = NDArray[np.intp]


@dataclass(frozen=True, slots=True, kw_only=True)
class Surface:
    """A closed triangle mesh; r = 0 is the origin voxel N//2 of the array of the crystal.

    Parameters
    ----------
    vertices_m
        Lab positions (x, y, z) of the vertices, ``(n, 3)`` [m].
    triangles
        Indices of the vertices of each triangle, ``(m, 3)``; counter-clockwise seen from outside.
    normals
        Outward unit normals at the vertices, ``(n, 3)``.
    strain, displacement_m
        Strain and displacement [m] along Q just inside the surface at each vertex, ``(n,)``; NaN if not known.
    """

    vertices_m: Floats
    triangles: Triangles
    normals: Floats
    strain: Floats
    displacement_m: Floats

    @property
    def area_vectors_m2(self) -> Floats:
        """Outward normal times area of each triangle, ``(m, 3)`` [m^2]."""
        return _area_vectors(self.vertices_m, self.triangles)

    @property
    def area_m2(self) -> float:
        """Area of the whole surface [m^2]."""
        return float(np.linalg.norm(self.area_vectors_m2, axis=1).sum())

    @property
    def volume_m3(self) -> float:
        """Volume inside the surface [m^3], by Gauss's theorem."""
        return float((self.vertices_m[self.triangles].mean(axis=1) * self.area_vectors_m2).sum() / 3)


def surface_of(lattice: Lattice, share: float = 0.5, blur_vox: float = 1.0, depth_vox: float = 1.0) -> Surface:
    """Return the surface of a crystal, where its amplitude falls to ``share`` of `typical_amplitude`.

    By marching cubes: Lewiner et al. (2003), J. Graph. Tools 8, 1, doi:10.1080/10867651.2003.10487582, in scikit-image.

    Parameters
    ----------
    lattice
        Maps of the crystal.
    share
        Amplitude at the surface, relative to the typical amplitude.
    blur_vox
        Standard deviation of the blur before [voxels]; without it the normals follow the steps of the voxels.
    depth_vox
        Depth beneath the surface at which strain and displacement are read [voxels].

    Raises
    ------
    CurveError
        If no voxel reaches that amplitude.
    """
    amplitude = np.abs(lattice.density).astype(float)
    level = share * typical_amplitude(amplitude)
    margin = 2 + int(2 * blur_vox)  # empty voxels that close the mesh of a crystal at the edge of its array
    smooth_amplitude = gaussian_filter(np.pad(amplitude, margin), blur_vox, mode="constant")
    if not smooth_amplitude.max() > level:
        raise CurveError(
            f"surface: expected amplitudes above {share} of the typical amplitude, got none; check the support"
        )
    index, triangles, _, _ = marching_cubes(smooth_amplitude, level)
    affine = lattice.affine
    vertices = (index - margin - np.array(affine.shape) // 2) @ affine.br.T
    # scikit-image winds inwards in a right-handed array; lab [z, y, x] is left-handed in (x, y, z).
    triangles = triangles.astype(np.intp)[:, :: -affine.handedness]
    normals = _vertex_normals(vertices, triangles)
    inside_m = vertices - depth_vox * np.cbrt(affine.voxel_volume_m3) * normals
    return Surface(
        vertices_m=vertices,
        triangles=triangles,
        normals=normals,
        strain=_interpolate(lattice.strain, affine, inside_m),
        displacement_m=_interpolate(lattice.displacement_m, affine, inside_m),
    )


def unit(vectors: Floats) -> Floats:
    """Return vectors ``(..., 3)`` scaled to length 1; zero vectors stay zero."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    result: Floats = np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)
    return result


def _area_vectors(vertices: Floats, triangles: Triangles) -> Floats:
    a, b, c = np.moveaxis(vertices[triangles], 1, 0)
    return np.cross(b - a, c - a) / 2


def _vertex_normals(vertices: Floats, triangles: Triangles) -> Floats:
    """Return the mean normal of the triangles about each vertex, weighted by area, ``(n, 3)``."""
    total = np.zeros_like(vertices)
    np.add.at(total, triangles, _area_vectors(vertices, triangles)[:, None])
    return unit(total)


def _interpolate(field: Floats, affine: AffineMap, places_m: Floats) -> Floats:
    """Return the trilinear interpolation of the finite values of a field at each place; NaN if there is none."""
    index = affine.index_at(places_m)
    weight = map_coordinates(np.isfinite(field).astype(float), index, order=1)
    value = map_coordinates(np.nan_to_num(field), index, order=1)
    result: Floats = np.divide(value, weight, out=np.full(weight.shape, np.nan), where=weight > 1e-6)
    return result
