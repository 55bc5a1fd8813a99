"""Simulated volumes on the network's own grid: the peak at the origin voxel, the crystal in the middle half.

Their crystals have the extent that the network expects, so that nothing has to be resampled for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Generator, Tensor

from cdi_stream.inversion.infer import SUPPORT_THRESHOLD
from cdi_stream.networks.losses import pad_to_double
from cdi_stream.networks.packaged import DEFAULT_NETWORK
from cdi_stream.networks.torchscript import Network, load
from cdi_stream.numerics.fourier import to_crystal, to_fourier_order, to_reciprocal
from cdi_stream.phasing.align import align
from cdi_stream.phasing.engine import Batch
from cdi_stream.phasing.measures import chi2, r_p
from cdi_stream.phasing.projections import Measurement, reciprocal
from cdi_stream.phasing.starts import start_from
from cdi_stream.phasing.support import grow


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """Counts and the crystal they come from, origin at N//2."""

    counts: Tensor
    truth: Tensor

    @property
    def magnitude(self) -> Tensor:
        """Magnitudes as the network takes them."""
        return (self.counts / self.counts.amax()).sqrt()

    @property
    def data(self) -> Measurement:
        """The measurement as phasing takes it."""
        magnitude = to_fourier_order(self.counts.sqrt()).contiguous()
        everywhere = torch.ones(magnitude.shape, dtype=torch.bool)
        return Measurement(magnitude=magnitude, magnitude_scale=torch.ones(magnitude.shape), valid=everywhere)


def volume_of(truth: Tensor, photons: float, seed: int) -> Volume:
    """Diffraction of a crystal ``(n, n, n)``, rolled so that its peak is at the origin voxel; infinite: no noise."""
    field = to_reciprocal(truth)
    peak = torch.unravel_index(field.abs().argmax(), field.shape)
    shifts = [n // 2 - int(p) for n, p in zip(field.shape, peak, strict=True)]
    field = torch.roll(field, shifts, (0, 1, 2))
    expected = field.abs().square()
    expected = expected * ((1e6 if photons == float("inf") else photons) / expected.sum())
    counted = expected if photons == float("inf") else torch.poisson(expected, Generator().manual_seed(seed))
    return Volume(counts=counted, truth=to_crystal(field))


@lru_cache(maxsize=1)
def network() -> Network:
    """The packaged network."""
    return load(DEFAULT_NETWORK)


def seen_by_network(volume: Volume) -> Batch:
    """Crystal and support as the network answers, the support grown by one voxel as for the live polish."""
    return as_start(pad_to_double(network()(volume.magnitude)))


def as_start(crystal: Tensor) -> Batch:
    """Start from a crystal ``(n, n, n)``, origin at N//2, with the support that its amplitude means."""
    amplitude = crystal.abs()
    support = grow(amplitude > SUPPORT_THRESHOLD * amplitude.amax())
    return start_from(to_fourier_order(crystal), to_fourier_order(support))


def misfits(batch: Batch, data: Measurement) -> tuple[list[float], list[float]]:
    """``chi2`` and ``r_p`` of each start."""
    model = reciprocal(batch.result, data.n_axes).abs()
    return chi2(model, data.magnitude).tolist(), r_p(model, data.magnitude).tolist()


def nmse(volume: Volume, crystals: Iterable[Tensor]) -> list[float]:
    """Distance of crystals in Fourier order from the truth."""
    truth = to_fourier_order(volume.truth)
    return [1 - align(truth, crystal).correlation ** 2 for crystal in crystals]
