from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cdi_stream.config import FixedGeometry, PrepareConfig
from cdi_stream.errors import CurveError
from cdi_stream.inversion.locate import locate
from cdi_stream.inversion.pixels import DetectorKnowledge
from cdi_stream.inversion.prepare import prepare
from cdi_stream.messages import FrameAccount, RockingCurve, RunContext, SeriesStart
from cdi_stream_plugins.beamlines.aps_34idc import APS_34IDC

SHAPE = (32, 40, 48)
PEAK = (18, 22, 20)
READINGS = {"chi": 90.0, "phi": -5.0, "delta": 30.5, "gamma": 13.8, "energy": 9.0, "detector_distance": 500.0}
UNITS = {"theta": "deg", "energy": "keV", "detector_distance": "mm"}


def blob(scale=4000.0):
    index = np.indices(SHAPE)
    distance2 = sum(((index[k] - PEAK[k]) / width) ** 2 for k, width in enumerate((2.5, 3.0, 3.5)))
    return np.random.default_rng(0).poisson(scale * np.exp(-distance2) + 0.02).astype(np.uint32)


def curve(counts, **changes):
    n = len(counts)
    header = SeriesStart(series=1, pixel_row_m=55e-6, pixel_col_m=55e-6, beam_row=20, beam_col=24)
    base = RockingCurve(
        series=header,
        run=RunContext(uid="run", readings=READINGS, units=UNITS),
        curve_index=0,
        counts=counts,
        sentinel=2**32 - 1,
        has_frame=np.ones(n, dtype=bool),
        scanned={"theta": 0.3 + 0.01 * np.arange(n)},
        monitor=None,
        account=FrameAccount(expected=n, received=n),
        doubts=(),
        complete_s=0.0,
    )
    return replace(base, **changes)


def prepared(counts, known=DetectorKnowledge(), settings=PrepareConfig(), **changes):  # noqa: B008
    one = curve(counts, **changes)
    geometry, _, _ = locate(one, APS_34IDC, FixedGeometry())
    return prepare(one, geometry, known, settings)


def test_the_peak_comes_to_the_origin_voxel_and_its_q_with_it():
    volume = prepared(blob())
    origin = tuple(n // 2 for n in volume.counts.shape)
    assert volume.counts[origin] == blob()[PEAK]
    geometry, _, _ = locate(curve(blob()), APS_34IDC, FixedGeometry())
    from cdi_stream.geometry.circles import exact_q_lab

    q = exact_q_lab(geometry.beamline, geometry.detector, geometry.positions, PEAK[0], PEAK[1], PEAK[2])
    np.testing.assert_allclose(volume.affine.q0, q, rtol=1e-12)


def test_counts_stay_raw_whatever_scales_the_expectation():
    white = np.linspace(0.5, 1.5, 40 * 48).reshape(40, 48).astype(np.float32)
    monitor = np.linspace(900, 1100, 32)
    volume = prepared(blob(), DetectorKnowledge(white_field=white), monitor=monitor)
    plain = prepared(blob())
    np.testing.assert_array_equal(volume.counts, plain.counts)
    centre = tuple(n // 2 for n in volume.counts.shape)
    assert volume.expected_scale[centre] == pytest.approx(white[PEAK[1:]] * monitor[PEAK[0]] / 1000, rel=1e-5)


def test_gap_dead_and_hot_pixels_are_marked():
    counts = blob()
    counts[:, :, 40] = 2**32 - 1
    counts[:, 5, 5] = 900
    mask = np.ones(SHAPE[1:], dtype=bool)
    mask[30, 30] = False
    header = replace(curve(counts).series, pixel_mask=mask)
    volume = prepared(counts, series=header)
    start = [p - n // 2 for p, n in zip(PEAK, volume.counts.shape, strict=True)]
    in_window = volume.valid_pixels
    assert volume.n_bad == SHAPE[1] + 2
    assert not in_window[:, :, 40 - start[2]].any()
    assert not in_window[:, 30 - start[1], 30 - start[2]].any()


def test_a_hot_pixel_brighter_than_the_peak_does_not_draw_the_crop_to_itself():
    counts = blob()
    counts[:, 3, 3] = 100_000
    assert prepared(counts).counts[tuple(n // 2 for n in SHAPE)] == blob()[PEAK]


def test_missing_frames_are_invalid():
    has_frame = np.ones(32, dtype=bool)
    has_frame[15] = False
    counts = blob()
    counts[15] = 0
    volume = prepared(counts, has_frame=has_frame)
    row = 15 - (PEAK[0] - volume.counts.shape[0] // 2)
    assert not volume.valid_pixels[row].any()


@pytest.mark.parametrize(
    ("counts", "word"),
    [
        (np.zeros(SHAPE, np.uint32), "empty"),
        (blob()[12:22], "too small"),
        (np.where(blob() > 2000, 2**32 - 1, blob()).astype(np.uint32), "saturated"),
    ],
)
def test_what_cannot_be_inverted_is_refused_with_its_reason(counts, word):
    with pytest.raises(CurveError, match=word):
        prepared(counts)


def test_lone_voxels_and_islands_without_a_mate_are_marked_and_the_peak_is_not():
    counts = blob()
    counts[3, 35, 40] = 500
    counts[4:8, 6:10, 4:8] = 60
    volume = prepared(counts)
    start = [p - n // 2 for p, n in zip(PEAK, volume.counts.shape, strict=True)]

    def is_valid(*place):
        return volume.valid_pixels[tuple(p - s for p, s in zip(place, start, strict=True))]

    assert volume.n_alien >= 64 + 1
    assert not is_valid(3, 35, 40)
    assert not is_valid(5, 8, 6)
    assert is_valid(*PEAK)


def test_every_missing_reading_is_named_with_its_remedy():
    readings = {k: v for k, v in READINGS.items() if k != "gamma"}
    with pytest.raises(CurveError, match=r"gamma.*circles_deg\.gamma"):
        locate(curve(blob(), run=RunContext(uid="run", readings=readings, units=UNITS)), APS_34IDC, FixedGeometry())
    without_energy = {k: v for k, v in READINGS.items() if k != "energy"}
    with pytest.raises(CurveError, match="photon_energy_ev"):
        locate(curve(blob(), run=RunContext(uid="run", readings=without_energy)), APS_34IDC, FixedGeometry())


def test_units_of_the_documents_are_honoured():
    geometry, doubts, notes = locate(curve(blob()), APS_34IDC, FixedGeometry())
    assert geometry.detector.distance_m == pytest.approx(0.5)
    np.testing.assert_allclose(geometry.positions.photon_energy_ev, 9000.0)
    np.testing.assert_allclose(geometry.positions.sample_rad[3], np.deg2rad([0.33, 90, -5]))
    assert doubts == notes == ()


def test_an_uneven_scan_is_doubted():
    angles = 0.3 + 0.01 * np.arange(32)
    angles[20] += 0.008
    _, doubts, _ = locate(curve(blob(), scanned={"theta": angles}), APS_34IDC, FixedGeometry())
    assert any("uneven" in doubt for doubt in doubts)
