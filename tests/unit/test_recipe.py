"""Recipes: their text, and the loop that runs them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cdi_stream.errors import ConfigError
from cdi_stream.fourier import from_fourier_order, to_fourier_order, twin
from cdi_stream.phasing.projections import Measurement, error_reduction, project_magnitude, reciprocal
from cdi_stream.phasing.recipe import Step, SupportUpdate, parse_recipe, random_start, run_recipe
from cdi_stream.phasing.support import border_support, threshold_support

SHAPE = (16, 16, 16)
FIXED = SupportUpdate(every=0)


def box(shape: tuple[int, ...] = SHAPE, size: int = 5) -> Tensor:
    support = torch.zeros(shape, dtype=torch.bool)
    support[tuple(slice(0, size) for _ in shape)] = True
    return support


def strained_crystal() -> Tensor:
    steps = torch.stack(torch.meshgrid(*map(torch.arange, SHAPE), indexing="ij")).float()
    phase = 0.15 * steps[0] * steps[1] - 0.2 * steps[2]
    return box() * (1 + 0.2 * steps[1] / 5) * torch.polar(torch.ones_like(phase), phase)


def measured(crystal: Tensor) -> Measurement:
    ones = torch.ones(crystal.shape)
    return Measurement(magnitude=reciprocal(crystal, crystal.ndim).abs(), gain=ones, valid=ones.bool())


def misfit(crystal: Tensor, data: Measurement) -> float:
    return float((reciprocal(crystal, 3).abs() - data.magnitude).norm() / data.magnitude.norm())


def start() -> tuple[Measurement, Tensor, Tensor]:
    data = measured(strained_crystal())
    return data, random_start(data, torch.Generator().manual_seed(1))[0], box()


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("20*ER", [("ER", 20, 0.9)]),
        ("20*ER+30*HIO", [("ER", 20, 0.9), ("HIO", 30, 0.9)]),
        (" 5 * HIO[beta=0.75] + 1*ER ", [("HIO", 5, 0.75), ("ER", 1, 0.9)]),
        ("5*HIO[beta=1]", [("HIO", 5, 1.0)]),
        ("5*HIO[beta=.5]", [("HIO", 5, 0.5)]),
    ],
)
def test_a_recipe_is_read(text, steps):
    recipe = parse_recipe(text)
    assert recipe.text == text
    assert recipe.steps == tuple(Step(algorithm=name, cycles=n, beta=beta) for name, n, beta in steps)
    assert recipe.cycles == sum(n for _, n, _ in steps)
    assert recipe.support_update == SupportUpdate()


@pytest.mark.parametrize(
    ("text", "term"),
    [
        ("", ""),
        ("ER", "ER"),
        ("20*", "20*"),
        ("20*er", "20*er"),
        ("20*RAAR", "20*RAAR"),
        ("-5*ER", "-5*ER"),
        ("2.5*ER", "2.5*ER"),
        ("20*ER+", ""),
        ("20*ER,30*HIO", "20*ER,30*HIO"),
        ("20*ER+30*HIO[0.9]", "30*HIO[0.9]"),
        ("30*HIO[beta=]", "30*HIO[beta=]"),
        ("30*HIO[beta=-1]", "30*HIO[beta=-1]"),
        ("30*HIO[beta=0.9.1]", "30*HIO[beta=0.9.1]"),
        ("30*HIO[beta=.]", "30*HIO[beta=.]"),
    ],
)
def test_a_term_that_is_none_is_quoted(text, term):
    with pytest.raises(ConfigError) as caught:
        parse_recipe(text)
    assert f"recipe {text!r}" in str(caught.value)
    assert str(caught.value).endswith(f"got {term!r}")


def test_the_loop_applies_the_steps_in_their_order():
    data, crystal, support = start()
    expected = crystal
    for _ in range(2):
        expected = error_reduction(expected, project_magnitude(expected, data), support)
    result, same = run_recipe(parse_recipe("1*ER+1*ER", FIXED), data, crystal, support)
    torch.testing.assert_close(result, expected)
    assert torch.equal(same, support)


def test_the_result_is_zero_outside_its_support():
    data, crystal, support = start()
    result, support = run_recipe(parse_recipe("3*HIO", FIXED), data, crystal, support)
    assert result[support].abs().min() > 0
    assert not result[~support].any()


def test_a_recipe_finds_a_strained_crystal_from_random_phases():
    data, crystal, support = start()
    result, _ = run_recipe(parse_recipe("30*ER+120*HIO+60*ER", FIXED), data, crystal, support)
    assert misfit(crystal * support, data) > 0.3
    assert misfit(result, data) < 0.01


def test_the_loop_waits_its_turn_before_every_cycle():
    data, crystal, support = start()
    turns = []
    recipe = parse_recipe("5*ER+3*HIO", FIXED)
    result, _ = run_recipe(recipe, data, crystal, support, lambda: turns.append(len(turns)))
    assert turns == list(range(8))
    assert torch.equal(result, run_recipe(recipe, data, crystal, support)[0])


@pytest.mark.parametrize("border_only", [False, True])
def test_the_support_follows_the_crystal_when_it_is_due(border_only):
    data, crystal, support = start()
    update = SupportUpdate(every=3, threshold=0.3, sigma_vox=0.8, border_only=border_only)
    before, old = run_recipe(parse_recipe("2*ER", update), data, crystal, support)
    assert torch.equal(old, support)
    third = error_reduction(before, project_magnitude(before, data), support)
    _, new = run_recipe(parse_recipe("3*ER", update), data, crystal, support)
    rule = border_support(support, third.abs(), 0.3, 0.8) if border_only else threshold_support(third.abs(), 0.3, 0.8)
    assert torch.equal(new, rule)
    assert not torch.equal(new, support)


def test_the_support_stands_still_before_its_time():
    data, crystal, support = start()
    update = SupportUpdate(every=2, after=5, threshold=0.3)
    _, until_five = run_recipe(parse_recipe("5*ER", update), data, crystal, support)
    _, at_six = run_recipe(parse_recipe("6*ER", update), data, crystal, support)
    assert torch.equal(until_five, support)
    assert not torch.equal(at_six, support)


@pytest.mark.parametrize("shape", [(16, 16, 16), (8, 12, 15), (9, 11)])
def test_a_random_start_has_the_magnitudes_and_half_the_array_about_the_origin(shape):
    data = measured(torch.rand(shape, generator=torch.Generator().manual_seed(2)))
    crystal, support = random_start(data, torch.Generator().manual_seed(3))
    torch.testing.assert_close(reciprocal(crystal, len(shape)).abs(), data.magnitude)
    centred = from_fourier_order(support)
    assert torch.equal(to_fourier_order(twin(centred, len(shape))), support)
    for axis, n in enumerate(shape):
        along = support.any(dim=tuple(k for k in range(len(shape)) if k != axis)).sum()
        assert n // 2 <= along <= n // 2 + 1


def test_a_random_start_follows_its_generator():
    data = measured(strained_crystal())
    one, same, other = (random_start(data, torch.Generator().manual_seed(seed))[0] for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.allclose(one, other)
