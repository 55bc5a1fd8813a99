"""Work ahead: whatever the order of the frames, the crystal is the one that all frames at once give."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain

import numpy as np
import pytest

from cdi_stream.inversion import filling
from cdi_stream.inversion.ahead import MOST_CURVES, MOST_RESTARTS, WorkAhead
from cdi_stream.inversion.chain import infer_curve, lab_volume
from cdi_stream.inversion.frame_inputs import FrameInputs
from cdi_stream.inversion.frame_work import FrameWork
from cdi_stream.inversion.locate import locate
from cdi_stream.inversion.mark import mark
from cdi_stream.inversion.prepare import prepare
from cdi_stream.inversion.survey import Surveyor
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
    return PartialCurve(
        curve=waiting, memory=memory, slots=curve.image_ids, fraction=0.5, ends_s=np.inf, is_preview=False
    )


def finished(curve, frames):
    """The curve at its end, with these frames only."""
    has_frame = np.isin(np.arange(N), frames)
    return replace(curve, counts=read_only(curve.counts * has_frame[:, None, None]), has_frame=has_frame)


def kept(ahead, key):
    """The work on a curve as it is when its last frame comes."""
    with ahead.last_work_on(key) as work:
        return work


def work_after(curve, order, settings, shares=(0.5, 0.6, 0.75, 0.9, 0.98)):
    ahead = WorkAhead(settings)
    for share in shares:
        ahead.take(partial_of(curve, order[: int(share * len(order))]))
    return kept(ahead, curve.key)


def require_same(curve, work, settings, network):
    """Prepare the curve and bring it to the lab grid, with the work ahead and without: all is the same."""
    geometry, _, _ = locate(curve, settings.beamline, settings.fixed)
    plain = prepare(curve, geometry, settings.detector, settings.prepare)
    volume = prepare(curve, geometry, settings.detector, settings.prepare, work)
    for name in ("counts", "valid_pixels", "expected_scale"):
        np.testing.assert_array_equal(getattr(volume, name), getattr(plain, name), err_msg=name)
    for name in ("crystal_extent_m", "oversampling", "n_bad", "n_alien", "doubts"):
        assert getattr(volume, name) == getattr(plain, name), name
    np.testing.assert_array_equal(volume.affine.q0, plain.affine.q0)
    lab, plain_lab = lab_volume(volume, network, filled=work.filled), lab_volume(plain, network)
    np.testing.assert_allclose(lab.magnitude, plain_lab.magnitude, atol=1e-5)
    np.testing.assert_array_equal(lab.valid_pixels, plain_lab.valid_pixels)
    assert lab.magnitude.max() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("kind", ["curve", "damaged"])
def test_the_order_of_the_frames_changes_nothing(kind, order, settings, network, request):
    one = request.getfixturevalue(kind)
    work = work_after(one, order, settings)
    require_same(finished(one, order), work, settings, network)


def test_a_monitor_of_which_later_frames_change_the_mean_changes_nothing(curve, settings, network, monkeypatch):
    monitor = np.linspace(1.0, 2.0, N)
    ahead = WorkAhead(settings)
    for n in (24, 36, 47):
        partial = partial_of(curve, np.arange(n))
        so_far = np.where(np.arange(N) < n, monitor, np.nan)
        ahead.take(replace(partial, curve=replace(partial.curve, monitor=so_far)))
    whole, changed = replace(curve, monitor=monitor), []
    changes = FrameInputs.changes
    monkeypatch.setattr(FrameInputs, "changes", lambda *given: (changed.append(found := changes(*given)), found)[1])
    ahead.take(partial_of(whole, np.arange(N)))
    assert np.flatnonzero(changed[-1]).min() >= N - 6, "the last frame, and hot voxels of those before"
    monkeypatch.undo()
    require_same(whole, kept(ahead, curve.key), settings, network)


def test_a_scale_that_changes_relative_to_that_of_other_frames_makes_the_work_new(curve, settings, network):
    ahead = WorkAhead(settings)
    ahead.take(partial_of(curve, np.arange(40)))
    changed = replace(curve, monitor=1 + 0.1 * (np.arange(N) == 12))
    require_same(changed, kept(ahead, curve.key), settings, network)


def test_each_frame_is_taken_once(curve, settings, network, monkeypatch):
    n_taken = []
    add = Surveyor.add
    monkeypatch.setattr(Surveyor, "add", lambda self, part, *rest: (n_taken.append(len(part)), add(self, part, *rest)))
    work = work_after(curve, ORDERS["forward"], settings, shares=(0.75, 0.9, 0.98))
    mark(curve, settings.detector, settings.prepare, work)
    assert sum(n_taken) == N - 2, "the window about the peak leaves two frames out"
    assert n_taken[-1] == 1, "the last frame costs its own share"
    assert work.n_again == 0


def test_a_peak_that_moves_makes_the_work_new_and_is_counted(curve, settings, network):
    """A bright reflection of another grain passes first, and stays fainter than the peak that comes later."""
    counts = curve.counts.copy()
    counts[4:9, 8:12, 8:12] += 40
    counts[:, 8:12, 8:12] = np.minimum(counts[:, 8:12, 8:12], curve.counts.max() // 2)
    other = replace(curve, counts=counts)
    work = work_after(other, np.arange(N), settings, shares=(0.3, 0.5, 0.98))
    assert work.n_again > 0
    require_same(other, work, settings, network)


def test_a_pixel_that_seemed_hot_makes_the_work_new(curve, settings, network):
    """Half of the scan a pixel counts evenly, as a hot pixel does; then it falls, as diffraction does."""
    counts = curve.counts.copy()
    counts[:30, 20, 20] = 60
    other = replace(curve, counts=counts)
    work = work_after(other, np.arange(N), settings, shares=(0.5, 0.98))
    assert work.n_again == 1
    require_same(other, work, settings, network)


def test_documents_that_change_the_order_of_the_frames_make_the_work_new(curve, settings, network):
    ahead = WorkAhead(settings)
    ahead.take(partial_of(curve, np.arange(40)))
    backward = replace(curve, counts=curve.counts[::-1].copy(), image_ids=np.arange(N)[::-1].copy())
    work = kept(ahead, curve.key)
    require_same(backward, work, settings, network)
    assert work.n_again == 1


def test_frames_that_are_not_in_order_in_memory_are_copied(curve):
    partial = partial_of(curve, np.arange(40))
    assert np.shares_memory(partial.in_place().counts, partial.memory)
    mixed = replace(partial, slots=np.roll(partial.slots, 1))
    assert not np.shares_memory(mixed.in_place().counts, mixed.memory)
    short = replace(partial, memory=partial.memory[:40])
    np.testing.assert_array_equal(short.in_place().counts[:40], curve.counts[:40])


@pytest.mark.parametrize("slots", [np.arange(N) + 3, N + 4 - np.arange(N)], ids=["later", "backward"])
def test_frames_in_order_are_used_where_they_are(curve, slots):
    partial = partial_of(curve, np.arange(40))
    memory = np.full((N + 5, *curve.counts.shape[1:]), 12345, np.uint32)
    memory[slots[:40]] = curve.counts[:40]
    there = replace(partial, memory=memory, slots=slots).in_place()
    assert np.shares_memory(there.counts, memory)
    assert there.counts.shape == curve.counts.shape
    np.testing.assert_array_equal(there.counts[:40], curve.counts[:40])


def test_frames_without_a_signal_are_no_error_and_do_no_harm(curve, settings, network):
    dark = replace(curve, counts=curve.counts * (np.arange(N) >= 24)[:, None, None].astype(np.uint32))
    ahead = WorkAhead(settings)
    ahead.take(partial_of(dark, np.arange(20)))
    require_same(dark, kept(ahead, curve.key), settings, network)


def test_of_curves_that_never_end_only_the_newest_are_kept(curve, settings):
    ahead = WorkAhead(settings)
    for k in range(5):
        partial = partial_of(curve, np.arange(30))
        ahead.take(replace(partial, curve=replace(partial.curve, key=f"curve {k}")))
    assert list(ahead._work) == ["curve 3", "curve 4"]
    assert len(ahead._work) == MOST_CURVES


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
    work = kept(ahead, curve.key)
    with_work = infer_curve(curve, network, settings, work=work).result.crystal
    assert work.n_again == 0
    np.testing.assert_array_equal(with_work.density, infer_curve(curve, network, settings).result.crystal.density)


def test_a_fresh_curve_needs_no_work_ahead(curve, settings):
    work = FrameWork()
    mark(curve, settings.detector, settings.prepare, work)
    assert work.n_again == 0


@pytest.mark.parametrize("step", ["survey", "fill"])
def test_work_that_an_error_left_half_done_is_not_used(curve, settings, network, monkeypatch, step):
    ahead = WorkAhead(settings)
    ahead.take(partial_of(curve, np.arange(36)))

    def fail(*given):
        raise MemoryError

    with monkeypatch.context() as patch:
        where = (Surveyor, "add") if step == "survey" else (filling, "_fill")
        patch.setattr(*where, fail)
        with pytest.raises(MemoryError):
            ahead.take(partial_of(curve, np.arange(40)))
    require_same(curve, kept(ahead, curve.key), settings, network)


def test_work_that_would_not_be_over_before_the_last_frame_is_left_out(curve, settings):
    times_s = iter([0.0, 0.1, 1.0, 2.0, 2.01])
    ahead = WorkAhead(settings, clock=lambda: next(times_s))
    ahead.take(replace(partial_of(curve, np.arange(30)), ends_s=5.0))
    ahead.take(replace(partial_of(curve, np.arange(36)), ends_s=1.05))
    assert np.flatnonzero(ahead._work[curve.key]._came).max() == 29
    ahead.take(replace(partial_of(curve, np.arange(40)), ends_s=2.07))
    assert np.flatnonzero(ahead._work[curve.key]._came).max() == 39


def test_a_curve_that_makes_the_work_new_again_and_again_is_left_until_its_end(curve, settings, network):
    """Pixels of an even background seem hot until they happen to count less than ten."""
    background = np.random.default_rng(3).poisson(16, curve.counts.shape).astype(np.uint32)
    other = replace(curve, counts=np.where(curve.counts == curve.sentinel, curve.counts, curve.counts + background))
    ahead = WorkAhead(settings)
    for n in (30, 33, 36, 39, 42, 45):
        ahead.take(partial_of(other, np.arange(n)))
    work = kept(ahead, curve.key)
    assert work.n_again == MOST_RESTARTS
    assert ahead.n_again == 0
    require_same(other, work, settings, network)


def test_curves_whose_last_frames_made_the_work_useless_are_counted(curve, settings):
    ahead = WorkAhead(settings)
    ahead.take(partial_of(curve, np.arange(20)))
    with ahead.last_work_on(curve.key) as work:
        mark(curve, settings.detector, settings.prepare, work)
    assert ahead.n_again == 1


def test_small_changes_of_the_scale_do_not_add_up():
    inputs, scale = FrameInputs(), np.ones((4, 2, 2), np.float32)
    valid = np.ones(scale.shape, bool)
    inputs.changes(valid, scale)
    n_changed = 0
    for _ in range(20):
        scale[2] *= 1 + 9e-6
        n_changed += int(inputs.changes(valid, scale)[2])
    assert n_changed > 5
