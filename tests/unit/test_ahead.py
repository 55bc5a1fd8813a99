"""Work ahead: whatever the order of the frames, the crystal is the one that all frames at once give."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain

import numpy as np
import pytest

from cdi_stream.inversion import frame_steps
from cdi_stream.inversion.ahead import MOST_CURVES, WorkAhead
from cdi_stream.inversion.chain import infer_curve, lab_volume
from cdi_stream.inversion.frame_inputs import FrameInputs
from cdi_stream.inversion.frame_steps import FrameSteps
from cdi_stream.inversion.locate import locate
from cdi_stream.inversion.mark import mark
from cdi_stream.inversion.prepare import prepare
from cdi_stream.messages import PartialCurve, read_only
from sim_beamline.scan import recorded_scan
from tests.assembling import Rig, scan_begin, scan_points
from tests.builders import curve_of, settings_for

N = 48
"""Frames of the scan."""

ORDERS = {
    "forward": np.arange(N),
    "backward": np.arange(N)[::-1],
    "random": np.random.default_rng(5).permutation(N),
    "one missing": np.delete(np.arange(N), 24),
    "every third missing": np.delete(np.arange(N), slice(0, N, 3)),
}


@pytest.fixture(scope="module")
def scan():
    return recorded_scan("plain")


@pytest.fixture(scope="module")
def settings(scan):
    return settings_for(scan)


@pytest.fixture(scope="module")
def curve(scan):
    return replace(curve_of(scan), key="one", image_ids=np.arange(N))


@pytest.fixture
def damaged(curve):
    """The scan with hot voxels, a hot pixel, a hot frame's row, a saturated voxel and a bad pixel at the peak."""
    counts = curve.counts.copy()
    rng = np.random.default_rng(7)
    counts[tuple(rng.integers(0, n, 30) for n in counts.shape)] = 900
    is_gap = counts == curve.sentinel
    counts[:, 20, 12] += 500
    counts[30, 40] += 3000
    counts[is_gap] = curve.sentinel
    counts[10, 11, 12] = curve.sentinel
    mask = np.ones(counts.shape[1:], bool)
    mask[18:20, 50] = False
    return replace(curve, counts=counts, series=replace(curve.series, pixel_mask=mask))


def partial_of(curve, so_far):
    """The curve when the frames ``so_far`` came; all others hold whatever the memory held before."""
    has_frame = np.isin(np.arange(N), so_far)
    memory = np.where(has_frame[:, None, None], curve.counts, np.uint32(12345))
    awaited = tuple(range(max(so_far) + 1, N))
    waiting = replace(curve, counts=np.zeros((0, 1, 1), np.uint32), has_frame=has_frame, awaited=awaited)
    return PartialCurve(curve=waiting, memory=memory, slots=curve.image_ids, fraction=0.5, ends_s=0.0, is_preview=False)


def finished(curve, frames):
    """The curve at its end, with these frames only."""
    has_frame = np.isin(np.arange(N), frames)
    return replace(curve, counts=read_only(curve.counts * has_frame[:, None, None]), has_frame=has_frame)


def steps_after(curve, order, settings, shares=(0.5, 0.6, 0.75, 0.9, 0.98)):
    ahead = WorkAhead(settings)
    for share in shares:
        ahead.take(partial_of(curve, order[: int(share * len(order))]))
    return ahead.steps_of(curve.key)


def require_same(curve, steps, settings, network):
    """Prepare the curve and bring it to the lab grid, with the work ahead and without: all is the same."""
    geometry, _, _ = locate(curve, settings.beamline, settings.fixed)
    plain = prepare(curve, geometry, settings.detector, settings.prepare)
    volume = prepare(curve, geometry, settings.detector, settings.prepare, steps)
    for name in ("counts", "valid_pixels", "expected_scale"):
        np.testing.assert_array_equal(getattr(volume, name), getattr(plain, name), err_msg=name)
    for name in ("crystal_extent_m", "oversampling", "n_bad", "n_alien", "doubts"):
        assert getattr(volume, name) == getattr(plain, name), name
    np.testing.assert_array_equal(volume.affine.q0, plain.affine.q0)
    lab, plain_lab = lab_volume(volume, network, filled=steps.filled), lab_volume(plain, network)
    np.testing.assert_allclose(lab.magnitude, plain_lab.magnitude, atol=1e-5)
    np.testing.assert_array_equal(lab.valid_pixels, plain_lab.valid_pixels)
    assert lab.magnitude.max() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("kind", ["curve", "damaged"])
def test_the_order_of_the_frames_changes_nothing(kind, order, settings, network, request):
    one = request.getfixturevalue(kind)
    steps = steps_after(one, order, settings)
    require_same(finished(one, order), steps, settings, network)


def test_a_monitor_of_which_later_frames_change_the_mean_changes_nothing(curve, settings, network, monkeypatch):
    monitor = np.linspace(1.0, 2.0, N)
    ahead = WorkAhead(settings)
    for n in (24, 36, 47):
        partial = partial_of(curve, np.arange(n))
        so_far = np.where(np.arange(N) < n, monitor, np.nan)
        ahead.take(replace(partial, curve=replace(partial.curve, monitor=so_far)))
    whole, steps = replace(curve, monitor=monitor), ahead.steps_of(curve.key)
    changed = []
    changes = FrameInputs.changes
    monkeypatch.setattr(FrameInputs, "changes", lambda *given: (changed.append(found := changes(*given)), found)[1])
    ahead.take(partial_of(whole, np.arange(N)))
    assert np.flatnonzero(changed[-1]).min() >= N - 6, "the last frame, and hot voxels of those before"
    monkeypatch.undo()
    require_same(whole, steps, settings, network)


