"""The run's uid is in the detector's field when it is staged, for stock plans in a real RunEngine."""

from __future__ import annotations

import functools
import json
import logging
import threading

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import pytest
from bluesky import RunEngine
from bluesky.utils import RunEngineInterrupted
from ophyd import Component, Device, Signal
from ophyd.sim import SynAxis
from ophyd.status import DeviceStatus

from cdi_stream.documents.claim import read_claim
from cdi_stream.errors import InputError
from cdi_stream_plugins.bluesky import rocking_curve, with_run_uid


class Detector(Device):
    """An ophyd detector that keeps what it was told: the field's value at each staging, and each exposure's series."""

    user_data = Component(Signal, value="", kind="omitted")
    exposure_s = Component(Signal, value=0.1, kind="config")
    total = Component(Signal, value=0, kind="hinted")

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.calls: list[str] = []
        self.series: list[str] = []
        self.exposures: list[str | None] = []
        self.does_fail = False

    def stage(self):
        self.calls.append("stage")
        if self.does_fail:
            raise RuntimeError("the detector does not arm")
        self.series.append(self.user_data.get())
        return super().stage()

    def unstage(self):
        self.calls.append("unstage")
        return super().unstage()

    def trigger(self):
        is_staged = self.calls and self.calls[-1] == "stage"
        self.exposures.append(self.series[-1] if is_staged else None)
        self.total.put(self.total.get() + 1)
        status = DeviceStatus(self)
        status.set_finished()
        return status


class Goniometer(Device):
    """Circles of one device, as at a beamline."""

    theta = Component(SynAxis)
    chi = Component(SynAxis)


@pytest.fixture
def detector():
    return Detector(name="det")


@pytest.fixture
def motor():
    return SynAxis(name="theta")


@pytest.fixture
def engine():
    engine = RunEngine({}, context_managers=[])
    engine.documents = []
    engine.subscribe(lambda name, doc: engine.documents.append((name, doc)))
    return engine


def uids(engine) -> list[str]:
    return [doc["uid"] for name, doc in engine.documents if name == "start"]


def stops(engine) -> list[str]:
    return [doc["exit_status"] for name, doc in engine.documents if name == "stop"]


STOCK = {
    "scan": lambda det, motor: bp.scan([det], motor, -1, 1, 3),
    "rel_scan": lambda det, motor: bp.rel_scan([det], motor, -1, 1, 3),
    "list_scan": lambda det, motor: bp.list_scan([det], motor, [0, 1, 3]),
    "count": lambda det, motor: bp.count([det], 3),
    "grid_scan": lambda det, motor: bp.grid_scan([det], motor, -1, 1, 3),
}


@pytest.mark.parametrize("stock", STOCK.values(), ids=STOCK.keys())
@pytest.mark.parametrize("is_preprocessor", [False, True], ids=["wrapped", "preprocessor"])
def test_a_stock_plan_tells_the_detector_its_uid(engine, detector, motor, stock, is_preprocessor):
    plan = stock(detector, motor)
    if is_preprocessor:
        engine.preprocessors.append(functools.partial(with_run_uid, detector=detector))
    else:
        plan = with_run_uid(plan, detector)
    engine(plan)
    (uid,) = uids(engine)
    assert detector.series == [uid]
    assert detector.exposures == [uid] * 3
    assert detector.calls == ["stage", "unstage"]
    assert read_claim(uid).run_uid == uid
    assert stops(engine) == ["success"]


def test_without_it_the_detector_is_staged_before_the_uid_is_known(engine, detector, motor):
    engine(bp.scan([detector], motor, -1, 1, 3))
    assert detector.series == [""]


