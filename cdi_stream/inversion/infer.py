"""Run a network on a lab volume and return its crystal in lab coordinates."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from cdi_stream.messages import Crystal, LabVolume, Verdict, read_only
from cdi_stream.metrics import Metrics
from cdi_stream.networks.torchscript import Network
from cdi_stream.numerics.fourier import to_fourier_order
from cdi_stream.phasing.judge import judge
from cdi_stream.phasing.projections import Measurement
from cdi_stream.phasing.quality import explained

UNREFINED = "the network's first answer, not yet compared with the measured voxels"
"""Reason in the verdict of a crystal from the network alone."""

SUPPORT_THRESHOLD = 0.3
"""Amplitude, relative to the largest, above which a voxel of the network's answer belongs to the support."""


def infer(volume: LabVolume, network: Network) -> Crystal:
    """Return the network's crystal; its verdict is ``preliminary``, or ``failed`` if it is empty or not finite."""
    crystal = crystal_of(network(torch.from_numpy(np.array(volume.magnitude))), volume)
    is_shown = math.isfinite(crystal.metrics.chi2) and bool(crystal.support.any())
    grade = "preliminary" if is_shown else "failed"
    return replace(crystal, verdict=Verdict(grade=grade, reasons=(UNREFINED,)))


def crystal_of(answer: Tensor, volume: LabVolume) -> Crystal:
    """Return a network's answer as a crystal of its volume's shape, with its support and misfit."""
    magnitude = torch.from_numpy(np.array(volume.magnitude))
    sizes = zip(reversed(volume.affine.shape), reversed(answer.shape), strict=True)
    pad = [p for n, m in sizes for p in _embedding_pad(n, m)]
    amplitude = answer.abs()
    density = torch.nn.functional.pad(answer, pad).cpu()
    support = torch.nn.functional.pad(amplitude > SUPPORT_THRESHOLD * amplitude.amax(), pad).cpu()
    data = Measurement(
        magnitude=to_fourier_order(magnitude),
        magnitude_scale=torch.ones(()),
        valid=to_fourier_order(torch.from_numpy(np.array(volume.valid_pixels))),
    )
    # |F| is the same for any place of the crystal, and scaled magnitudes have no floor of counting noise.
    numbers = explained(density, data)
    metrics = Metrics(**numbers, support_fraction=int(support.sum()) / support.numel())
    return Crystal(
        density=read_only(density.numpy()),
        support=read_only(support.numpy()),
        affine=volume.affine,
        metrics=metrics,
        verdict=judge(metrics),
    )


def _embedding_pad(n: int, m: int) -> tuple[int, int]:
    """Return the voxels to add before and after an axis of ``m``, so that origin m//2 becomes origin n//2 of ``n``."""
    before = n // 2 - m // 2
    return before, n - m - before
