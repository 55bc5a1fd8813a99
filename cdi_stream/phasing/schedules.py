"""Schedules of the automatic method, each for a crystal of some extent [voxels]."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """How one round of starts is run: support threshold, how even amplitudes are kept, and how large a support may be.

    ``margin`` is how much longer than its autocorrelation says the crystal may be, along each axis: that of a
    strained crystal is narrower than its shape's, that of faint data wider.
    """

    threshold: float = 0.3
    even: str | None = "CLIP[every=5,low=0.5,high=1.2]"
    margin: float = 1.4


VARIANTS = (
    Variant(),
    Variant(even="CLIP[every=10,low=0.5,high=1.2]", margin=1.03),
    Variant(threshold=0.35, even="CLIP[every=5,low=0.6,high=1.3]", margin=1.03),
    Variant(even=None, margin=1.03),
    Variant(threshold=0.25, even="CLIP[every=10,low=0.5,high=1.5]", margin=1.03),
    Variant(threshold=0.4, even="CLIP[every=5,low=0.8,high=1.2]", margin=1.03),
)
"""Rounds in turn: no one of them finds every crystal."""
FEW_VOX = 13.0
"""Extent below which most voxels are so near the surface that a loose support says too little."""


def explore_recipe(extent: float, how: Variant) -> str:
    """Schedule of the coarse level; each start ends without the constraint of even amplitudes."""
    wrap = f"SW[every=10,after=20,threshold={how.threshold},relative=rms,sigma={sigma_for(extent):.2f}]"
    even = f"{how.even}+" if how.even else ""
    return f"{wrap}+50*HIO+{even}150*HIO+200*RAAR+40*ER+CLIP[off]+10*ER"


def climb_recipe(extent: float) -> str:
    """Schedule of the levels between."""
    return f"{_wrap(0.22, extent)}+CLIP[low=0.6,high=1.4]+60*RAAR+20*ER+CLIP[off]+5*ER"


def final_recipes(extent: float) -> tuple[str, ...]:
    """Schedules of the finest level: the loose one, and the tight one if the crystal is of few voxels."""
    return loose_and_tight(extent) if extent < FEW_VOX else loose_and_tight(extent)[:1]


def loose_and_tight(extent: float) -> tuple[str, str]:
    """Schedules of the finest level, whatever the crystal's size."""
    return (
        f"{_wrap(0.2, extent)}+{_EVEN}+60*RAAR+20*ER+CLIP[off]+{_wrap(0.25, extent)}+60*ER",
        f"{_WRAP.format(0.3, 0.5)}+CLIP[low=0.5,high=1.2]+60*RAAR+20*ER+CLIP[off]+{_WRAP.format(0.25, 0.5)}+60*ER",
    )


def loose_end(extent: float) -> str:
    """End of a schedule on the finest level, for a crystal that was found in too tight a support."""
    return f"{_wrap(0.2, extent)}+{_EVEN}+40*ER+CLIP[off]+30*ER"


def settle_recipe(extent: float) -> str:
    """What makes crystals of different origin alike, if they are, without making others of them."""
    return f"{_wrap(0.25, extent)}+20*ER"


def finish_recipes(extent: float) -> tuple[str, ...]:
    """What may still make the winner better, as score and held-out voxels decide: another threshold, longer, evener."""
    return (
        f"{_wrap(0.25, extent)}+80*ER",
        f"{_wrap(0.3, extent)}+80*ER",
        f"{_wrap(0.4, extent)}+80*ER",
        f"{_wrap(0.3, extent)}+{_EVEN}+40*RAAR+20*ER+CLIP[off]+{_wrap(0.25, extent)}+40*ER",
        f"{_wrap(0.3, extent)}+200*RAAR+60*ER",
        f"{_wrap(0.5, extent)}+{_EVEN}+60*RAAR+40*ER+CLIP[off]+40*ER",
    )


_EVEN = "CLIP[low=0.7,high=1.3]"
_WRAP = "SW[every=10,after=0,threshold={},relative=rms,sigma={:.2f}]"


def _wrap(threshold: float, extent: float) -> str:
    return _WRAP.format(threshold, sigma_for(extent))


def sigma_for(extent: float) -> float:
    """Blur of the support updates [voxels] for a crystal of this extent: 0.6 at 9 voxels, 1 at 25."""
    return float(min(max(0.2 * extent**0.5, 0.4), 2.5))