def test_documents_are_those_of_the_stock_plan(engine, detector, motor):
    engine(bp.scan([detector], motor, -1, 1, 3))
    engine(with_run_uid(bp.scan([detector], motor, -1, 1, 3), detector))
    kinds = [name for name, _ in engine.documents]
    assert kinds[: len(kinds) // 2] == kinds[len(kinds) // 2 :]
    first, second = (doc for name, doc in engine.documents if name == "start")
    changing = {"uid", "time", "scan_id"}
    assert {k: v for k, v in first.items() if k not in changing} == {
        k: v for k, v in second.items() if k not in changing
    }


def test_each_run_of_one_staging_has_its_own_series(engine, detector):
    @bpp.stage_decorator([detector])
    def several():
        for _ in range(3):
            yield from bpp.run_wrapper(bps.trigger_and_read([detector]))

    engine(with_run_uid(several(), detector))
    assert detector.exposures == uids(engine)
    assert detector.calls == ["stage", "unstage"] * 3


def test_what_the_plan_set_after_staging_is_not_undone(engine, detector, caplog):
    @bpp.stage_decorator([detector])
    def several():
        yield from bps.abs_set(detector.exposure_s, 2.0, wait=True)
        for _ in range(2):
            yield from bpp.run_wrapper(bps.trigger_and_read([detector]))

    engine(with_run_uid(several(), detector))
    assert detector.calls == ["stage", "unstage"]
    assert detector.user_data.get() == uids(engine)[-1]
    assert "not staged again" in caplog.text


def test_several_series_of_a_run_have_their_places(engine, detector):
    def twice():
        for _ in range(2):
            yield from bpp.stage_wrapper(bps.trigger_and_read([detector]), [detector])

    engine(with_run_uid(bpp.run_wrapper(twice()), detector))
    (uid,) = uids(engine)
    claims = [read_claim(series) for series in detector.series]
    assert [(claim.run_uid, claim.curve_index) for claim in claims] == [(uid, None), (uid, 1)]


def test_a_nested_run_that_uses_the_detector_has_its_own_series(engine, detector, motor):
    def outer():
        for _ in range(2):
            yield from bpp.set_run_key_wrapper(bp.scan([detector], motor, -1, 1, 2), "inner")

    engine(with_run_uid(bpp.run_wrapper(outer()), detector))
    _, first, second = uids(engine)
    assert detector.exposures == [first, first, second, second]


def test_a_nested_run_without_the_detector_leaves_the_series_whole(engine, detector, motor):
    def outer():
        yield from bps.trigger_and_read([detector])
        yield from bpp.set_run_key_wrapper(bp.count([motor]), "inner")
        yield from bps.trigger_and_read([detector])

    plan = bpp.stage_wrapper(bpp.run_wrapper(outer()), [detector])
    engine(with_run_uid(plan, detector))
    assert detector.exposures == [uids(engine)[0]] * 2
    assert detector.calls == ["stage", "unstage"]


def test_a_plan_without_the_detector_is_not_changed(engine, detector, motor):
    engine.preprocessors.append(functools.partial(with_run_uid, detector=detector))
    engine(bp.scan([Detector(name="other")], motor, -1, 1, 3))
    assert detector.calls == []
    assert detector.user_data.get() == ""
    assert len(uids(engine)) == 1


def test_a_detector_used_before_any_run_is_staged_before(engine, detector):
    @bpp.stage_decorator([detector])
    def early():
        yield from bps.trigger(detector, wait=True)
        yield from bpp.run_wrapper(bps.trigger_and_read([detector]))

    engine(with_run_uid(early(), detector))
    assert detector.exposures == ["", uids(engine)[0]]
    assert detector.calls == ["stage", "unstage"] * 2


def test_a_staging_that_is_never_used_ends_without_one(engine, detector):
    engine(with_run_uid(bpp.stage_wrapper(bps.null(), [detector]), detector))
    assert detector.calls == []


def test_a_pause_and_a_resume_keep_the_series(engine, detector, motor):
    def pausing(detectors, motor, step):
        yield from bps.one_1d_step(detectors, motor, step)
        if step == 0:
            yield from bps.pause()

    plan = bp.scan([detector], motor, -1, 1, 3, per_step=pausing)
    with pytest.raises(RunEngineInterrupted):
        engine(with_run_uid(plan, detector))
    engine.resume()
    (uid,) = uids(engine)
    assert detector.series == [uid]
    assert set(detector.exposures) == {uid}
    assert stops(engine) == ["success"]


@pytest.mark.parametrize(("end", "status"), [("abort", "abort"), ("stop", "success"), ("halt", "abort")])
def test_a_plan_that_is_ended_leaves_the_detector_unstaged(engine, detector, motor, end, status):
    def pausing(detectors, motor, step):
        yield from bps.one_1d_step(detectors, motor, step)
        yield from bps.pause()

    with pytest.raises(RunEngineInterrupted):
        engine(with_run_uid(bp.scan([detector], motor, -1, 1, 3, per_step=pausing), detector))
    getattr(engine, end)()
    assert detector.calls == ["stage", "unstage"]
    assert stops(engine) == [status]
    engine(with_run_uid(bp.count([detector]), detector))
    assert detector.exposures[-1] == uids(engine)[-1]


def test_a_detector_that_does_not_arm_ends_the_plan_as_it_would_without(engine, detector, motor):
    detector.does_fail = True
    with pytest.raises(RuntimeError, match="does not arm"):
        engine(with_run_uid(bp.scan([detector], motor, -1, 1, 3), detector))
    assert detector.calls == ["stage", "unstage"]
    assert stops(engine) == ["fail"]


def test_an_error_of_the_plan_comes_out_as_it_is(engine, detector):
    def failing():
        yield from bps.trigger_and_read([detector])
        raise ValueError("of the plan")

    plan = bpp.stage_wrapper(bpp.run_wrapper(failing()), [detector])
    with pytest.raises(ValueError, match="of the plan"):
        engine(with_run_uid(plan, detector))
    assert detector.calls == ["stage", "unstage"]
    assert stops(engine) == ["fail"]


def test_what_a_plan_returns_is_returned(engine, detector):
    returned = []

    def outer():
        returned.append((yield from with_run_uid(bpp.run_wrapper(bps.null()), detector)))

    engine(outer())
    assert returned == uids(engine)


def test_a_list_of_messages_is_a_plan_too(engine, detector, motor):
    engine(with_run_uid(list(bp.count([motor])), detector))
    assert len(uids(engine)) == 1


class Whole(Device):
    """A detector whose camera holds the field, as in areaDetector, within a device that is staged as a whole."""

    class Camera(Device):
        header_appendix = Component(Signal, value="")

    cam = Component(Camera)
    det = Component(Detector)


def test_the_field_may_lie_in_a_part_and_the_staging_be_of_the_whole(engine, motor):
    whole = Whole(name="eiger")
    engine(with_run_uid(bp.scan([whole.det], motor, -1, 1, 2), whole))
    assert whole.cam.header_appendix.get() == uids(engine)[0]
    engine(with_run_uid(bp.scan([whole.det], motor, -1, 1, 2), whole.det))
    assert whole.det.exposures == [whole.det.series[0]] * 2 + [uids(engine)[1]] * 2
    assert whole.det.user_data.get() == uids(engine)[1]
    engine(with_run_uid(bp.count([whole]), whole, field="det.user_data"))
    assert whole.det.user_data.get() == uids(engine)[2]


class SlowToArm(Detector):
    """Its staging returns a status that is done later, as of devices of ophyd-async."""

    def stage(self):
        super().stage()
        self.armed = DeviceStatus(self)
        threading.Timer(0.1, self.armed.set_finished).start()
        return self.armed

    def trigger(self):
        self.was_armed = self.armed.done
        return super().trigger()


@pytest.mark.parametrize("plan", [STOCK["scan"], lambda det, motor: rocking_curve(det, motor, -1, 1, 3)])
def test_a_staging_that_takes_time_is_waited_for(engine, motor, plan):
    detector = SlowToArm(name="slow")
    engine(with_run_uid(plan(detector, motor), detector))
    assert detector.was_armed
    assert detector.exposures == uids(engine) * 3


def test_parts_that_are_staged_by_themselves_wait_too(engine):
    whole = Whole(name="eiger")
    order: list[str] = []
    engine.msg_hook = lambda message: order.append(f"{message.command} {getattr(message.obj, 'name', '')}".strip())

    def by_parts():
        for part in (whole.cam, whole.det):
            yield from bps.stage(part)
        for _ in range(2):
            yield from bps.open_run()
            yield from bps.close_run()
        for part in (whole.det, whole.cam):
            yield from bps.unstage(part)

    engine(with_run_uid(by_parts(), whole))
    arm = ["set eiger_cam_header_appendix", "wait", "stage eiger_cam", "stage eiger_det"]
    disarm = ["unstage eiger_det", "unstage eiger_cam"]
    one_run = ["open_run", *arm, "close_run"]
    assert order == [*one_run, "open_run", *disarm, *arm, "close_run", *disarm]
    assert whole.cam.header_appendix.get() == uids(engine)[1]


def test_a_detector_without_the_field_is_named_before_the_plan_runs(motor):
    with pytest.raises(InputError, match=r"'theta': .*user_data or header_appendix.*field='cam"):
        with_run_uid(bp.count([motor]), motor)
    with pytest.raises(InputError, match=r"cam\.title"):
        with_run_uid(bp.count([motor]), motor, field="cam.title")


def test_a_rocking_curve_is_one_run_with_a_baseline(engine, detector):
    goniometer = Goniometer(name="gonio")
    goniometer.chi.set(90)
    engine(rocking_curve(detector, goniometer.theta, -0.5, 0.5, 5, md={"sample": "Au 12", "plan_name": "mine"}))
    (uid,) = uids(engine)
    start = next(doc for name, doc in engine.documents if name == "start")
    streams = {doc["uid"]: doc["name"] for name, doc in engine.documents if name == "descriptor"}
    events = [(streams[doc["descriptor"]], doc["data"]) for name, doc in engine.documents if name == "event"]
    assert (start["num_points"], start["motors"], start["sample"]) == (5, ["gonio_theta"], "Au 12")
    assert start["plan_name"] == "mine"
    assert [name for name, _ in events] == ["baseline"] + ["primary"] * 5
    assert events[0][1]["gonio_chi"] == 90
    assert [data["gonio_theta"] for _, data in events[1:]] == [-0.5, -0.25, 0, 0.25, 0.5]
    assert detector.exposures == [uid] * 5


def test_a_rocking_curve_adds_no_second_baseline(engine, detector, motor):
    other = SynAxis(name="chi")
    engine.preprocessors.append(bpp.SupplementalData(baseline=[other]))
    engine(rocking_curve(detector, motor, -0.5, 0.5, 2))
    names = [doc["name"] for name, doc in engine.documents if name == "descriptor"]
    assert sorted(names) == ["baseline", "primary"]
    assert stops(engine) == ["success"]


def test_a_reconstruction_is_read_once_after_the_series_has_ended(engine, detector, motor):
    class Reconstruction(Detector):
        def trigger(self):
            self.calls.extend(detector.calls)
            return super().trigger()

    crystal = Reconstruction(name="crystal")
    engine(rocking_curve(detector, motor, -0.5, 0.5, 2, reconstruction=crystal))
    assert crystal.calls == ["stage", "unstage"]
    assert [doc["name"] for name, doc in engine.documents if name == "descriptor"][-1] == "reconstruction"


def test_a_rocking_curve_of_a_detector_without_a_field_is_measured_with_a_warning(engine, motor, caplog):
    plain = SynAxis(name="plain")
    with caplog.at_level(logging.WARNING):
        engine(rocking_curve(plain, motor, -0.5, 0.5, 2))
    assert "header_appendix" in caplog.text
    assert stops(engine) == ["success"]


@pytest.mark.parametrize("positions", [(0, 1, 1), (0, 0, 5), (0, float("nan"), 5)])
def test_a_rocking_curve_without_positions_is_refused(detector, motor, positions):
    with pytest.raises(InputError, match="num >= 2"):
        rocking_curve(detector, motor, *positions)


def test_the_field_takes_text_of_few_characters(detector, engine):
    """EPICS strings hold 40 characters, character arrays more."""

    def twice():
        for _ in range(2):
            yield from bpp.stage_wrapper(bps.trigger_and_read([detector]), [detector])

    engine(with_run_uid(bpp.run_wrapper(twice()), detector))
    assert len(detector.series[0]) == 36
    assert json.loads(detector.series[1])["curve_index"] == 1
    assert len(detector.series[1]) <= 80
