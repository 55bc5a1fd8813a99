"""Draw shapes of training crystals from semi-axes, as signed depths ``(batch, n**3)`` [voxels, positive inside]."""

from __future__ import annotations

from itertools import permutations, product

import torch
from torch import Generator, Tensor

from cdi_stream.training.drawing import Draws, uniform


def positions(n: int, device: torch.device, n_axes: int = 3) -> Tensor:
    """Return the positions ``(n**n_axes, n_axes)`` of the voxels of an array, from its origin at n//2."""
    axis = torch.arange(n, dtype=torch.float32, device=device) - n // 2
    return torch.stack(torch.meshgrid(*[axis] * n_axes, indexing="ij"), dim=-1).reshape(-1, n_axes)


def random_rotations(batch: int, generator: Generator) -> Tensor:
    """Return random rotations ``(batch, 3, 3)``, uniform over SO(3), by QR decomposition of Gaussian matrices."""
    q, r = torch.linalg.qr(torch.randn(batch, 3, 3, generator=generator, device=generator.device))
    q = q * torch.sign(torch.diagonal(r, dim1=-2, dim2=-1))[:, None, :]
    return q * torch.sign(torch.linalg.det(q))[:, None, None]


def superellipsoids(semi_axes: Tensor, n: int, generator: Generator) -> Tensor:
    """Return the signed depth ``(batch, n**3)`` [voxels, positive inside] of superellipsoids.

    Source: Wu et al., npj Computational Materials 7, 175 (2021), doi:10.1038/s41524-021-00644-z, equation 4.
    """
    batch = semi_axes.shape[0]
    e = uniform((batch, 1), (0.3, 1.3), generator)
    m = uniform((batch, 1), (0.3, 1.3), generator)
    x, y, z = (positions(n, semi_axes.device)[None] / semi_axes[:, None, :]).abs().clamp_min(1e-4).unbind(-1)
    radius = ((x ** (2 / e) + y ** (2 / e)) ** (e / m) + z ** (2 / m)) ** (m / 2)
    return (1 - radius) * semi_axes.amin(-1, keepdim=True)


def polyhedra(semi_axes: Tensor, n: int, generator: Generator, n_planes: int = 14) -> Tensor:
    """Return the signed depth ``(batch, n**3)`` [voxels, positive inside] of convex polyhedra.

    Each is cut by ``n_planes`` random planes at 0.55 to 1 of the ellipsoid's extent along their normals.
    """
    batch, position = semi_axes.shape[0], positions(n, semi_axes.device)
    normals = torch.nn.functional.normalize(
        torch.randn(batch, n_planes, 3, generator=generator, device=generator.device), dim=-1
    )
    reach = (normals * semi_axes[:, None, :]).norm(dim=-1) * uniform((batch, n_planes), (0.55, 1.0), generator)
    box = (semi_axes[:, None, :] - position.abs()).amin(-1)
    cuts = (reach[:, :, None] - normals @ position.T).amin(1)
    return torch.minimum(box, cuts)


def wulff(semi_axes: Tensor, n: int, generator: Generator) -> Tensor:
    """Return the signed depth ``(batch, n**3)`` [voxels, positive inside] of crystals with {100}, {110}, {111} facets.

    Each family of facets lies at its own distance from the centre, 0.7 to 1 of the smallest semi-axis.  Source: Wulff,
    Zeitschrift fuer Kristallographie 34, 449 (1901): the distances are proportional to surface energies.
    """
    families = _families(semi_axes.device)
    reach = semi_axes.amin(-1, keepdim=True)
    depth = torch.full((semi_axes.shape[0], n**3), torch.inf, device=semi_axes.device)
    for normals in families:
        distance = reach * uniform((semi_axes.shape[0], 1), (0.7, 1.0), generator)
        along = (normals @ positions(n, semi_axes.device).T).amax(0)
        depth = torch.minimum(depth, distance - along)
    return depth


def winterbottom(semi_axes: Tensor, n: int, generator: Generator) -> Tensor:
    """Return the signed depth ``(batch, n**3)`` [voxels, positive inside] of Wulff crystals on a substrate.

    The substrate is a plane of random direction, at 0.2 to 0.7 of the smallest semi-axis from the centre.  Source:
    Winterbottom, Acta Metallurgica 15, 303 (1967).
    """
    normal = torch.nn.functional.normalize(
        torch.randn(semi_axes.shape[0], 3, generator=generator, device=generator.device), dim=-1
    )
    distance = semi_axes.amin(-1, keepdim=True) * uniform((semi_axes.shape[0], 1), (0.2, 0.7), generator)
    cut = distance - normal @ positions(n, semi_axes.device).T
    return torch.minimum(wulff(semi_axes, n, generator), cut)


def _families(device: torch.device) -> list[Tensor]:
    """Return the unit normals of {100}, {110} and {111}."""
    families = []
    for indices in ((1, 0, 0), (1, 1, 0), (1, 1, 1)):
        signed = {
            tuple(s * k for s, k in zip(signs, order, strict=True))
            for order in permutations(indices)
            for signs in product((1, -1), repeat=3)
        }
        families.append(
            torch.nn.functional.normalize(torch.tensor(sorted(signed), dtype=torch.float32), dim=-1).to(device)
        )
    return families


SHAPES: Draws = {
    "superellipsoid": superellipsoids,
    "polyhedron": polyhedra,
    "wulff": wulff,
    "winterbottom": winterbottom,
}
