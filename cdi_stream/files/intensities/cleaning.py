"""Mask hot voxels and alien peaks of a pattern, and report them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cdi_stream.files.intensities.volume import Bools, Intensities, photon_of
from cdi_stream.inversion.blemishes import find_blemishes
from cdi_stream.messages import read_only

N_LISTED = 3
"""Largest number of blemishes whose voxel indices a note lists."""


def mask_blemishes(intensities: Intensities) -> Intensities:
    """Return intensities with hot voxels, lines, planes and alien peaks masked; notes say how many and where.

    The Bragg peak is never masked; a peak as isolated as a hot voxel gets a doubt.  `Intensities.blemishes` holds the
    masked voxels.
    """
    blemishes = find_blemishes(
        intensities.counts, intensities.valid_pixels, photon=photon_of(intensities), wraps=intensities.is_periodic
    )
    notes = (_note(blemishes.hot, "hot"), _note(blemishes.alien, "alien (of another grain)"))
    doubts = intensities.doubts
    if blemishes.lone_peak is not None:
        doubts += (
            f"the peak at {blemishes.lone_peak} is a single voxel, far brighter than its neighbours, and is kept: "
            "mask it if it is a hot voxel",
        )
    return replace(
        intensities,
        valid_pixels=read_only(intensities.valid_pixels & ~blemishes.voxels),
        blemishes=read_only(blemishes.voxels),
        notes=intensities.notes + tuple(filter(None, notes)),
        doubts=doubts,
    )


def _note(voxels: Bools, kind: str) -> str:
    places = [str(tuple(place)) for place in np.argwhere(voxels)[: N_LISTED + 1].tolist()]
    if not places:
        return ""
    indices = ", ".join(places[:N_LISTED]) + (", ..." if len(places) > N_LISTED else "")
    n = int(voxels.sum())
    return f"cleaning masked {n} {kind} voxel{'s' if n > 1 else ''} at {indices}; --no-cleaning keeps them"
