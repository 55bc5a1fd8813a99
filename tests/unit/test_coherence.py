"""Kernels of partial coherence: formulas, and crystal and kernel recovered together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from cdi_stream.phasing.background import LinearBackground
from cdi_stream.phasing.coherence import (
    GaussianKernel,
    coherence_lengths_m,
    free_kernel,
    refine_coherence,
)
from cdi_stream.phasing.convolution import gaussian_transform
from cdi_stream.phasing.engine import Batch, run_to_end
from cdi_stream.phasing.likelihood import loss
from cdi_stream.phasing.measures import nmse
from cdi_stream.phasing.projections import Measurement, expected_counts, kernel_centre, reciprocal
from cdi_stream.phasing.steps import descent

N = 24
WIDTHS = (0.8, 0.5, 0.6)


pytestmark = pytest.mark.usefixtures("one_thread")


def truth() -> Tensor:
    """A strained crystal without symmetry, in Fourier order, of 1e6 photons."""
    x, y, z = torch.meshgrid(*[torch.fft.fftfreq(N) * N] * 3, indexing="ij")
    inside = ((x + y).abs() < 5) & ((x - y).abs() < 6) & (z.abs() < 4) & (x + y + z < 5)
    crystal = torch.polar(inside.float(), torch.sin(0.4 * x) + torch.cos(0.3 * y + 0.2 * z))
    return crystal * (1e3 / crystal.norm())


def measured(
    crystal: Tensor, widths: tuple[float, ...] = WIDTHS, background: float = 0.0, is_noisy: bool = False
) -> Measurement:
    """Counts blurred by scipy's periodic Gaussian, wide enough not to be cut."""
    intensity = reciprocal(crystal, 3).abs().square().double().numpy()
    spectrum = ndimage.fourier_gaussian(np.fft.fftn(intensity), widths)
    counts = torch.from_numpy(np.fft.ifftn(spectrum).real.clip(0) + background).float()
    if is_noisy:
        counts = torch.poisson(counts, generator=torch.Generator().manual_seed(1))
    return Measurement(
        magnitude=counts.sqrt(), magnitude_scale=torch.ones_like(counts), valid=torch.ones_like(counts) > 0
    )


def phased(data: Measurement, crystal: Tensor) -> Batch:
    """What phasing makes of the counts if it takes them for coherent."""
    noise = torch.randn(crystal.shape, generator=torch.Generator().manual_seed(2))
    start = Batch(crystal=(crystal * (1 + 0.3 * noise))[None], support=(crystal.abs() > 0)[None])
    return run_to_end(descent(200), data, start)


def test_the_gaussian_is_the_one_of_scipy():
    crystal = truth()
    blurred = expected_counts(reciprocal(crystal, 3), GaussianKernel(widths_vox=WIDTHS).apply_to(measured(crystal)))
    torch.testing.assert_close(blurred, measured(crystal).magnitude.square(), rtol=1e-3, atol=1e-2)


def test_its_transform_is_that_of_a_gaussian_of_the_width():
    shape = (32, 31)
    kernel = torch.fft.fftshift(torch.fft.irfftn(gaussian_transform(shape, (1.5, 2.0)), s=shape)).numpy()
    rows, columns = np.indices(shape)
    expected = np.exp(-((rows - 16) ** 2) / (2 * 1.5**2) - (columns - 15) ** 2 / (2 * 2.0**2))
    np.testing.assert_allclose(kernel, expected / expected.sum(), atol=1e-6)


@pytest.mark.parametrize("shape", [(8, 6, 10), (7, 6, 9), (12, 11)])
def test_the_centre_of_a_kernel_follows_from_its_transform(shape):
    coherence = gaussian_transform(shape, (0.7, 0.4, 0.9)[: len(shape)])
    kernel = torch.fft.irfftn(coherence, s=shape)
    assert float(kernel_centre(coherence, shape[-1])) == pytest.approx(float(kernel.flatten()[0]), rel=1e-5)


def test_expected_counts_of_a_blurred_field_never_fall_to_rounding_errors():
    """Beside a bright peak the rounding of the transform is larger than the counts of a dark voxel."""
    field = torch.full((1, 16, 16, 16), 1e-2, dtype=torch.complex64)
    field[0, 0, 0, 0] = 1e4
    data = measured(torch.zeros(16, 16, 16), widths=(0, 0, 0))
    narrow = GaussianKernel(widths_vox=(0.0, 0.0, 0.0)).apply_to(data)
    torch.testing.assert_close(expected_counts(field, narrow)[0, 8], torch.full((16, 16), 1e-4), rtol=0.5, atol=20.0)
    assert (expected_counts(field, narrow) >= 0.99 * field.abs().square()).all()