def test_a_scale_that_changes_relative_to_that_of_other_frames_makes_the_work_new(curve, settings, network):
    ahead = WorkAhead(settings)
    ahead.take(partial_of(curve, np.arange(40)))
    changed = replace(curve, monitor=1 + 0.1 * (np.arange(N) == 12))
    require_same(changed, ahead.steps_of(curve.key), settings, network)


def test_each_frame_is_taken_once(curve, settings, network, monkeypatch):
    n_taken = []
    add = frame_steps.Surveyor.add
    monkeypatch.setattr(
        frame_steps.Surveyor, "add", lambda self, part, *rest: (n_taken.append(len(part)), add(self, part, *rest))
    )
    steps = steps_after(curve, ORDERS["forward"], settings, shares=(0.75, 0.9, 0.98))
    mark(curve, settings.detector, settings.prepare, steps)
    assert sum(n_taken) == N - 2, "the window about the peak leaves two frames out"
    assert n_taken[-1] == 1, "the last frame costs its own share"
    assert steps.n_again == 0


def test_a_peak_that_moves_makes_the_work_new_and_is_counted(curve, settings, network):
    """A bright reflection of another grain passes first, and stays fainter than the peak that comes later."""
    counts = curve.counts.copy()
    counts[4:9, 8:12, 8:12] += 40
    counts[:, 8:12, 8:12] = np.minimum(counts[:, 8:12, 8:12], curve.counts.max() // 2)
    other = replace(curve, counts=counts)
    steps = steps_after(other, np.arange(N), settings, shares=(0.3, 0.5, 0.98))
    assert steps.n_again > 0
    require_same(other, steps, settings, network)


def test_a_pixel_that_seemed_hot_makes_the_work_new(curve, settings, network):
    """Half of the scan a pixel counts evenly, as a hot pixel does; then it falls, as diffraction does."""
    counts = curve.counts.copy()
    counts[:30, 20, 20] = 60
    other = replace(curve, counts=counts)
    steps = steps_after(other, np.arange(N), settings, shares=(0.5, 0.98))
    assert steps.n_again == 1
    require_same(other, steps, settings, network)


def test_documents_that_change_the_order_of_the_frames_make_the_work_new(curve, settings, network):
    ahead = WorkAhead(settings)
    ahead.take(partial_of(curve, np.arange(40)))
    backward = replace(curve, counts=curve.counts[::-1].copy(), image_ids=np.arange(N)[::-1].copy())
    steps = ahead.steps_of(curve.key)
    require_same(backward, steps, settings, network)
    assert steps.n_again == 1


def test_frames_that_are_not_in_order_in_memory_are_copied(curve):
    partial = partial_of(curve, np.arange(40))
    assert np.shares_memory(partial.in_place().counts, partial.memory)
    mixed = replace(partial, slots=np.roll(partial.slots, 1))
    assert not np.shares_memory(mixed.in_place().counts, mixed.memory)
    short = replace(partial, memory=partial.memory[:40])
    np.testing.assert_array_equal(short.in_place().counts[:40], curve.counts[:40])


def test_frames_without_a_signal_are_no_error_and_do_no_harm(curve, settings, network):
    dark = replace(curve, counts=curve.counts * (np.arange(N) >= 24)[:, None, None].astype(np.uint32))
    ahead = WorkAhead(settings)
    ahead.take(partial_of(dark, np.arange(20)))
    require_same(dark, ahead.steps_of(curve.key), settings, network)


def test_of_curves_that_never_end_only_the_newest_are_kept(curve, settings):
    ahead = WorkAhead(settings)
    for k in range(5):
        partial = partial_of(curve, np.arange(30))
        ahead.take(replace(partial, curve=replace(partial.curve, key=f"curve {k}")))
    assert len(ahead._steps) == MOST_CURVES
    ahead.forget("curve 4")
    ahead.forget("curve 0")
    assert list(ahead._steps) == ["curve 3"]


def test_the_assembler_asks_for_it_and_the_crystal_is_the_same(scan, settings, network):
    rig = Rig(motors=frozenset(scan.scanned), preview_fractions=(0.75,), ahead_fractions=(0.8, 0.9))
    rig.feed(*scan_begin(scan))
    found = []
    for item in chain.from_iterable(scan_points(scan)):
        rig.feed(item)
        found += rig.assembler.partial_curves()
    assert [(one.fraction, one.is_preview) for one in found] == [(0.75, True), (0.8, False), (0.9, False)]
    ahead = WorkAhead(settings)
    for partial in found:
        ahead.take(partial)
    (curve,) = rig.curves
    steps = ahead.steps_of(curve.key)
    with_work = infer_curve(curve, network, settings, steps=steps).result.crystal
    assert steps.n_again == 0
    np.testing.assert_array_equal(with_work.density, infer_curve(curve, network, settings).result.crystal.density)


def test_a_fresh_curve_needs_no_work_ahead(curve, settings):
    steps = FrameSteps()
    mark(curve, settings.detector, settings.prepare, steps)
    assert steps.n_again == 0
