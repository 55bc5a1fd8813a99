"""The working frame and the way back: transforms agree voxel for voxel, whatever the shapes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cdi_stream.files.intensities.volume import Intensities
from cdi_stream.files.intensities.window import Window, padded_length, peak_of, window_of
from cdi_stream.geometry.affine import AffineMap
from cdi_stream.numerics.fourier import to_reciprocal

SHAPES = [(16, 18), (15, 17), (11, 24, 13), (12, 14, 16), (9, 10, 23)]


def box(shape):
    """A lopsided complex crystal well inside a grid."""
    density = torch.zeros(shape, dtype=torch.complex64)
    density[tuple(slice(n // 2 - 2, n // 2 + 2) for n in shape)] = 1
    density[tuple(n // 2 + 1 for n in shape)] = 0.5j
    return density


def measured(intensity, **more):
    counts = intensity.numpy().astype(np.float32)
    axes = tuple(f"axis {k}" for k in range(counts.ndim))
    return Intensities(counts=counts, valid_pixels=np.ones(counts.shape, dtype=bool), axes=axes, source="test", **more)


def power(crystal):
    return to_reciprocal(crystal, crystal.ndim).abs().square()


def ramp(shape, shift):
    """What a roll of the transform by ``shift`` multiplies the object by: exp(+i q.r) has the plus sign on the way."""
    steps = [(torch.arange(n, dtype=torch.float64) - n // 2) * k / n for n, k in zip(shape, shift, strict=True)]
    total = sum(torch.meshgrid(*steps, indexing="ij"))
    return torch.exp(-2j * torch.pi * total).to(torch.complex64)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("is_periodic", [True, False])
def test_the_objects_transform_is_the_crystals_at_the_voxel_it_was_taken_from(shape, is_periodic):
    rng = torch.Generator().manual_seed(0)
    numbers = torch.arange(float(np.prod(shape))).reshape(shape) + 1
    for peak in (tuple(n // 2 for n in shape), tuple(n // 3 for n in shape), (0,) * len(shape)):
        window = replace(window_of(measured(power(box(shape)), is_periodic=is_periodic)), peak=peak)
        crystal = torch.complex(torch.randn(window.shape, generator=rng), torch.randn(window.shape, generator=rng))
        field, working = to_reciprocal(crystal, len(shape)), to_reciprocal(window.undo(crystal), len(shape))
        taken = window.cut(numbers)  # which voxel of the file each working voxel is; 0 for none
        inside = taken > 0
        file_index = taken[inside].long() - 1
        assert (working.reshape(-1)[file_index] - field[inside]).abs().max() < 1e-5
        left = torch.ones(working.numel(), dtype=torch.bool)
        left[file_index] = False
        assert not left.any() or working.reshape(-1)[left].abs().max() < 1e-5
        assert window.cut(numbers)[tuple(n // 2 for n in window.shape)] == numbers[peak]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("max_length", [None, 10])
def test_a_roll_of_the_input_changes_the_object_by_its_ramp_and_nothing_else(shape, max_length):
    intensity, max_shape = power(box(shape)), max_length and (max_length,) * len(shape)
    shift = (5, -3, 2)[: len(shape)]
    rolled = torch.roll(intensity, shift, tuple(range(len(shape))))
    plain, other = (window_of(measured(i), max_shape) for i in (intensity, rolled))
    assert torch.equal(plain.take(measured(intensity)).counts, other.take(measured(rolled)).counts)
    crystal = box(plain.shape)
    expected = plain.undo(crystal) * ramp(shape, shift)
    assert (other.undo(crystal) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("shape", SHAPES)
def test_an_object_that_explains_the_working_volume_explains_the_file(shape):
    intensity = torch.roll(power(box(shape)), (1,) * len(shape), tuple(range(len(shape))))
    found = measured(intensity)
    window = window_of(found)
    volume = window.take(found)
    phases = torch.rand(window.shape, generator=torch.Generator().manual_seed(1)) * 6
    crystal = torch.fft.fftshift(
        torch.fft.fftn(torch.fft.ifftshift(torch.polar(volume.counts.sqrt(), phases)), norm="ortho")
    )
    assert (power(window.undo(crystal)) - intensity).abs().max() < 1e-4 * intensity.max()


def test_nothing_is_known_beyond_a_detectors_edge():
    intensity = torch.roll(power(box((16, 18))), (5, 0), (0, 1))
    found = measured(intensity, is_periodic=False, expected_scale=np.full((16, 18), 2, dtype=np.float32))
    window = window_of(found)
    volume = window.take(found)
    assert (window.peak, window.shape) == ((13, 9), (16, 18))
    assert torch.equal(volume.valid_pixels.any(dim=1), torch.arange(16) < 11)
    assert torch.equal(volume.counts[:11], torch.from_numpy(found.counts)[5:])
    assert not volume.counts[11:].any()
    assert torch.equal(volume.expected_scale[:, 0], torch.where(torch.arange(16) < 11, 2.0, 1.0))


def test_a_pad_is_invalid():
    found = measured(power(box((15, 17))))
    volume = window_of(found).take(found)
    assert volume.counts.shape == (16, 18)
    assert int(volume.valid_pixels.sum()) == 15 * 17
    assert torch.equal(volume.expected_scale, torch.ones(16, 18))


@pytest.mark.parametrize(("n", "length"), [(8, 8), (9, 10), (11, 12), (13, 14), (17, 18), (201, 210), (256, 256)])
def test_lengths_are_even_and_fast(n, length):
    assert padded_length(n) == length


def test_a_crop_has_a_fast_length_too():
    assert window_of(measured(power(box((24, 24, 24)))), (23, 30, 16)).shape == (20, 24, 16)


def test_the_map_follows_the_voxels():
    shape, rng = (11, 24, 13), np.random.default_rng(0)
    file_map = AffineMap(
        shape=shape, q0=rng.normal(size=3), bq=rng.normal(size=(3, 3)), sample_to_lab=np.eye(3), coordinates="detector"
    )
    window = Window(file_shape=shape, shape=(12, 20, 14), peak=(4, 13, 7))
    working = window.affine(file_map)
    assert working.shape == window.shape
    np.testing.assert_allclose(working.q0, file_map.q(window.peak))
    np.testing.assert_allclose(working.q((7, 9, 8)), file_map.q((5, 12, 8)))


def test_a_support_stays_about_the_crystal():
    for shape in SHAPES:
        window = window_of(measured(power(box(shape))))
        inside = box(window.shape).abs() > 0.1
        back = window.undo_support(inside)
        strong = window.undo(box(window.shape)).abs() > 0.7
        assert back.shape == shape
        assert (strong & ~back).sum() <= 0.1 * strong.sum()
        assert back.sum() / back.numel() == pytest.approx(float(inside.sum()) / inside.numel(), rel=0.5)
    same = Window(file_shape=(12, 14), shape=(12, 14), peak=(3, 5))
    assert torch.equal(same.undo_support(box((12, 14)).abs() > 0), box((12, 14)).abs() > 0)


def test_the_peak_is_no_hot_voxel_and_no_masked_one():
    intensity = power(box((12, 14, 16)))
    found = measured(intensity)
    assert peak_of(found) == (6, 7, 8)
    hot = intensity.clone()
    hot[1, 1, 1] = 100 * intensity.max()
    assert peak_of(measured(hot)) == (6, 7, 8)
    hot[1:4, 1:4, 1:4] = 100 * intensity.max()
    masked = replace(measured(hot), valid_pixels=(hot <= intensity.max()).numpy())
    assert peak_of(masked) == (6, 7, 8)
    assert peak_of(measured(torch.roll(intensity, (6, 7), (0, 1)))) == (0, 0, 8)


def test_the_peak_behind_an_absorber_is_the_peak():
    intensity = power(box((12, 14, 16)))
    scale = torch.ones_like(intensity)
    scale[5:8] = 1e-4
    dimmed = replace(measured(intensity * scale), expected_scale=scale.numpy())
    assert peak_of(replace(dimmed, expected_scale=None)) != (6, 7, 8)
    assert peak_of(dimmed) == (6, 7, 8)
