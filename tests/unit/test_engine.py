"""The loop against a slow one written independently: centred arrays, numpy, double precision."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch

from cdi_stream.numerics.fourier import to_fourier_order
from cdi_stream.phasing.engine import Batch, run, run_to_end
from cdi_stream.phasing.projections import Measurement, reciprocal
from cdi_stream.phasing.recipe import parse_recipe
from cdi_stream.phasing.starts import random_starts, start_from
from cdi_stream.phasing.support import Limits, halves, restrict_to_border

pytestmark = pytest.mark.usefixtures("one_thread")
SHAPES = [(16, 18), (17, 15), (12, 10, 14), (11, 13, 12)]
STEPS = {(0, 0, 0): 0.6, (1, 0, 0): 0.1, (-1, 0, 0): 0.1, (0, 1, 0): 0.05, (0, -1, 0): 0.1, (0, 1, -1): 0.05}
"""A coherence kernel, not quite symmetric."""
WHOLE = (
    "SW[every=4,after=3,threshold=0.25,relative=rms,sigma=0.8]+6*ER+(4*HIO[beta=0.8]+SW[every=3,after=0,sigma=0.6])*2"
    "+SUPPORT[border]+8*RAAR[beta=0.85]+4*DM[beta=0.7]+SW[every=2,after=0,threshold=0.4,relative=mean]+4*ER"
)


class Slow:
    """Data and cycles in numpy, the origin at N//2; one loop, no batch."""

    def __init__(self, shape: tuple[int, ...], is_plain: bool, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.shape, self.is_plain = shape, is_plain
        self.magnitude_scale = rng.uniform(0.5, 1.5, shape)
        self.valid = rng.random(shape) < 0.9
        self.background = np.zeros(shape) if is_plain else rng.uniform(0, 0.5, shape)
        place = tuple(slice(n // 2 - n // 5, n // 2 + n // 4) for n in shape)
        self.truth = np.zeros(shape, dtype=complex)
        size = self.truth[place].shape
        self.truth[place] = rng.uniform(5, 10, size) * np.exp(1j * np.cumsum(rng.normal(0, 0.2, size), 0))
        self.counts = self.expected(self.field(self.truth))
        self.start = self.truth * np.exp(1j * rng.normal(0, 0.3, shape)) + rng.normal(0, 0.2, shape)
        self.support = np.zeros(shape, dtype=bool)
        self.support[tuple(slice(n // 4, n - n // 4) for n in shape)] = True

    @staticmethod
    def field(crystal):
        return np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(crystal), norm="ortho"))

    @staticmethod
    def crystal(field):
        return np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(field), norm="ortho"))

    def expected(self, field):
        intensity = np.abs(field) ** 2
        if not self.is_plain:
            axes = tuple(range(field.ndim))
            intensity = sum(w * np.roll(intensity, step[: field.ndim], axes) for step, w in STEPS.items())
        return self.magnitude_scale**2 * intensity + self.background

    def measured(self, crystal):
        field = self.field(crystal)
        factor = np.sqrt(self.counts) / np.sqrt(self.expected(field))
        return self.crystal(np.where(self.valid, field * factor, field))

    def step(self, algorithm, rho, support, beta):
        p = self.measured(rho)
        if algorithm == "ER":
            return np.where(support, p, 0)
        if algorithm == "HIO":
            return np.where(support, p, rho - beta * p)
        if algorithm == "RAAR":
            reflected = 2 * np.where(support, 2 * p - rho, 0) - (2 * p - rho)
            return beta / 2 * (reflected + rho) + (1 - beta) * p
        f_m = p + (p - rho) / beta
        f_s = np.where(support, rho, 0) - (np.where(support, rho, 0) - rho) / beta
        return rho + beta * (np.where(support, f_m, 0) - self.measured(f_s))

    def wrapped(self, rho, support, threshold, sigma, relative, is_border):
        squared = sum(np.meshgrid(*[np.fft.fftfreq(n) ** 2 for n in self.shape], indexing="ij"))
        blurred = np.fft.ifftn(np.fft.fftn(np.abs(rho)) * np.exp(-2 * np.pi**2 * sigma**2 * squared)).real
        inside = blurred[support]
        level = {"max": blurred.max(), "mean": inside.mean(), "rms": np.sqrt((inside**2).mean())}[relative]
        new = blurred > threshold * level
        if not is_border:
            return new
        near = [np.roll(support, s, axis) for axis in range(support.ndim) for s in (1, -1)]
        return (new & (support | np.any(near, axis=0))) | (support & np.all(near, axis=0))

    def whole(self):
        """The recipe `WHOLE`, written out by hand."""
        rho, support, done = self.start, self.support, 0
        first, second = (4, 3, 0.25, 0.8, "rms"), (3, 0, 0.2, 0.6, "max")
        for count, algorithm, beta, (every, after, threshold, sigma, relative), is_border in (
            (6, "ER", None, first, False),
            (4, "HIO", 0.8, first, False),
            (4, "HIO", 0.8, second, False),
            (8, "RAAR", 0.85, second, True),
            (4, "DM", 0.7, second, True),
            (4, "ER", None, (2, 0, 0.4, 1.0, "mean"), True),
        ):
            for _ in range(count):
                rho, done = self.step(algorithm, rho, support, beta), done + 1
                if done % every == 0 and done >= after:
                    support = self.wrapped(rho, support, threshold, sigma, relative, is_border)
        return rho * support, support

    def data(self, real=torch.float64) -> Measurement:
        def order(array):
            return to_fourier_order(torch.from_numpy(array)).contiguous()

        kernel = np.zeros(self.shape)
        for step, weight in STEPS.items():
            kernel[step[: len(self.shape)]] += weight
        return Measurement(
            magnitude=order(np.sqrt(self.counts)).to(real),
            magnitude_scale=order(self.magnitude_scale).to(real),
            valid=order(self.valid),
            background=None if self.is_plain else order(self.background).to(real),
            coherence=None if self.is_plain else torch.fft.rfftn(torch.from_numpy(kernel).to(real)),
        )

    def batch(self, kind=torch.complex128) -> Batch:
        crystal, support = (to_fourier_order(torch.from_numpy(one)) for one in (self.start, self.support))
        return Batch(crystal=crystal.to(kind)[None], support=support[None])


def centred(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    return tuple(np.fft.fftshift(one[0].numpy()) for one in (batch.crystal, batch.support))


KINDS = [(torch.float32, torch.complex64, 1e-5), (torch.float64, torch.complex128, 1e-7)]


@pytest.mark.parametrize("algorithm", ["ER", "HIO[beta=0.8]", "RAAR[beta=0.8]", "DM[beta=0.8]"])
@pytest.mark.parametrize("is_plain", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_one_cycle_is_the_slow_one(shape, is_plain, algorithm):
    slow = Slow(shape, is_plain)
    expected = slow.step(algorithm.split("[")[0], slow.start, slow.support, 0.8)
    for real, kind, tolerance in KINDS:
        batch = next(run(parse_recipe(f"1*{algorithm}"), slow.data(real), slow.batch(kind)))
        assert batch.crystal.dtype == kind
        np.testing.assert_allclose(centred(batch)[0], expected, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("is_plain", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_thirty_cycles_with_everything_are_the_slow_ones(shape, is_plain):
    slow = Slow(shape, is_plain)
    expected, support = slow.whole()
    assert 0.02 < support.mean() < slow.support.mean()
    for real, kind, tolerance in KINDS:
        batch = run_to_end(parse_recipe(WHOLE), slow.data(real), slow.batch(kind))
        assert (batch.crystal.dtype, batch.cycle) == (kind, 30)
        found, same = centred(batch)
        np.testing.assert_array_equal(same, support)
        np.testing.assert_allclose(found, expected, atol=tolerance * np.abs(expected).max())


def case(shape: tuple[int, ...] = (12, 10, 14), kind: torch.dtype = torch.complex64) -> tuple[Measurement, Batch]:
    """Data and three random starts."""
    real = torch.float32 if kind == torch.complex64 else torch.float64
    data = Slow(shape, is_plain=True).data(real)
    return data, random_starts(data, [3, 4, 5])


def each(text: str, data: Measurement, start: Batch, limits: Limits | None = None) -> Iterator[Batch]:
    """Every batch of a run, copied."""
    for batch in run(parse_recipe(text), data, start, limits):
        yield Batch(crystal=batch.crystal.clone(), support=batch.support.clone(), cycle=batch.cycle)


def test_a_batch_is_its_starts_one_by_one():
    data, start = case(kind=torch.complex128)
    text = WHOLE + "+CLIP[every=3]+DETWIN+2*ER+AVG[3]"
    together = run_to_end(parse_recipe(text), data, start)
    for k in range(3):
        alone = run_to_end(parse_recipe(text), data, start.select([k]))
        torch.testing.assert_close(together.crystal[k], alone.crystal[0], rtol=1e-7, atol=1e-7)
        assert torch.equal(together.support[k], alone.support[0])


def test_the_same_again_is_the_same():
    data, _ = case()
    one, two = (run_to_end(parse_recipe(WHOLE), data, random_starts(data, [3, 4, 5])) for _ in range(2))
    assert torch.equal(one.crystal, two.crystal)
    assert torch.equal(one.support, two.support)


def test_there_is_one_batch_a_cycle_and_the_result():
    data, start = case()
    batches = list(each("3*ER+DETWIN+2*HIO", data, start))
    assert [batch.cycle for batch in batches] == [*range(1, 16), 15]
    assert torch.equal(batches[-1].crystal, batches[-2].result)
    assert not batches[-1].crystal[~batches[-1].support].any()
    assert batches[-2].crystal[~batches[-2].support].any(), "HIO feeds back outside"


def test_a_run_may_be_left_and_goes_on_from_there():
    data, start = case(kind=torch.complex128)
    cycles = run(parse_recipe("9*HIO"), data, start)
    fourth = [next(cycles) for _ in range(4)][-1]
    assert fourth.cycle == 4
    cycles.close()
    rest = run_to_end(parse_recipe("5*HIO"), data, fourth)
    torch.testing.assert_close(rest.crystal, run_to_end(parse_recipe("9*HIO"), data, start).crystal)


def test_a_run_ends_when_somebody_says_so():
    data, start = case()
    asked = []
    batch = run_to_end(parse_recipe("9*ER"), data, start, is_over=lambda: len(asked) == 4 or asked.append(1))
    assert batch.cycle == 5
    torch.testing.assert_close(batch.crystal, run_to_end(parse_recipe("5*ER"), data, start).crystal)


def test_the_start_stays_as_it_is_and_the_result_is_nobody_elses():
    data, start = case()
    crystal, support = start.crystal.clone(), start.support.clone()
    text = "SW[every=1,after=0]+2*ER+2*HIO+2*RAAR+2*DM+2*AER+CLIP[every=1]+DETWIN+AVG[4]"
    cycles = run(parse_recipe(text), data, start)
    *others, result = cycles
    assert torch.equal(start.crystal, crystal)
    assert torch.equal(start.support, support)
    assert result.crystal.data_ptr() not in {start.crystal.data_ptr(), others[-1].crystal.data_ptr()}


def test_a_start_in_another_memory_order_will_do():
    data, start = case()
    turned = Batch(
        crystal=start.crystal.transpose(1, 3).contiguous().transpose(1, 3),
        support=start.support.transpose(1, 3).contiguous().transpose(1, 3),
    )
    found, expected = (run_to_end(parse_recipe(WHOLE), data, one).crystal for one in (turned, start))
    assert torch.equal(found, expected)


@pytest.mark.parametrize(("n", "averaged"), [(1, 1), (3, 3), (20, 8)])
def test_the_average_is_that_of_the_last_cycles(n, averaged):
    data, start = case()
    *batches, result = each(f"AVG[{n}]+5*HIO+3*ER", data, start)
    mean = torch.stack([batch.crystal for batch in batches[-averaged:]]).mean(0)
    torch.testing.assert_close(result.crystal, mean * batches[-1].support)


def test_detwin_keeps_half_of_the_support_for_ten_cycles():
    data, start = case()
    batches = list(each("SW[every=1,after=0]+2*ER+DETWIN+1*ER", data, start))
    half = halves(batches[1].support)
    for batch in batches[2:12]:
        assert torch.equal(batch.support, batches[1].support)
        assert not batch.crystal[~half].any()
        assert batch.crystal[half].all()
    assert batches[12].crystal[batches[11].support & ~half].any()


def test_detwin_breaks_the_tie_between_crystal_and_twin_wherever_they_are():
    slow = Slow((16, 16), is_plain=True)
    data, truth = slow.data(), to_fourier_order(torch.from_numpy(slow.truth))
    twin = torch.roll(truth.flip(0, 1), (1, 1), (0, 1)).conj().resolve_conj()
    both = torch.roll(truth + twin, 6, 0)
    batch = run_to_end(parse_recipe("DETWIN"), data, start_from(both, both.abs() > 0))
    reflected = torch.roll(batch.crystal[0].flip(0, 1), (13, 1), (0, 1)).conj()
    assert batch.crystal.abs().sum() > 0.1 * both.abs().sum()
    assert (batch.crystal[0] - reflected).norm() > 0.9 * batch.crystal[0].norm()


def test_flat_keeps_amplitudes_near_their_mean_and_their_phases():
    data, start = case()
    before, *_ = each("1*HIO", data, start)
    after, off, *_ = each("CLIP[every=1,low=0.8,high=1.3]+1*HIO+CLIP[off]+1*HIO", data, start)
    for old, new, inside in zip(before.crystal, after.crystal, after.support, strict=True):
        mean = old[inside].abs().mean()
        expected = old[inside].abs().clamp(0.8 * mean, 1.3 * mean)
        torch.testing.assert_close(new[inside], torch.polar(expected, old[inside].angle()))
        assert torch.equal(new[~inside], old[~inside])
    amplitude = off.crystal[off.support].abs()
    assert amplitude.max() > 1.4 * amplitude.mean()


def test_flat_comes_when_it_is_due():
    data, start = case()
    for plain, flat in zip(each("4*ER", data, start), each("CLIP[every=3]+4*ER", data, start), strict=True):
        assert torch.equal(plain.crystal, flat.crystal) == (plain.cycle < 3)


@pytest.mark.parametrize("text", ["SW[off]", "SW[every=1,after=0]+SUPPORT[fixed]", "SW[every=9]", "SW[every=1]", ""])
def test_the_support_stands_still(text):
    data, start = case()
    for batch in each(text + "+" * bool(text) + "4*ER+4*HIO", data, start):
        assert torch.equal(batch.support, start.support)


def test_the_support_moves_when_it_is_due_and_by_its_border_if_so_told():
    data, start = case()
    wrap = "SW[every=3,after=6,threshold=0.5]+"
    whole, border = (list(each(wrap + text + "9*ER", data, start)) for text in ("", "SUPPORT[border]+"))
    for batches in (whole, border):
        moved = [not torch.equal(a.support, b.support) for a, b in pairwise(batches)]
        assert [k + 2 for k, is_moved in enumerate(moved) if is_moved] == [6, 9]
    assert torch.equal(border[5].support, restrict_to_border(start.support, whole[5].support))


def test_supports_keep_to_their_limits():
    data, start = case()
    outer = torch.rand(12, 10, 14, generator=torch.Generator().manual_seed(1)) < 0.9
    limits = Limits(smallest=0.05, largest=0.1, outer=outer)
    *_, last = each("SW[every=1,after=0,threshold=0.3]+9*ER", data, start, limits)
    assert not (last.support & ~outer).any()
    share = last.support.flatten(1).double().mean(1)
    assert ((share > 0.05) & (share <= 0.1)).all()


@pytest.mark.parametrize("is_plain", [True, False])
def test_masked_voxels_are_free(is_plain):
    slow = Slow((12, 10, 14), is_plain)
    expected = run_to_end(parse_recipe(WHOLE), slow.data(), slow.batch())
    slow.counts[~slow.valid] = 1e12
    found = run_to_end(parse_recipe(WHOLE), slow.data(), slow.batch())
    assert torch.equal(found.crystal, expected.crystal)
    free = reciprocal(found.crystal, 3)[0][~slow.data().valid]
    assert 0 < free.abs().max() < 1e5


@pytest.mark.parametrize("relative", ["max", "mean", "rms"])
def test_no_data_no_nan(relative):
    zero = torch.zeros(8, 9, 10)
    for data in (
        Measurement(magnitude=zero, magnitude_scale=zero + 1, valid=zero == 0),
        Measurement(magnitude=zero, magnitude_scale=zero, valid=zero == 0),
        Measurement(magnitude=zero, magnitude_scale=zero + 1, valid=zero == 0, background=zero),
        Measurement(magnitude=zero + 1, magnitude_scale=zero + 1, valid=zero != 0),
    ):
        text = f"SW[every=1,after=0,relative={relative}]+CLIP[every=1]+2*ER+2*HIO+2*RAAR+2*DM+2*AER+DETWIN+AVG[3]+1*ER"
        for batch in run(parse_recipe(text), data, random_starts(data, [1])):
            assert torch.isfinite(torch.view_as_real(batch.crystal)).all()


@pytest.mark.parametrize("shape", [(32, 32), (16, 16, 16)])
def test_a_crystal_is_found_from_random_phases(shape):
    slow = Slow(shape, is_plain=True)
    support = to_fourier_order(torch.from_numpy(slow.truth != 0))
    data = slow.data(torch.float32)
    batch = run_to_end(parse_recipe("SW[off]+30*ER+150*HIO+60*ER"), data, random_starts(data, range(4), support))
    residual = (data.magnitude_scale * reciprocal(batch.crystal, len(shape)).abs() - data.magnitude) * data.valid
    assert (residual.flatten(1).norm(dim=1) / data.magnitude.norm()).min() < 0.02


def test_what_is_yielded_is_the_runs_own_memory():
    data, start = case()
    cycles = run(parse_recipe("2*ER"), data, start)
    first = next(cycles)
    kept = first.crystal.clone()
    next(cycles)
    assert not torch.equal(first.crystal, kept), "the next cycle overwrites it"
    assert len(first) == 3


@pytest.mark.gpu
def test_on_a_gpu_it_is_the_same():
    slow = Slow((12, 10, 14), is_plain=False)
    data, start = slow.data(), slow.batch()
    fields = {
        name: getattr(data, name).cuda()
        for name in ("magnitude", "magnitude_scale", "valid", "background", "coherence")
    }
    there = Batch(crystal=start.crystal.cuda(), support=start.support.cuda())
    text = WHOLE + "+CLIP[every=2]+DETWIN+4*ER+AVG[3]"
    found, expected = (
        run_to_end(parse_recipe(text), Measurement(**fields), there),
        run_to_end(parse_recipe(text), data, start),
    )
    torch.testing.assert_close(found.crystal.cpu(), expected.crystal)
    assert torch.equal(found.support.cpu(), expected.support)
