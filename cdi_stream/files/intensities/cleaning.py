"""Cleaning: blemishes of a pattern are masked and told, whatever file it came from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cdi_stream.files.intensities.volume import Bools, Intensities, photon_of
from cdi_stream.inversion.blemishes import find_blemishes
from cdi_stream.messages import read_only

N_TOLD = 3
"""How many places of blemishes are written out."""


def cleaned(found: Intensities) -> Intensities:
    """Mask hot voxels, lines and planes, and islands of other grains, saying how many and where.

    The Bragg peak is never masked; one that stands out as a hot voxel would is doubted.  `Intensities.blemishes` are
    the voxels that were masked.
    """
    blemishes = find_blemishes(found.counts, found.valid_pixels, photon=photon_of(found), wraps=found.is_periodic)
    told = (_told(blemishes.hot, "hot"), _told(blemishes.alien, "alien (of another grain)"))
    doubts = found.doubts
    if blemishes.lone_peak is not None:
        doubts += (
            f"the peak at {blemishes.lone_peak} is a single voxel, far brighter than all around it, and is kept: "
            "mask it if it is a hot voxel",
        )
    return replace(
        found,
        valid_pixels=read_only(found.valid_pixels & ~blemishes.voxels),
        blemishes=read_only(blemishes.voxels),
        notes=found.notes + tuple(filter(None, told)),
        doubts=doubts,
    )


def _told(voxels: Bools, what: str) -> str:
    places = [str(tuple(place)) for place in np.argwhere(voxels)[: N_TOLD + 1].tolist()]
    if not places:
        return ""
    listed = ", ".join(places[:N_TOLD]) + (", ..." if len(places) > N_TOLD else "")
    n = int(voxels.sum())
    return f"cleaning masked {n} {what} voxel{'s' if n > 1 else ''} at {listed}; --no-cleaning keeps them"
