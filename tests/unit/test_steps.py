"""Recipes built from steps read back from their text to the same steps."""

from __future__ import annotations

import pytest

from cdi_stream.phasing.recipe import parse_recipe
from cdi_stream.phasing.schedules import (
    VARIANTS,
    climb_recipe,
    explore_recipe,
    finish_recipes,
    loose_and_tight,
    loose_end,
    settle_recipe,
)
from cdi_stream.phasing.shrink_wrap import ShrinkWrap
from cdi_stream.phasing.steps import NO_CLIP, AmplitudeClip, Average, Cycles, Detwin, SupportMode, recipe_of

EXTENTS = (1.0, 7.3, 12.9, 25.0, 400.0)
OTHERS = recipe_of(
    None,
    Cycles("HIO", 3, 0.75),
    ShrinkWrap(every=5, after=0, threshold=0.15, relative="mean", sigma_vox=0.0),
    SupportMode("border"),
    Detwin(),
    AmplitudeClip(every=3, low=0.5, high=1.25),
    Cycles("DM", 2, 1.0),
    NO_CLIP,
    Average(4),
)


def all_recipes():
    yield OTHERS
    for extent in EXTENTS:
        yield from (explore_recipe(extent, variant) for variant in VARIANTS)
        yield from (climb_recipe(extent), loose_end(extent), settle_recipe(extent))
        yield from (*loose_and_tight(extent), *finish_recipes(extent))


def test_the_text_of_a_recipe_reads_back_to_its_steps():
    for recipe in all_recipes():
        assert parse_recipe(recipe.text) == recipe


def test_recipes_one_after_the_other_are_their_joined_text():
    first, second = loose_and_tight(9.0)
    joined = first.then(second).then(OTHERS)
    assert joined == parse_recipe(f"{first.text}+{second.text}+{OTHERS.text}")
    assert joined.cycles == first.cycles + second.cycles + OTHERS.cycles


@pytest.mark.parametrize(("extent", "sigma"), [(1.0, 0.4), (9.0, 0.6), (25.0, 1.0), (12.9, 0.72), (400.0, 2.5)])
def test_the_blur_follows_the_extent_in_steps_of_a_hundredth(extent, sigma):
    assert f"sigma={sigma}]" in climb_recipe(extent).text
