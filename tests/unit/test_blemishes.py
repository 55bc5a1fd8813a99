"""Blemishes of patterns: what is marked, and what never is."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from cdi_stream.inversion.blemishes import alien_islands, find_blemishes, good_pixels, is_saturated
from cdi_stream.inversion.outliers import outliers

HOT = 1e7


def ideal(n: int, n_axes: int, oversampling: float, kind: str = "box", strain_pi: float = 0.0, total: float = 1e6):
    """Diffraction without noise, as float64, of a crystal ``oversampling`` times shorter than the array."""
    grid = np.meshgrid(*[np.arange(n) - n // 2] * n_axes, indexing="ij")
    half = n / oversampling / 2
    inside = {
        "box": lambda: np.all([(x >= -half) & (x < half) for x in grid], axis=0),
        "ball": lambda: sum(x**2 for x in grid) < half**2,
        "octahedron": lambda: sum(abs(x) for x in grid) < half,
    }[kind]()
    phase = strain_pi * np.pi * sum(np.sin(2 * x / half + k) for k, x in enumerate(grid)) / (2 * n_axes)
    field = np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(inside * np.exp(1j * phase))))
    intensity = np.abs(field) ** 2
    return intensity * (total / intensity.sum())


def everywhere(counts: NDArray) -> NDArray[np.bool_]:
    return np.ones(counts.shape, dtype=bool)


def peak_of(counts: NDArray) -> tuple[int, ...]:
    return tuple(int(k) for k in np.unravel_index(int(counts.argmax()), counts.shape))


@pytest.mark.parametrize("strain_pi", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("kind", ["box", "ball", "octahedron"])
@pytest.mark.parametrize(("n", "n_axes"), [(32, 3), (33, 3), (16, 3), (64, 2), (41, 2)])
def test_the_bragg_peak_is_never_marked(n, n_axes, kind, strain_pi):
    """Ideal and counted patterns, down to a crystal that fills the array, whose peak is one voxel."""
    rng, n_single = np.random.default_rng(0), 0
    for oversampling in (1.05, 1.1, 1.2, 1.3, 1.5, 2.0, 2.5, 4.0):
        exact = ideal(n, n_axes, oversampling, kind, strain_pi)
        for counts in (
            exact,
            rng.poisson(exact),
            rng.poisson(exact / 100),
            np.roll(exact, (5, -9, 3)[:n_axes], range(n_axes)),
        ):
            found = find_blemishes(counts, everywhere(counts), wraps=True)
            assert not found.voxels[peak_of(counts)], oversampling
            n_single += found.lone_peak is not None
            if oversampling >= 1.5:
                assert not found.hot.any(), oversampling
    if kind == "box" and strain_pi == 0:
        assert n_single > 0  # the rule was put to the test


def places(name: str, peak: tuple[int, ...], n: int) -> list[tuple]:
    """Where the array is hot, as indices."""
    rest = peak[1:]
    far = tuple((p + n // 4 + k) % n for k, p in enumerate(peak))
    return {
        "one": [far],
        "corner": [(0,) * len(peak)],
        "next to the peak": [(peak[0] + 1, *rest)],
        "two from the peak": [(*peak[:-1], peak[-1] - 2)],
        "several": [far, (1,) * len(peak), (n - 2, *rest)],
        "two that touch": [far, (far[0] + 1, *far[1:])],
        "row": [(*far[:-1], slice(None))],
        "column": [(slice(None), *far[1:])],
        "plane": [(..., far[-1])],
    }[name]


@pytest.mark.parametrize("oversampling", [1.5, 2.0, 3.0])
@pytest.mark.parametrize(("n", "n_axes"), [(32, 3), (64, 2)])
@pytest.mark.parametrize(
    "name",
    ["one", "corner", "next to the peak", "two from the peak", "several", "two that touch", "row", "column", "plane"],
)
def test_what_is_hot_is_marked_and_nothing_else(name, n, n_axes, oversampling):
    counts = np.random.default_rng(1).poisson(ideal(n, n_axes, oversampling, "octahedron", 1.0)).astype(float)
    hot = np.zeros(counts.shape, dtype=bool)
    for place in places(name, peak_of(counts), n):
        hot[place] = True
    counts[hot] = HOT
    np.testing.assert_array_equal(find_blemishes(counts, everywhere(counts), wraps=True).hot, hot)


def test_a_hot_row_through_the_peak_is_marked_and_the_peak_stays():
    counts = np.random.default_rng(1).poisson(ideal(32, 3, 3.0)).astype(float)
    counts[:, 16, 16] += 500
    found = find_blemishes(counts, everywhere(counts), wraps=True)
    assert not found.voxels[16, 16, 16]
    assert found.hot[:10, 16, 16].all()


def test_intensities_in_units_of_their_own_are_cleaned_alike():
    counts = ideal(32, 3, 3.0)
    counts[3, 4, 5] = 10 * counts.max()
    scaled = counts / counts.max()
    found = find_blemishes(scaled, everywhere(counts), photon=scaled.sum() / 1e6, wraps=True)
    assert np.argwhere(found.hot).tolist() == [[3, 4, 5]]


def test_what_is_not_valid_is_not_judged_and_helps_nobody():
    counts = np.random.default_rng(1).poisson(ideal(32, 3, 3.0)).astype(np.uint32)
    valid = everywhere(counts)
    counts[2, 2, 2], valid[2, 2, 2] = 2**32 - 1, False
    counts[20, 3, 3] = 9000
    found = find_blemishes(counts, valid)
    assert np.argwhere(found.voxels).tolist() == [[20, 3, 3]]


def test_a_voxel_among_masked_ones_cannot_be_told():
    values = np.full((9, 9), -1, dtype=np.float32)
    values[4, 4] = 1000
    assert not outliers(values, 30.0).any()
    values[:, :] = 0
    values[4, 4] = 1000
    assert np.argwhere(outliers(values, 30.0)).tolist() == [[4, 4]]
    assert not outliers(values, 2000.0).any()


@pytest.mark.parametrize("n_axes", [2, 3])
@pytest.mark.parametrize("roll", [0, 9])
def test_an_island_without_a_mate_is_alien_and_a_pair_is_not(n_axes, roll):
    axes = range(n_axes)
    distance2 = sum((x - 20) ** 2 for x in np.indices((40,) * n_axes))
    counts = np.random.default_rng(1).poisson(1000 * np.exp(-distance2 / 18)).astype(np.uint32)
    counts[(slice(2, 6),) * n_axes] += 60
    peak = ((20 + roll) % 40,) * n_axes
    found = alien_islands(np.roll(counts, (roll,) * n_axes, axes), everywhere(counts), peak, wraps=True)
    found = np.roll(found, (-roll,) * n_axes, axes)
    assert found[(3,) * n_axes]
    assert not found[(20,) * n_axes]
    counts[(slice(35, 39),) * n_axes] += 60
    assert not alien_islands(counts, everywhere(counts), (20,) * n_axes, wraps=True).any()


def test_an_island_beside_an_off_centre_peak_of_a_detector_is_alien():
    counts = np.zeros((24, 40, 40), dtype=np.uint32)
    counts[8:14, 10:17, 12:19] = np.random.default_rng(0).poisson(300, (6, 7, 7))
    counts[3:7, 2:6, 27:31] = 60
    found = alien_islands(counts, everywhere(counts), (11, 13, 15))
    assert found[5, 4, 29]
    assert not found[11, 13, 15]


def test_beside_a_hot_spot_that_is_not_told_the_peak_is_no_alien():
    counts = np.random.default_rng(1).poisson(ideal(32, 3, 3.0)).astype(float)
    counts[4:6, 4:6, 4] = HOT
    assert not find_blemishes(counts, everywhere(counts), wraps=True).voxels[16, 16, 16]


@pytest.mark.parametrize(("largest", "ends"), [(2**32 - 1, 2), (2**16 - 1, 2), (255, 1)])
def test_the_end_of_the_data_type_is_no_count(largest, ends):
    counts = np.array([0, 100, largest - 2, largest - 1, largest], dtype=np.uint64)
    assert is_saturated(counts, largest).sum() == ends
    assert good_pixels(counts, 0 * counts, largest).all()
    assert not good_pixels(counts[-ends:], counts[-ends:], largest).any()


def test_a_pixel_that_is_bright_in_every_frame_is_hot():
    top, bottom = np.array([900, 900, 40]), np.array([800, 3, 9])
    assert good_pixels(top, bottom, 2**32 - 1).tolist() == [False, True, True]
