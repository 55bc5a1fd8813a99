"""Facets, the flat parts of the surface of a crystal: area, normal, strain and displacement of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cdi_stream.geometry.affine import Floats
from cdi_stream.physics.surface import Surface, Triangles, unit


@dataclass(frozen=True, slots=True, kw_only=True)
class Facet:
    """A flat part of the surface; means are weighted by area, and are NaN if no value is known.

    Parameters
    ----------
    normal
        Outward unit normal in lab axes (x, y, z), ``(3,)``.
    area_m2
        Area of the flat part, without rounded edges [m^2].
    strain, strain_spread
        Mean and standard deviation of the strain along Q.
    displacement_m
        Mean displacement along Q [m].
    triangles
        Indices of its triangles in the surface.
    """

    normal: Floats
    area_m2: float
    strain: float
    strain_spread: float
    displacement_m: float
    triangles: NDArray[np.intp]


def facets_of(surface: Surface, tolerance_deg: float = 10.0, least_share: float = 0.02) -> tuple[Facet, ...]:
    """Return the facets of a surface, the largest first.

    Triangles whose normals lie within ``tolerance_deg`` of the direction with most area are taken and divided into
    connected pieces.  Pieces with at least ``least_share`` of the whole area are facets.  This is repeated with the
    triangles that remain.  A sphere has no facets if a cap with that half angle is smaller than a facet:
    (1 - cos tolerance) / 2 < least_share.
    """
    normals = unit(surface.normals[surface.triangles].sum(axis=1))
    area = np.linalg.norm(surface.area_vectors_m2, axis=1)
    least, cosine = least_share * area.sum(), float(np.cos(np.deg2rad(tolerance_deg)))
    facets: list[Facet] = []
    free = np.ones(len(area), dtype=bool)
    while True:
        near = free & (normals @ _densest(normals, area * free, cosine) > cosine)
        if area[near].sum() < least or not near.any():
            return tuple(sorted(facets, key=lambda facet: -facet.area_m2))
        facets += [_facet(surface, piece) for piece in _pieces(surface.triangles, near) if area[piece].sum() >= least]
        free &= ~near


def _densest(normals: Floats, area: Floats, cosine: float, n_shifts: int = 10) -> Floats:
    """Return the direction with most area around it: the best of a grid, moved to the mean of the normals near it."""
    directions = _directions()
    within = (normals @ directions.T > cosine).T @ area
    best = directions[np.argmax(within)]
    for _ in range(n_shifts):
        best = unit(normals.T @ (area * (normals @ best > cosine)))
    result: Floats = best
    return result


@lru_cache(maxsize=1)
def _directions(n: int = 800) -> Floats:
    """Return ``n`` unit vectors, evenly spread over the sphere on a Fibonacci spiral, ``(n, 3)``."""
    z = 1 - (2 * np.arange(n) + 1) / n
    turn = np.pi * (1 + 5**0.5) * np.arange(n)
    radius = np.sqrt(1 - z**2)
    return np.stack((radius * np.cos(turn), radius * np.sin(turn), z), axis=1)


def _pieces(triangles: Triangles, selection: NDArray[np.bool_]) -> Iterator[NDArray[np.intp]]:
    """Yield the indices of the triangles of each connected piece of a selection."""
    index = np.flatnonzero(selection)
    a, b, c = triangles[index].T
    edges = (np.ones(2 * len(index)), (np.concatenate((a, b)), np.concatenate((b, c))))
    n_vertices = int(triangles.max()) + 1
    _, label = connected_components(coo_array(edges, shape=(n_vertices, n_vertices)), directed=False)
    for name in np.unique(label[a]):
        yield index[label[a] == name]


def _facet(surface: Surface, piece: NDArray[np.intp]) -> Facet:
    vectors = surface.area_vectors_m2[piece]
    weight = np.linalg.norm(vectors, axis=1)
    corners = surface.triangles[piece]
    strain, spread = _moments(surface.strain[corners].mean(axis=1), weight)
    return Facet(
        normal=unit(vectors.sum(axis=0)),
        area_m2=float(weight.sum()),
        strain=strain,
        strain_spread=spread,
        displacement_m=_moments(surface.displacement_m[corners].mean(axis=1), weight)[0],
        triangles=piece,
    )


def _moments(values: Floats, weight: Floats) -> tuple[float, float]:
    """Return the weighted mean and standard deviation of the finite values; NaN if there is none."""
    weight = weight * np.isfinite(values)
    if not weight.any():
        return np.nan, np.nan
    mean = np.average(np.nan_to_num(values), weights=weight)
    return float(mean), float(np.sqrt(np.average((np.nan_to_num(values) - mean) ** 2, weights=weight)))
