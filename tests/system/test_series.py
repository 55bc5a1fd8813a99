"""A series of one crystal whose strain grows: plan, service, trends."""

from __future__ import annotations

import contextlib
import time

import h5py
import numpy as np
import pytest
from bluesky.callbacks import LiveTable

from cdi_stream.files.recording import write_scan
from cdi_stream.files.result_file import read_result
from cdi_stream_plugins.bluesky import Reconstruction, SeriesTrends, follow_crystal, rocking_curve
from cdi_stream_plugins.bluesky.series import PLAN_NAME
from sim_beamline.cases import strained_series
from sim_beamline.scan import record
from tests.builders import ONE_START
from tests.system.test_profile import profile_beamline

PHASE_RANGES_RAD = (1.0, 2.5, 4.0)
STRAIN_NOISE = 2.5e-4
"""What counting noise adds to the strain range at 2e7 photons, between the 1st and the 99th percentile."""
SEARCH = "[phase]\nbudget_s = 60\n\n"


class Series:
    """What a series gave: results of the plan, documents of the RunEngine, live rows, and the simulated scans."""

    def __init__(self, line, scans, trends, results, table):
        self.line, self.scans, self.trends, self.results, self.table = line, scans, trends, results, table
        starts = [doc for name, doc in line.documents if name == "start"]
        self.measured = [doc for doc in starts if doc["plan_name"] == "rocking_curve"]
        (self.summary,) = [doc for doc in starts if doc["plan_name"] == PLAN_NAME]

    @property
    def crystals(self):
        """Result files in the order of the scans."""
        return [read_result(result.path) for result in self.results]

    def simulated_strain(self):
        """Range of the strain along Q of each simulated crystal, 1st to 99th percentile as in the results."""
        return np.array([strain_range(scan.crystal) for scan in self.scans])

    def strain(self):
        return np.array([result.strain_high - result.strain_low for result in self.results])


def strain_range(crystal):
    """Range of the strain along Q of a simulated crystal, by differences over half a nanometre."""
    axis = np.linspace(-0.6, 0.6, 41) * crystal.size_m
    r = np.stack(np.meshgrid(axis, axis, axis), axis=-1)
    r = r[crystal.density(r) > 0.5]
    along_q = np.array(crystal.q_bragg) / np.linalg.norm(crystal.q_bragg)
    step = 0.25e-9 * along_q
    strain = (crystal.displacement(r + step) - crystal.displacement(r - step)) @ along_q / 0.5e-9
    return np.ptp(np.percentile(strain, (1, 99)))


def followed(line, scans, *, fails_at=None):
    """Follow a crystal through simulated scans."""
    files = [line.config.parent / f"{scan.name}.h5" for scan in scans]
    for file, scan in zip(files, scans, strict=True):
        write_scan(record(scan), file)
    line.documents.clear()
    results, printed = [], []
    with contextlib.closing(Reconstruction("crystal", line.subscriber, timeout_s=300)) as crystal:
        table = LiveTable(["crystal_strain_high", "series_index"], out=printed.append)
        trends = SeriesTrends("crystal", table)
        token = line.engine.subscribe(trends)

        def change(index):
            if index == fails_at:
                raise RuntimeError("the furnace is off")
            line.detector.load(files[index])
            yield from ()

        def measure(md):
            return rocking_curve(line.detector, line.motor, *line.span, reconstruction=crystal, md=md)

        def plan():
            results.extend((yield from follow_crystal(measure, len(scans), reconstruction=crystal, change=change)))

        try:
            line.engine(plan())
        finally:
            line.engine.unsubscribe(token)
            trends.close()
    return Series(line, scans, trends, results, printed)


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    scans = strained_series(PHASE_RANGES_RAD)
    with profile_beamline(tmp_path_factory.mktemp("series"), record(scans[0]), ONE_START) as made:
        yield made


@pytest.fixture(scope="module")
def series(line):
    return followed(line, strained_series(PHASE_RANGES_RAD))


def test_each_run_of_a_series_names_its_place_and_its_predecessor(series):
    uids = [start["uid"] for start in series.measured]
    assert [start["series_index"] for start in series.measured] == [0, 1, 2]
    assert [start.get("previous_run") for start in series.measured] == [None, *uids[:-1]]
    assert [start.get("series_uid") for start in series.measured] == [None, uids[0], uids[0]]


