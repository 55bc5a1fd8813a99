"""Recipes of the automatic method, each for a crystal with a given mean extent [voxels].

All supports are thresholded against the rms amplitude inside the present support, and blurred by `sigma_for`.
"""

from __future__ import annotations

from dataclasses import dataclass

from cdi_stream.phasing.shrink_wrap import ShrinkWrap
from cdi_stream.phasing.steps import NO_CLIP, AmplitudeClip, Cycles, Recipe, recipe_of
from cdi_stream.phasing.tuning import TUNING

_STRONG_CLIP = AmplitudeClip(every=5, low=0.5, high=1.2)
"""Clip of the first variant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """Variant of the schedule of a round of random starts.

    Parameters
    ----------
    threshold
        Share of the rms amplitude inside the support at which the support ends.
    clip
        Limits of the amplitude inside the support; None leaves it free.
    margin
        Largest length of the crystal, along each axis, over the length that its autocorrelation gives.  The
        autocorrelation of a strained crystal is narrower than that of its shape; that of faint data is wider.
    """

    threshold: float = 0.3
    clip: AmplitudeClip | None = _STRONG_CLIP
    margin: float = 1.4


VARIANTS = (
    Variant(),
    Variant(clip=AmplitudeClip(every=10, low=0.5, high=1.2), margin=1.03),
    Variant(threshold=0.35, clip=AmplitudeClip(every=5, low=0.6, high=1.3), margin=1.03),
    Variant(clip=None, margin=1.03),
    Variant(threshold=0.25, clip=AmplitudeClip(every=10, low=0.5, high=1.5), margin=1.03),
    Variant(threshold=0.4, clip=AmplitudeClip(every=5, low=0.8, high=1.2), margin=1.03),
)
"""Variants of the rounds of random starts, used in turn: no single variant finds every crystal."""

TIGHT_SIGMA_VOX = 0.5
"""Blur of the tight supports of small crystals [voxels], whatever their extent."""

_MILD_CLIP = AmplitudeClip(low=0.7, high=1.3)
"""Clip of the finest grid: mild, so that a crystal with an uneven amplitude is still described."""


def explore_recipe(extent: float, variant: Variant, length: float = 1.0) -> Recipe:
    """Return the recipe of the random starts on the coarsest grid; its last cycles do not clip the amplitude.

    ``length`` is the number of cycles between the first and the last ones, relative to the full schedule.
    """
    clip = (variant.clip,) if variant.clip else ()
    return recipe_of(
        _wrap(variant.threshold, _sigma(extent), after=20),
        Cycles("HIO", 50),
        *clip,
        Cycles("HIO", round(150 * length)),
        Cycles("RAAR", round(200 * length)),
        Cycles("ER", round(40 * length)),
        NO_CLIP,
        Cycles("ER", 10),
    )


def climb_recipe(extent: float) -> Recipe:
    """Return the recipe of the grids between the coarsest and the finest."""
    return _clipped(_wrap(0.22, _sigma(extent)), n_raar=60, n_er=20, n_free=5)


def mend_recipe(extent: float) -> Recipe:
    """Return the recipe that mends the best candidates on the coarsest grid before they get their details.

    The random starts end with a tight support, which cuts into strongly strained crystals.  RAAR in a looser support,
    with the amplitude clipped, brings back the parts that were cut off; descent alone does not.  ER in a tight support
    then takes away the rim that a looser one gets from measured counts (decision record 0029).
    """
    loose, tight = (_wrap(threshold, _sigma(extent)) for threshold in (0.2, 0.3))
    return recipe_of(loose, _MILD_CLIP, Cycles("RAAR", 60), tight, Cycles("ER", 20), NO_CLIP, Cycles("ER", 20))


def final_recipes(extent: float) -> tuple[Recipe, ...]:
    """Return the recipes of the finest grid, from which the search takes the best result.

    A crystal of a coarser grid lacks its details, which descent adds.  A strongly strained crystal also lacks parts
    that the coarser grids have cut off: RAAR with a clipped amplitude brings them back, but harms uneven crystals.  A
    crystal of few voxels has few counts outside of the coarsest grid, and most of its voxels lie at the surface: it
    needs projections to the end, with a loose and with a tight support.
    """
    if extent < TUNING.small_crystal_vox:
        return loose_and_tight(extent)
    widest, loose, last = (_wrap(threshold, _sigma(extent)) for threshold in (0.2, 0.22, 0.25))
    descend = recipe_of(None, Cycles("AER", 10), loose, Cycles("AER", 20), last, Cycles("AER", 10))
    mend = recipe_of(widest, _MILD_CLIP, Cycles("RAAR", 60), Cycles("ER", 20), NO_CLIP, loose, Cycles("AER", 20))
    return descend, mend


def middle_recipe(extent: float) -> Recipe:
    """Return the recipe of the grid next to the coarsest, on which the crystal of a large volume gets most details.

    Fewer steps leave more of a rim about a measured crystal (decision record 0031).
    """
    return recipe_of(_wrap(0.22, _sigma(extent), after=20), Cycles("AER", 60))


def large_recipe(extent: float) -> Recipe:
    """Return the recipe of the finest grid of a large volume.

    Its descent ends with the loose support: a tight one cuts into strained crystals (decision record 0024).  Half as
    many steps explain the counts worse (decision record 0031).
    """
    if extent < TUNING.small_crystal_vox:
        return final_recipes(extent)[-1]
    return recipe_of(_wrap(0.22, _sigma(extent), after=10), Cycles("AER", 20))


def loose_and_tight(extent: float) -> tuple[Recipe, Recipe]:
    """Return the recipes of projections on the finest grid, with a loose and with a tight support, for any extent."""
    loose = _final(_wrap(0.2, _sigma(extent)), _MILD_CLIP, _wrap(0.25, _sigma(extent)))
    tight = _final(_wrap(0.3, TIGHT_SIGMA_VOX), AmplitudeClip(low=0.5, high=1.2), _wrap(0.25, TIGHT_SIGMA_VOX))
    return loose, tight


def _final(first: ShrinkWrap, clip: AmplitudeClip, last: ShrinkWrap) -> Recipe:
    return recipe_of(first, clip, Cycles("RAAR", 60), Cycles("ER", 20), NO_CLIP, last, Cycles("ER", 60))


def loose_end(extent: float) -> Recipe:
    """Return the last part of a recipe for a large crystal whose support was tight before."""
    return recipe_of(_wrap(0.2, _sigma(extent)), _MILD_CLIP, Cycles("ER", 40), NO_CLIP, Cycles("ER", 30))


def coherence_recipe(extent: float) -> Recipe:
    """Return the cycles between two refinements of a coherence kernel, on the coarsest grid."""
    return _clipped(_wrap(0.25, _sigma(extent)), n_raar=40, n_er=10, n_free=10)


def _clipped(wrap: ShrinkWrap, n_raar: int, n_er: int, n_free: int) -> Recipe:
    """Return cycles of RAAR and ER with a clipped amplitude, then of ER with a free amplitude."""
    clip = AmplitudeClip(low=0.6, high=1.4)
    return recipe_of(wrap, clip, Cycles("RAAR", n_raar), Cycles("ER", n_er), NO_CLIP, Cycles("ER", n_free))


def settle_recipe(extent: float) -> Recipe:
    """Return the recipe that settles candidates on the coarsest grid before they are compared.

    A few ER cycles, each candidate in its own support, remove differences of their histories.  They change a crystal
    too little to turn a wrong one into a right one.
    """
    return recipe_of(_wrap(0.25, _sigma(extent)), Cycles("ER", 20))


def finish_recipes(extent: float) -> tuple[Recipe, ...]:
    """Return the recipes that are tried on the winner: other thresholds, more cycles, and a clipped amplitude."""
    sigma = _sigma(extent)
    return (
        recipe_of(_wrap(0.25, sigma), Cycles("ER", 80)),
        recipe_of(_wrap(0.3, sigma), Cycles("ER", 80)),
        recipe_of(_wrap(0.4, sigma), Cycles("ER", 80)),
        recipe_of(
            _wrap(0.3, sigma),
            _MILD_CLIP,
            Cycles("RAAR", 40),
            Cycles("ER", 20),
            NO_CLIP,
            _wrap(0.25, sigma),
            Cycles("ER", 40),
        ),
        recipe_of(_wrap(0.3, sigma), Cycles("RAAR", 200), Cycles("ER", 60)),
        recipe_of(_wrap(0.5, sigma), _MILD_CLIP, Cycles("RAAR", 60), Cycles("ER", 40), NO_CLIP, Cycles("ER", 40)),
    )


def _wrap(threshold: float, sigma_vox: float, after: int = 0) -> ShrinkWrap:
    return ShrinkWrap(every=10, after=after, threshold=threshold, relative="rms", sigma_vox=sigma_vox)


def _sigma(extent: float) -> float:
    """Return `sigma_for` in steps of 0.01 voxels, as recipes print it."""
    return round(sigma_for(extent), 2)


def sigma_for(extent: float) -> float:
    """Return the blur of the support updates [voxels] for a crystal of this extent: 0.6 at 9 voxels, 1 at 25."""
    return float(min(max(0.2 * extent**0.5, 0.4), 2.5))
