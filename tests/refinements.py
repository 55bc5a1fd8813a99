"""Refinement jobs for tests, campaigns and benchmarks: a small crystal, queued as the service does it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from cdi_stream.documents.publish import Provenance
from cdi_stream.geometry.affine import AffineMap, Shape
from cdi_stream.inversion.methods import MethodSettings
from cdi_stream.messages import Crystal, FrameAccount, PhasedVolume, PreparedVolume, Result, RunContext, Verdict
from cdi_stream.metrics import Metrics
from cdi_stream.networks.packaged import DEFAULT_NETWORK
from cdi_stream.refine.backlog import BacklogSettings
from cdi_stream.refine.inputs import INPUTS, write_input
from cdi_stream.refine.jobs import spec_of
from cdi_stream.refine.queue import QUEUE, Queue

VOXEL_M = 1e-8
PHOTONS = 1e5


def result_of(n: int = 16) -> Result:
    """A reconstruction on n x n x n voxels: a ball of a third of the volume's width, its counts with noise."""
    rng = np.random.default_rng(n)
    axes = np.ogrid[tuple(slice(-n // 2, n - n // 2) for _ in range(3))]
    ball = (sum(axis**2 for axis in axes) <= (n / 6) ** 2).astype(np.complex64)
    density = ball * np.exp(1j * (0.5 * axes[0] / n)).astype(np.complex64)
    intensity = np.abs(np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(density)))) ** 2
    counts = rng.poisson(intensity * PHOTONS / intensity.sum()).astype(np.uint32)
    bq = 2 * np.pi / (n * VOXEL_M) * np.eye(3)
    q0 = np.array([0.0, 0.0, 3e10])
    affine = AffineMap(shape=(n, n, n), q0=q0, bq=bq, sample_to_lab=np.eye(3), coordinates="detector")
    volume = PreparedVolume(
        counts=counts,
        valid_pixels=np.ones(counts.shape, bool),
        expected_scale=np.ones(counts.shape, np.float32),
        affine=affine,
        crystal_extent_m=(n / 3 * VOXEL_M,) * 3,
        oversampling=(3.0, 3.0, 3.0),
    )
    crystal = Crystal(
        density=density,
        support=ball.real > 0,
        affine=affine,
        metrics=Metrics(chi2=0.1, r_p=0.9),
        verdict=Verdict(grade="good"),
    )
    return Result(
        stream="reconstruction",
        curve_index=0,
        series="1",
        crystal=crystal,
        verdict=crystal.verdict,
        account=FrameAccount(expected=n, received=n),
        metrics=Metrics(),
        complete_s=0.0,
        phased=PhasedVolume(volume=volume, crystal=crystal),
    )


def settings_of(
    directory: Path, recipe: str = "1*ER", methods: tuple[str, ...] = ("recipe",), shape: Shape = (16, 16, 16)
) -> BacklogSettings:
    """Settings of a backlog in a folder, on a bus where nobody is."""
    return BacklogSettings(
        methods=methods,
        method_settings=MethodSettings(
            recipe=recipe, network_file=DEFAULT_NETWORK, network_steps=1, network_recipe="1*ER", budget_s=86_400.0
        ),
        provenance=Provenance(version="0", config_sha256="c", network_name="n", network_sha256="s", beamline="b"),
        lab_shape=shape,
        directory=directory,
        config_file=directory / "none.toml",
        subscribe="tcp://127.0.0.1:1",
        prefix="",
        serializer="msgpack",
    )


def enqueue_jobs(directory: Path, indices: Iterable[int], recipe: str, n: int = 16) -> None:
    """Put one job for each index into the queue, for a curve of a run of its own; jobs that are there stay."""
    result, settings = result_of(n), settings_of(directory, recipe, shape=(n, n, n))
    assert result.phased is not None
    with contextlib.closing(Queue(directory / QUEUE)) as queue:
        for index in indices:
            run = RunContext(uid=f"raw-{index}")
            parts = (settings.provenance, settings.method_settings, settings.lab_shape)
            spec = spec_of(result, run, f"reconstruction-{index}", *parts)
            write_input(directory / INPUTS / spec.input, result.phased)
            queue.enqueue(spec.key("recipe"), "recipe", spec.model_dump(mode="json"), spec.input)