def test_strain_grows_as_simulated_and_the_size_stays(series):
    assert [result.verdict for result in series.results] == ["good"] * 3
    assert series.strain() == pytest.approx(series.simulated_strain(), rel=0.15, abs=STRAIN_NOISE)
    assert np.all(np.diff(series.strain()) > 0)
    sizes = np.array([[r.size_x_nm, r.size_y_nm, r.size_z_nm] for r in series.results])
    assert np.ptp(sizes, axis=0) / sizes.mean(axis=0) == pytest.approx(0.0, abs=0.1)


def test_the_crystal_of_the_previous_run_is_a_start_of_the_next(series):
    uids = [start["uid"] for start in series.measured]
    assert "previous" not in series.results[0].reasons
    assert "crystal of run" not in series.results[0].reasons
    for uid, result in zip(uids, series.results[1:], strict=False):
        assert f"the crystal of run {uid} was one of the starts" in result.reasons
        with h5py.File(result.path) as file:
            assert file["entry"].attrs["raw_uid"] != uid


def test_crystals_of_a_series_are_never_the_twin_of_the_one_before(series):
    def correlation(first, second):
        spectrum = np.fft.fftn(first) * np.fft.fftn(second).conj()
        return abs(np.fft.ifftn(spectrum)).max() / np.linalg.norm(first) / np.linalg.norm(second)

    densities = [crystal.density for crystal in series.crystals]
    twins = [np.roll(density[::-1, ::-1, ::-1], (1, 1, 1), (0, 1, 2)).conj() for density in densities]
    for before, density, twin in zip(densities, densities[1:], twins[1:], strict=False):
        assert correlation(before, density) > correlation(before, twin)


def test_the_trends_are_a_run_of_their_own_with_one_event_a_scan(series):
    own = [d for n, d in series.line.documents if n == "descriptor" and d["run_start"] == series.summary["uid"]]
    (descriptor,) = [d for d in own if d["name"] == "primary"]
    events = [d["data"] for n, d in series.line.documents if n == "event" and d["descriptor"] == descriptor["uid"]]
    assert series.summary["series_uid"] == series.measured[0]["uid"]
    assert [event["series_index"] for event in events] == [0, 1, 2]
    assert [event["crystal_strain_high"] for event in events] == [r.strain_high for r in series.results]
    assert descriptor["data_keys"]["crystal_size_x_nm"]["units"] == "nm"


def test_the_trends_are_shown_while_the_series_goes_on(series):
    assert [row["crystal_chi2"] for row in series.trends.rows] == [r.chi2 for r in series.results]
    lines = [line for line in series.table if line.startswith("|")]
    assert len(lines) == 1 + len(series.results), "a header and one line a scan"


def test_a_series_that_is_cut_short_has_trends_of_its_scans(line):
    scans = strained_series(PHASE_RANGES_RAD[:2])
    with pytest.raises(RuntimeError, match="furnace"):
        followed(line, scans, fails_at=1)
    stops = [doc for name, doc in line.documents if name == "stop"]
    assert stops[-1]["num_events"]["primary"] == 1


@pytest.mark.slow
def test_ten_scans_with_a_search_each(tmp_path):
    """The trends that the issue asks for; `pytest -s` prints them."""
    scans = strained_series(tuple(np.linspace(1.0, 5.5, 10)))
    with profile_beamline(tmp_path, record(scans[0]), SEARCH) as line:
        begin = time.monotonic()
        series = followed(line, scans)
        seconds = time.monotonic() - begin
    for scan, result, strain, simulated in zip(
        scans, series.results, series.strain(), series.simulated_strain(), strict=True
    ):
        size = f"{result.size_x_nm:.0f} x {result.size_y_nm:.0f} x {result.size_z_nm:.0f} nm"
        print(
            f"{scan.crystal.phase_range_rad:.1f} rad: {result.verdict}, chi2 {result.chi2:.4f}, {size}, "
            f"strain range {strain:.2e} (simulated {simulated:.2e}), {result.seconds:.1f} s"
        )
    print(f"{seconds:.0f} s in all")
    assert [result.verdict for result in series.results] == ["good"] * 10
    assert series.strain() == pytest.approx(series.simulated_strain(), rel=0.15, abs=STRAIN_NOISE)
    assert np.corrcoef(series.strain(), series.simulated_strain())[0, 1] > 0.98
