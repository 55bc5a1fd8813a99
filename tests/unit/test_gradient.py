"""Refinement voxel by voxel: losses fall, starts never mix, results repeat, the exact polish reaches the truth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from scipy import ndimage
from torch import Tensor

from cdi_stream.phasing.align import align
from cdi_stream.phasing.engine import Batch, run, run_to_end
from cdi_stream.phasing.gradient import Adam, is_without_noise, polish_exact, refine_by_adam
from cdi_stream.phasing.likelihood import loss
from cdi_stream.phasing.measures import chi2, nmse
from cdi_stream.phasing.projections import Measurement, reciprocal
from cdi_stream.phasing.recipe import parse_recipe
from cdi_stream.phasing.shrink_wrap import ShrinkWrap
from cdi_stream.phasing.steps import Cycles, Recipe, descent, recipe_of
from cdi_stream.phasing.support import threshold_support

SETTINGS = [
    Adam(steps=30, every=10),
    descent(30),
    recipe_of(ShrinkWrap(after=0), Cycles("AER", 30)),
]
N = 24


pytestmark = pytest.mark.usefixtures("one_thread")


def truth() -> Tensor:
    """A strained crystal without symmetry, its rim blurred, in Fourier order, complex128."""
    x, y, z = torch.meshgrid(*[torch.fft.fftfreq(N) * N] * 3, indexing="ij")
    inside = ((x + y).abs() < 5) & ((x - y).abs() < 6) & (z.abs() < 4) & (x + y + z < 5)
    amplitude = torch.from_numpy(ndimage.gaussian_filter(inside.double().numpy(), 0.5, mode="wrap"))
    return torch.polar(amplitude, (torch.sin(0.4 * x) + torch.cos(0.3 * y + 0.2 * z)).double())


def measured(crystal: Tensor, photons: float = 1e6) -> Measurement:
    intensity = reciprocal(crystal, 3).abs().square().float()
    magnitude = (intensity * (photons / intensity.sum())).sqrt()
    return Measurement(
        magnitude=magnitude, magnitude_scale=torch.ones_like(magnitude), valid=torch.ones_like(magnitude) > 0
    )


def starts(crystal: Tensor, n: int = 3, share: float = 0.3) -> Batch:
    """Crystals near the truth in a support drawn tight."""
    noise = torch.randn((n, *crystal.shape), dtype=crystal.dtype, generator=torch.Generator().manual_seed(2))
    support = threshold_support(crystal.abs()[None], 0.4, 0.5).expand(n, *crystal.shape)
    return Batch(crystal=(crystal * (1 + share * noise)).to(torch.complex64), support=support.contiguous())


def last(data: Measurement, start: Batch, how: Adam | Recipe) -> Batch:
    return list(steps_of(data, start, how))[-1]


def steps_of(data: Measurement, start: Batch, how: Adam | Recipe) -> Iterator[Batch]:
    return refine_by_adam(data, start, how) if isinstance(how, Adam) else run(how, data, start)


@pytest.mark.parametrize("how", SETTINGS)
def test_starts_do_not_influence_each_other(how):
    crystal = truth()
    data, together = measured(crystal), starts(crystal)
    alone = last(data, together.select([1]), how)
    batch = last(data, together, how)
    torch.testing.assert_close(
        batch.crystal[1], alone.crystal[0], rtol=1e-3, atol=1e-3 * float(alone.crystal.abs().max())
    )
    assert (batch.support[1] == alone.support[0]).all()


@pytest.mark.parametrize("how", SETTINGS)
def test_the_same_input_gives_the_same_result_and_stays_as_it_is(how):
    crystal = truth()
    data, start = measured(crystal), starts(crystal, 1)
    before = start.crystal.clone()
    assert torch.equal(last(data, start, how).crystal, last(data, start, how).crystal)
    assert torch.equal(start.crystal, before)


@pytest.mark.parametrize("how", SETTINGS)
def test_it_yields_after_every_step_and_can_be_stopped(how):
    crystal = truth()
    steps = steps_of(measured(crystal), starts(crystal, 1), how)
    assert [next(steps).cycle for _ in range(3)] == [1, 2, 3]
    assert [batch.cycle for batch in steps][-1] == 30


def test_adam_lowers_the_misfit_and_redraws_the_support_when_the_loss_has_fallen():
    crystal = truth()
    data, start = measured(crystal), starts(crystal, 1)
    seen = list(refine_by_adam(data, start, Adam(steps=120)))
    before, after = (chi2(reciprocal(batch.result, 3).abs(), data.magnitude) for batch in (start, seen[-1]))
    assert after < 0.05 * before
    changed = [a.cycle for a, b in zip(seen[1:], seen, strict=False) if not torch.equal(a.support, b.support)]
    assert changed
    assert min(changed) >= 50
    never = list(refine_by_adam(data, start, Adam(steps=120, fall=0.9999999)))[-1]
    assert torch.equal(never.support, start.support)


def test_the_first_accelerated_step_is_a_cycle_of_error_reduction():
    crystal = truth()
    data, start = measured(crystal), starts(crystal, 2)
    step = last(data, start, descent(1))
    cycle = run_to_end(parse_recipe("SW[off]+1*ER"), data, replace(start, crystal=start.result))
    torch.testing.assert_close(step.crystal, cycle.crystal)


def test_momentum_beats_error_reduction():
    crystal = truth()
    data, start = measured(crystal), starts(crystal, 2)
    start = replace(start, support=threshold_support(crystal.abs()[None], 0.02, 0.5).expand(2, N, N, N))
    momentum = last(data, start, descent(60)).crystal
    reduced = run_to_end(parse_recipe("SW[off]+60*ER"), data, start).crystal
    best, other = (loss(reciprocal(found, 3), data) for found in (momentum, reduced))
    assert (best < 0.8 * other).all()


def test_a_new_support_does_not_stop_the_momentum(monkeypatch):
    """An update that leaves the support as it is changes nothing, and a smaller support cuts the crystal."""
    crystal = truth()
    data, start = measured(crystal), starts(crystal, 2)
    often = recipe_of(ShrinkWrap(every=4, after=0), Cycles("AER", 30))
    monkeypatch.setattr("cdi_stream.phasing.engine.update_support", lambda support, *_: support)
    torch.testing.assert_close(last(data, start, often).crystal, last(data, start, descent(30)).crystal)
    smaller = threshold_support(crystal.abs()[None], 0.6, 0.5).expand(2, N, N, N).contiguous()
    monkeypatch.setattr("cdi_stream.phasing.engine.update_support", lambda *_: smaller)
    found = [batch.result.clone() for batch in run(often, data, start)]
    assert not any(crystals[~smaller].any() for crystals in found[4:])
    losses = [float(loss(reciprocal(crystals, 3), data).sum()) for crystals in found[4:]]
    assert losses[-1] < losses[0]


def test_uneven_gain_and_background_are_in_the_loss_that_falls():
    crystal = truth()
    plain = measured(crystal)
    scale = torch.sqrt(0.5 + torch.rand(plain.magnitude_scale.shape, generator=torch.Generator().manual_seed(4)))
    background = torch.full_like(scale, 0.2)
    counts = scale.square() * plain.magnitude.square() + background
    data = replace(plain, magnitude_scale=scale, background=background, magnitude=counts.sqrt())
    start = starts(crystal, 1)
    start = replace(start, support=threshold_support(crystal.abs()[None], 0.01, 0.3))
    scale = plain.magnitude.norm() / reciprocal(start.result, 3).norm()
    start = replace(start, crystal=start.crystal * scale)
    found = last(data, start, descent(150))
    assert float(loss(reciprocal(found.crystal, 3), data)) < 1e-3 * float(loss(reciprocal(start.result, 3), data))
    assert float(nmse(crystal, found.crystal[0])) < 5e-3


def test_noise_is_told_from_its_absence():
    crystal = truth()
    data, start = measured(crystal), starts(crystal, 1)
    counted = torch.poisson(data.magnitude.square(), generator=torch.Generator().manual_seed(5)).sqrt()
    assert is_without_noise(data, start)
    assert not is_without_noise(replace(data, magnitude=counted), start)


def test_the_exact_polish_finds_the_faint_rim():
    crystal = truth()
    data, start = measured(crystal), starts(crystal, 1, share=0.2)
    found = list(polish_exact(data, start, rounds=2))[-1].crystal[0]
    assert float(chi2(reciprocal(found, 3).abs(), data.magnitude)) < 1e-6
    assert align(crystal.to(found), found).correlation ** 2 > 0.99
