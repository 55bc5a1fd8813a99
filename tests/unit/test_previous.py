"""The crystal of an earlier run as a start: found among the results, laid on the measured voxels, and harmless."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from cdi_stream.disk.result_folder import ResultFolder
from cdi_stream.documents.publish import RunPublisher, reconstruction_identity
from cdi_stream.documents.run_context import context_of
from cdi_stream.documents.run_record import RunRecord
from cdi_stream.geometry.affine import AffineMap
from cdi_stream.inversion.chain import PreviousCrystal, infer_curve, phase_curve
from cdi_stream.inversion.phase_retrieval import FROM_NETWORK
from cdi_stream.inversion.previous import laid_on_peak, like_previous, turned
from cdi_stream.live.previous import previous_crystal
from cdi_stream.messages import RunContext
from cdi_stream.numerics.fourier import twin
from cdi_stream.phasing.align import align
from cdi_stream.phasing.projections import Measurement, reciprocal
from sim_beamline.cases import strained_series
from sim_beamline.scan import record, recorded_scan
from tests.builders import curve_of, settings_for
from tests.unit.test_publish import PROVENANCE, SHAPES, crystal, result


def blob(shape=(24, 20, 28)):
    """A crystal without symmetry, origin at N//2."""
    z, y, x = np.meshgrid(*(np.arange(n) - n // 2 for n in shape), indexing="ij")
    inside = (abs(z) < 4) & (abs(y) < 3) & (abs(x) < 5) & (x + y + z < 5)
    return torch.from_numpy((inside * np.exp(1j * (0.02 * x * y + 0.3 * (x > 1)))).astype(np.complex64))


@pytest.mark.parametrize("shift", [(0, 0, 0), (2, -3, 1)])
def test_a_crystal_is_laid_on_the_measured_peak(shift):
    truth = torch.fft.ifftshift(blob())
    magnitude = torch.roll(reciprocal(truth, 3).abs(), shift, (0, 1, 2))
    data = Measurement(
        magnitude=magnitude, magnitude_scale=torch.ones_like(magnitude), valid=torch.ones_like(magnitude) > 0
    )
    placed = reciprocal(laid_on_peak(truth, data), 3).abs()
    assert torch.allclose(placed, magnitude, atol=1e-4)


def test_a_crystal_turns_with_its_sample():
    quarter = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
    before = crystal(SHAPES["reconstruction"])
    there = AffineMap(shape=(4, 4, 4), q0=np.ones(3), bq=np.eye(3), sample_to_lab=quarter, coordinates="detector")
    here = turned(before, there).affine
    in_sample = [affine.sample_to_lab.T @ affine.br for affine in (before.affine, here)]
    assert np.allclose(in_sample[0], in_sample[1])
    assert np.allclose(before.affine.q0, quarter.T @ here.q0)


def test_a_twin_of_the_previous_crystal_is_turned_back():
    density = blob()
    same = replace(crystal(tuple(density.shape)), density=density.numpy(), support=density.abs().numpy() > 0)
    other = replace(same, density=twin(density).numpy(), support=twin(density).abs().numpy() > 0)
    for given in (same, other):
        kept, correlation = like_previous(given, density)
        assert correlation == pytest.approx(1.0, abs=1e-4)
        assert align(density, torch.from_numpy(kept.density.copy()), ("same",)).correlation > 0.999
        assert np.array_equal(kept.support, abs(kept.density) > 0)


@pytest.fixture
def results(tmp_path):
    """Folder with the results of the raw runs ``first`` (two curves) and ``second`` (its only curve failed)."""
    for raw, curves in {"first": (True, True), "second": (False,)}.items():
        identity = reconstruction_identity(raw, "c" * 64)
        publisher = RunPublisher(RunContext(uid=raw), PROVENANCE, SHAPES, tmp_path, lambda *_: None, identity)
        for index, has_crystal in enumerate(curves):
            made = replace(result("reconstruction", index, has_crystal), curve_index=index)
            path = publisher.result(made).path
            os.utime(path, (1000.0 + index, 1000.0 + index))
    (tmp_path / "damaged_reconstruction.h5").write_bytes(b"no file of ours")
    return ResultFolder(base=tmp_path)


def context(**start):
    return context_of(RunRecord(uid="third", start={"uid": "third", **start}, received_s=0.0))


def test_the_previous_crystal_is_found_among_the_results(results):
    found = previous_crystal(results, context(previous_run="first", series_index=1))
    assert found.run_uid == "first"
    assert np.array_equal(found.crystal.density, crystal(SHAPES["reconstruction"]).density)


@pytest.mark.parametrize("start", [{}, {"previous_run": 3}, {"previous_run": "unknown"}, {"previous_run": "second"}])
def test_without_a_previous_crystal_there_is_none(results, start):
    assert previous_crystal(results, context(**start)) is None


def test_the_start_document_of_the_result_names_the_series():
    start = {"series_uid": "a", "series_index": 2, "previous_run": "b"}
    assert context(**start).metadata == start


@pytest.fixture(scope="module")
def scans():
    return [record(scan) for scan in strained_series((1.0, 4.0))]


SETTINGS = {"recipe": {"recipe": FROM_NETWORK}, "large": {"most_voxels": 0}}


@pytest.mark.parametrize(
    "phase", [SETTINGS["recipe"], pytest.param(SETTINGS["large"], marks=pytest.mark.slow)], ids=SETTINGS.keys()
)
def test_a_previous_crystal_competes_with_the_network(scans, network, phase):
    """The right crystal helps a network that is of no use; a wrong crystal does not harm a good network."""
    chain = settings_for(scans[1], phase=phase)
    inferred = infer_curve(curve_of(scans[1]), network, chain)
    named = replace(inferred, curve=replace(inferred.curve, run=context(previous_run="gone")))
    alone = phase_curve(named, chain)
    assert alone.verdict.reasons[-1] == "no crystal of the previous run gone was a start: none is among the results"
    right = PreviousCrystal(run_uid="right", crystal=alone.crystal)
    rng = np.random.default_rng(3)
    noise = (rng.normal(size=alone.crystal.density.shape) * alone.crystal.support).astype(np.complex64)
    wrong = PreviousCrystal(run_uid="wrong", crystal=replace(alone.crystal, density=noise))
    start = inferred.find_start()
    useless = replace(inferred, find_start=lambda: replace(start, density=torch.randn_like(start.density)))
    assert phase_curve(useless, chain, previous=right).metrics.chi2 < 1.15 * alone.metrics.chi2
    beside_wrong = phase_curve(inferred, chain, previous=wrong)
    assert beside_wrong.metrics.chi2 < 1.05 * alone.metrics.chi2
    assert "the crystal of run wrong was one of the starts" in beside_wrong.verdict.reasons[-1]


@pytest.mark.slow
def test_half_of_a_crystal_does_not_limit_the_search(scans, network):
    by_recipe = settings_for(scans[1], phase={"recipe": FROM_NETWORK})
    chain = settings_for(scans[1])
    inferred = infer_curve(curve_of(scans[1]), network, chain)
    alone = phase_curve(inferred, by_recipe)
    small = replace(alone.crystal, support=alone.crystal.support & (np.arange(96) > 48))
    beside_small = phase_curve(inferred, chain, previous=PreviousCrystal(run_uid="small", crystal=small))
    assert beside_small.verdict.grade == "good"
    assert beside_small.metrics.chi2 < 1.05 * alone.metrics.chi2


def test_a_previous_crystal_may_come_from_another_window(network):
    """The first scan has another number of frames and another step: its grid has other voxels and another Q0."""
    scan = recorded_scan("plain")
    chain = settings_for(scan, phase={"recipe": FROM_NETWORK})
    first = phase_curve(infer_curve(curve_of(scan), network, chain), chain)
    frames = slice(5, 43)
    cut = replace(
        scan,
        frames=scan.frames[frames, 3:, 5:],
        scanned={name: track[frames] for name, track in scan.scanned.items()},
        pixel_mask=scan.pixel_mask[3:, 5:],
        detector={
            **scan.detector,
            "beam_row": scan.detector["beam_row"] - 3,
            "beam_col": scan.detector["beam_col"] - 5,
        },
    )
    inferred = infer_curve(curve_of(cut), network, chain)
    start = inferred.find_start()
    useless = replace(inferred, find_start=lambda: replace(start, density=torch.randn_like(start.density)))
    only_er = settings_for(scan, phase={"recipe": "20*ER"})
    again = phase_curve(useless, only_er, previous=PreviousCrystal(run_uid="first", crystal=first.crystal))
    assert again.metrics.chi2 < 2 * first.metrics.chi2