def test_coherence_lengths_are_where_the_degree_of_coherence_falls_to_exp_of_minus_a_half():
    """The degree of coherence is the transform of the kernel, a Gaussian in q along skew steps, summed here."""
    bq = np.array([[2.0, 0.3, -0.4], [-0.5, 1.5, 0.2], [0.1, 0.6, -3.0]]) * 1e6
    widths = (0.9, 0.5, 0.7)
    places = np.linspace(-4, 4, 33)
    steps = np.stack(np.meshgrid(*[places] * 3, indexing="ij"), -1).reshape(-1, 3)
    weight = np.exp(-(steps**2 / (2 * np.array(widths) ** 2)).sum(1))
    q = steps @ bq.T
    for axis, length_m in enumerate(coherence_lengths_m(widths, bq)):
        degree = (weight * np.cos(q[:, axis] * length_m)).sum() / weight.sum()
        assert degree == pytest.approx(np.exp(-0.5), abs=0.01)


@pytest.mark.parametrize("is_noisy", [False, True])
def test_crystal_and_widths_are_recovered_together(is_noisy):
    crystal = truth()
    data = measured(crystal, is_noisy=is_noisy)
    coherent = phased(data, crystal)
    *_, (batch, kernel) = refine_coherence(data, coherent, GaussianKernel(widths_vox=(0.5, 0.5, 0.5)))
    np.testing.assert_allclose(kernel.widths_vox, WIDTHS, rtol=0.1)
    without, with_it = (float(nmse(crystal, found.result[0])) for found in (coherent, batch))
    assert with_it < (0.1 if is_noisy else 1e-2) * without


def test_a_constant_background_is_recovered_too():
    crystal = truth()
    data = measured(crystal, background=1.5)
    start = GaussianKernel(widths_vox=(0.5, 0.5, 0.5), background=LinearBackground(counts=0.1, slopes=(0.0, 0.0, 0.0)))
    *_, (_, kernel) = refine_coherence(data, phased(data, crystal), start, rounds=30)
    np.testing.assert_allclose(kernel.widths_vox, WIDTHS, rtol=0.1)
    assert kernel.background.counts == pytest.approx(1.5, rel=0.1)
    assert float(kernel.apply_to(data).background[0, 0, 0]) == pytest.approx(kernel.background.counts)


def test_a_given_background_stays():
    crystal = truth()
    data = measured(crystal, background=1.5)
    data = replace(data, background=torch.full_like(data.magnitude_scale, 1.5))
    *_, (_, kernel) = refine_coherence(data, phased(data, crystal), GaussianKernel(widths_vox=(0.5, 0.5, 0.5)))
    np.testing.assert_allclose(kernel.widths_vox, WIDTHS, rtol=0.1)
    assert kernel.apply_to(data).background is data.background


def test_a_free_kernel_makes_the_crystal_better():
    crystal = truth()
    data = measured(crystal, is_noisy=True)
    coherent = phased(data, crystal)
    *_, (batch, kernel) = refine_coherence(data, coherent, free_kernel(data.magnitude))
    assert float(nmse(crystal, batch.result[0])) < 0.2 * float(nmse(crystal, coherent.result[0]))
    assert float(kernel.values.sum()) == pytest.approx(1, abs=1e-5)
    assert (kernel.values >= 0).all()


def test_every_iteration_of_a_free_kernel_raises_the_likelihood():
    crystal = truth()
    data, field = measured(crystal, is_noisy=True), reciprocal(crystal, 3)
    kernel = replace(free_kernel(data.magnitude, width_vox=1.0), iterations=1)
    values = []
    for _ in range(8):
        values.append(float(loss(field[None], kernel.apply_to(data), "poisson")))
        kernel = kernel.improve(field, data)
    assert (np.diff(values) < 0).all()


def test_coherent_counts_give_almost_a_delta_and_no_worse_a_crystal():
    crystal = truth()
    data = measured(crystal, widths=(0, 0, 0), is_noisy=True)
    coherent = phased(data, crystal)
    without = float(nmse(crystal, coherent.result[0]))
    *_, (gaussian_batch, gaussian) = refine_coherence(data, coherent, GaussianKernel(widths_vox=(0.5, 0.5, 0.5)))
    *_, (free_batch, free) = refine_coherence(data, coherent, free_kernel(data.magnitude))
    assert max(gaussian.widths_vox) < 0.15
    assert float(nmse(crystal, gaussian_batch.result[0])) < 1.05 * without + 1e-4
    assert float(free.values.flatten()[0]) > 0.9
    assert float(nmse(crystal, free_batch.result[0])) < 2 * without + 1e-3


def test_a_refinement_whose_time_is_over_ends_after_one_step_with_a_kernel():
    crystal = truth()
    data = measured(crystal)
    start = Batch(crystal=crystal[None], support=crystal[None].abs() > 0)
    first = GaussianKernel(widths_vox=(0.5, 0.5, 0.5))
    found = list(refine_coherence(data, start, first, is_over=lambda: True))
    assert [batch.cycle for batch, _ in found] == [1]
    assert found[0][1].widths_vox == pytest.approx(WIDTHS, rel=0.2)
