"""The operators' page in a browser, fed with what the service would say."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cdi_stream.messages import Reading
from cdi_stream.operators.history import FILE_NAME
from cdi_stream.refine.progress import ProgressFile, progress_file
from cdi_stream.refine.queue import QUEUE, Queue
from tests.refinements import enqueue_jobs
from tests.system.browser import (
    NEXT,
    SHAPE,
    browser,
    crystal,
    dashboard,
    frame,
    health,
    progress,
    result,
    source,
    state,
    wait_until,
)
from tests.unit.test_archive import publish

pytest.importorskip("selenium", reason="selenium is not installed")

PIXELS = """
const canvas = document.getElementById(arguments[0]);
const {width, height} = canvas;
return [height, width, Array.from(canvas.getContext("2d").getImageData(0, 0, width, height).data)];
"""
DARK = (14, 17, 22)
MISSING = (255, 213, 184)
OVERLAPS = """
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
const boxes = [];
while (walker.nextNode()) {
  const node = walker.currentNode;
  if (!node.textContent.trim() || node.parentElement.closest(".scroll") || !node.parentElement.offsetParent) continue;
  const range = document.createRange();
  range.selectNodeContents(node);
  for (const box of range.getClientRects()) boxes.push([node.textContent.trim(), box]);
}
const lies = (a, b) => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 3 && b.top < a.bottom - 3;
return boxes.flatMap(([text, box], i) => [
  ...boxes.slice(i + 1).filter(([other, its]) => other !== text && lies(box, its)).map(([other]) => [text, other]),
  ...(box.right > innerWidth ? [[text, "the edge"]] : []),
]);
"""


class Page:
    """What an operator sees, by the page's ids."""

    def __init__(self, chrome, directory):
        self.chrome = chrome
        self._directory = directory

    def text(self, selector):
        return self.chrome.execute_script(
            "return document.querySelector(arguments[0])?.innerText ?? '(none)'", selector
        ).replace("\xa0", " ")

    def tone(self, selector):
        return self.chrome.execute_script("return document.querySelector(arguments[0])?.dataset.tone", selector)

    def figure(self, name):
        return self.text(f'[data-name="{name}"] dd')

    def place(self):
        """The head line: labels with their values."""
        return self.text("#place").split("\n")

    def pixels(self, canvas):
        rows, cols, data = self.chrome.execute_script(PIXELS, canvas)
        return np.array(data, dtype=int).reshape(rows, cols, 4)[..., :3]

    def wait_for(self, selector, text, timeout_s=120):
        wait_until(lambda: text in self.text(selector), timeout_s, f"{text!r} in {selector}: {self.text(selector)!r}")

    def click(self, selector):
        self.chrome.find_element("css selector", selector).click()

    def resize(self, width, height):
        """Show the page on a screen of this size, as a phone below 500 pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def prefer(self, scheme):
        preference = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        self.chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", preference)

    def shoot(self, name):
        self.chrome.save_screenshot(str(self._directory / f"{name}.png"))

    def check_fits(self):
        """Nothing sticks out to the side, no panel lies on another, and no text on another text."""
        script = """
        const parts = document.querySelectorAll("header, #band, #alarms, section");
        const boxes = Array.from(parts, (e) => e.getBoundingClientRect());
        const overlap = (a, b, low, high) => a[low] < b[high] - 1 && b[low] < a[high] - 1;
        const lies = (a, b) => overlap(a, b, "left", "right") && overlap(a, b, "top", "bottom");
        return [document.documentElement.scrollWidth <= innerWidth,
                boxes.some((a, i) => boxes.slice(i + 1).some((b) => lies(a, b)))];
        """
        assert self.chrome.execute_script(script) == [True, False]
        assert self.chrome.execute_script(OVERLAPS) == []

    def check_quiet(self):
        """The console has no error."""
        assert [line for line in self.chrome.get_log("browser") if line["level"] == "SEVERE"] == []


def test_a_curve_is_followed_from_its_first_frame_to_the_refinement(tmp_path):
    with source() as service, dashboard(tmp_path, service.endpoint) as uri, browser(tmp_path) as chrome:
        page = Page(chrome, tmp_path)
        chrome.get(uri)
        chrome.get(uri)
        page.wait_for("#lamp", "no message from the service yet")
        assert page.text("#band") == "Waiting for the first scan"
        assert page.text("#badge") == "no result yet"
        service.wait_for_listener()
        service.send(state())
        service.send(progress(25))
        service.send(frame(24, (30, 150)))
        page.wait_for("#frame-label", "series 12 · image 24 · largest 54\u202f321 counts · 120 \u00d7 200 pixels")
        check_measuring(page)
        service.send(progress(40, is_over=True))
        page.wait_for("#band", "Scan 54, curve 3 is measured, its crystal is being reconstructed")
        service.send(result("inference", "preliminary", ("not yet held against the measured voxels",)))
        page.wait_for("#badge", "… PRELIMINARY")
        assert page.text("#band") == "Scan 54, curve 3: preliminary, being reconstructed"
        assert [page.tone(part) for part in ("#badge", "#band", "body", "#rows tr")] == ["busy"] * 4
        assert page.text("#reasons") == "not yet held against the measured voxels"
        service.send(result("reconstruction"))
        page.wait_for("#badge", "✔ GOOD")
        check_crystal(page)
        page.shoot("good")
        page.click('[data-stage="inference"]')
        assert "PRELIMINARY" in page.text("#badge")
        service.send(result("refinement", curve=2))
        page.wait_for('[data-stage="refinement"]', "refinement (of scan 54, curve 2)")
        assert "PRELIMINARY" in page.text("#badge"), "an old curve's refinement replaces nothing"
        service.send(result("reconstruction", curve=4, chi2=0.5))
        page.wait_for("#shown", "scan 54, curve 4, reconstruction")
        assert page.figure("chi2") == "0.5 (noise floor 0.0098)"
        fields = {"method": "auto", "recipe": "SW[every=10]+150*HIO"}
        service.send(result("refinement", "doubtful", ("two crystals",), curve=4, fields=fields))
        page.wait_for("#shown", "scan 54, curve 4, refinement")
        assert page.text("#reasons") == "two crystals", "a recipe is no reason"
        assert (page.figure("method"), page.figure("recipe")) == ("auto", "SW[every=10]+150*HIO")
        assert len(chrome.find_elements("css selector", "#rows tr")) == 5
        for width in (1600, 900):
            chrome.set_window_size(width, 1143)
            page.check_fits()
        page.shoot("narrow")
        page.check_quiet()


def test_a_preview_is_shown_while_its_curve_is_measured(tmp_path):
    with source() as service, dashboard(tmp_path, service.endpoint) as uri, browser(tmp_path) as chrome:
        page = Page(chrome, tmp_path)
        chrome.get(uri)
        service.wait_for_listener()
        service.send(result("reconstruction", curve=2))
        service.send(progress(20))
        page.wait_for("#past", "of an earlier curve")
        service.send(result("preview", "preliminary", ("a preview of 20 of 40 frames",)))
        page.wait_for("#shown", "scan 54, curve 3, preview")
        assert page.text("#badge") == "\u2026 PRELIMINARY"
        assert page.text("#reasons") == "a preview of 20 of 40 frames"
        assert page.text("#now") == "Measuring scan 54, curve 3: 20 of 40 frames"
        assert page.text("#past") == ""
        assert len(chrome.find_elements("css selector", "#slices canvas")) >= 6
        assert len(chrome.find_elements("css selector", "#rows tr")) == 1, "previews are not in the history"
        service.send(progress(40, is_over=True))
        page.wait_for("#band", "Scan 54, curve 3 is measured, its crystal is being reconstructed")
        service.send(result("inference", "preliminary"))
        page.wait_for("#shown", "scan 54, curve 3, inference")
        page.check_quiet()


def check_measuring(page):
    assert page.text("#lamp") == "connected"
    assert page.text("#band") == "Measuring scan 54, curve 3: 25 of 40 frames"
    assert (page.tone("#band"), page.tone("body")) == ("busy", "busy")
    place = ["scan", "54, curve 3", "sample", "Au 3", "motor", "theta", "run", "5d0c41f2", "newest frame"]
    assert page.place()[:9] == place
    assert page.place()[10:] == ["behind the detector", "420 ms"]
    names = ("expected", "received", "missing", "awaited")
    assert [page.figure(name) for name in names] == ["40", "25", "0", "15"]
    assert page.text("#queue").split("\n")[:4] == ["waiting", "4", "being refined", "1"]
    assert page.figure("refining") == "auto, scan 54, curve 2"
    strip = page.pixels("strip")
    assert strip.shape == (9, 40, 3)
    assert len(np.unique(strip[:, :25], axis=1)[0]) == len(np.unique(strip[:, 25:], axis=1)[0]) == 1
    pixels = page.pixels("frame").sum(axis=2)
    assert pixels.shape == (120, 200)
    assert np.unravel_index(pixels.argmax(), pixels.shape) == (30, 150), "row 0 of a detector frame is on top"


def check_crystal(page):
    """Outside the support it is dark, inside it is not, voxel by voxel, the vertical axis up."""
    found = crystal()
    for axis, name in enumerate("zyx"):
        middle = SHAPE[axis] // 2
        support = np.take(found.support, middle, axis=axis)[::-1]
        for kind in ("amplitude", "phase"):
            is_dark = (page.pixels(f"{kind}-{name}") == DARK).all(axis=2)
            np.testing.assert_array_equal(is_dark, ~support)
    amplitude = page.pixels("amplitude-z")
    y, x = SHAPE[1] // 2, SHAPE[2] // 2
    assert tuple(amplitude[-1 - (y + 10), x + 8]) == DARK, "the missing corner is at the upper right"
    assert tuple(amplitude[-1 - (y - 10), x + 8]) != DARK
    slices = page.text("#slices")
    for label in ("y ↑", "z ↑", "x →", "y →", "amplitude [y, x]", "phase [z, x]", "amplitude [z, y]", "50 nm"):
        assert label in slices
    bar, box = (
        page.chrome.execute_script(f"return document.querySelector('{s}').offsetWidth") for s in (".bar", ".box")
    )
    canvas = page.chrome.execute_script("return document.getElementById('amplitude-z').offsetWidth")
    assert bar == pytest.approx(50 / 5 * canvas / SHAPE[2], abs=2), (bar, box, canvas)
    assert page.text("#band") == "Scan 54, curve 3: ✔ good"
    assert page.figure("size x \u00d7 y \u00d7 z") == "145 \u00d7 185 \u00d7 105 nm"
    assert page.figure("r_p") == "0.9912"
    assert page.figure("· infer") == "110 ms"


def test_what_is_wrong_is_red_and_said_in_full(tmp_path):
    evil = '<img src="x" onerror="document.title=1"><script>document.title=2</script>'
    with source() as service, dashboard(tmp_path, service.endpoint) as uri, browser(tmp_path) as chrome:
        page = Page(chrome, tmp_path)
        page.prefer("dark")
        service.wait_for_listener()
        service.send(state(malformed=3))
        service.send(result("reconstruction"))
        wait_until(lambda: health(uri)["feed_age_s"] is not None)
        chrome.get(uri)
        page.wait_for("#badge", "GOOD")
        assert page.tone('[data-name="malformed"]') == "warn", "it was so before the page came"
        service.send(progress(30, (4, 5, 22), curve=4))
        page.wait_for("#alarms", "✖ 3 of 40 frames missing in scan 54, curve 4")
        assert page.text("#band").startswith("Measuring scan 54, curve 4: 27 of 40 frames")
        assert page.tone("body") == "bad"
        assert page.text("#past") == "of an earlier curve: scan 54, curve 4 is being measured"
        assert page.text("#strip-note") == "missing, counted from 0: 4, 5, 22"
        is_missing = (page.pixels("strip") == MISSING).all(axis=2)
        assert list(np.flatnonzero(is_missing.any(axis=0))) == [4, 5, 22]
        assert list(is_missing[:, 4]) == [True, True, False] * 3, "striped, so that it is seen without colours"
        service.send(progress(38, (4, 5, 22), curve=4, is_over=True))
        service.send(result("reconstruction", "failed", ("5 of 40 frames missing", evil), curve=4))
        service.send(state(malformed=4, queue={evil: 1, "failed": 2}))
        page.wait_for("#badge", "FAILED")
        page.wait_for("#queue", evil)
        assert page.text("#band") == "Scan 54, curve 4: ✖ failed"
        assert "✖ scan 54, curve 4 failed: 5 of 40 frames missing" in page.text("#alarms")
        assert page.text("#reasons") == f"5 of 40 frames missing\n{evil}"
        assert page.text("#slices") == "no crystal: the reconstruction of scan 54, curve 4 failed"
        assert page.tone('[data-name="malformed"]') == page.tone('#queue [data-name="failed"]') == "bad"
        assert chrome.title == "cdi-stream"
        page.check_fits()
        page.wait_for("#lamp", "no message from the service for")
        assert "No message from the service for" in page.text("#band")
        assert "the page shows old data" in page.text("#band")
        assert (page.tone("#lamp"), page.tone("#band"), page.tone("body")) == ("bad", "bad", "bad")
        assert chrome.execute_script("return getComputedStyle(document.querySelector('main')).filter") == "grayscale(1)"
        assert page.figure("lag") == "\u2013"
        page.shoot("failed")
        service.restart()
        service.send(state(malformed=1))
        page.wait_for("#lamp", "connected")
        assert page.tone('[data-name="malformed"]') == "warn", "a service that began anew has not risen"
        page.check_quiet()


def test_the_page_comes_back_by_itself_when_the_dashboard_does(tmp_path):
    with source() as service, browser(tmp_path) as chrome:
        page = Page(chrome, tmp_path)
        with dashboard(tmp_path, service.endpoint, token="s3cret &") as uri:
            chrome.get(uri)
            chrome.find_element("id", "token").send_keys("s3cret &\n")
            service.wait_for_listener()
            service.send(state())
            service.send(result("reconstruction"))
            page.wait_for("#badge", "GOOD")
        page.wait_for("#lamp", "disconnected from the dashboard, trying again in")
        assert page.tone("#band") == "bad"
        page.shoot("disconnected")
        port = int(uri.rsplit(":", 1)[1])
        with dashboard(tmp_path, service.endpoint, port=port, token="s3cret &"):
            page.wait_for("#lamp", "no message from the service for", 30)
            service.send(state())
            page.wait_for("#lamp", "connected")
            assert "GOOD" in page.text("#badge"), "what was seen is kept"


def test_a_dashboard_that_was_killed_comes_back_with_its_results(tmp_path):
    with source() as service, browser(tmp_path) as chrome:
        page = Page(chrome, tmp_path)
        with dashboard(tmp_path, service.endpoint, is_killed=True) as uri:
            service.wait_for_listener()
            service.send(result("reconstruction", "doubtful", ("two crystals",), curve=0))
            service.send(result("reconstruction", curve=0, run=NEXT))
            wait_until(lambda: "6e1d52a3" in file_text(tmp_path / FILE_NAME), 120, "the history")
        port = int(uri.rsplit(":", 1)[1])
        with dashboard(tmp_path, service.endpoint, port=port) as uri:
            chrome.get(uri)
            page.wait_for("#badge", "GOOD")
            rows = [row.split("\t")[1:4] for row in page.text("#rows").split("\n")]
            assert rows == [["55", "✔ good", "reconstruction"], ["54", "▲ doubtful", "reconstruction"]]
            support = crystal().support[SHAPE[0] // 2][::-1]
            np.testing.assert_array_equal((page.pixels("amplitude-z") == DARK).all(axis=2), ~support)
            assert page.text("#lamp") == "no message from the service yet"
            assert page.text("#now") == "No message from the service yet"
            assert page.text("#last").startswith("last result: scan 55, reconstruction ✔ good, ")
            service.send(state())
            page.wait_for("#band", "Scan 55: ✔ good")
            page.check_quiet()


def file_text(path):
    return path.read_text() if path.exists() else ""


def test_a_running_scan_is_told_apart_from_the_last_result(tmp_path):
    with source() as service, dashboard(tmp_path, service.endpoint) as uri, browser(tmp_path) as chrome:
        page = Page(chrome, tmp_path)
        chrome.get(uri)
        service.wait_for_listener()
        service.send(state())
        service.send(progress(40, curve=0, is_over=True))
        service.send(result("reconstruction", "doubtful", ("two crystals",), curve=0))
        page.wait_for("#band", "Scan 54: ▲ doubtful")
        assert page.place()[:2] == ["scan", "54"], "a run of one curve needs no index"
        assert page.tone("#band") == "warn"
        service.send(progress(3, curve=0, run=NEXT))
        page.wait_for("#band", "Measuring scan 55: 3 of 40 frames")
        assert page.text("#last").startswith("last result: scan 54, reconstruction ▲ doubtful, ")
        assert page.tone("#band") == "busy", "the old verdict is not of now"
        assert page.text("#past") == "of an earlier curve: scan 55 is being measured"
        service.send(progress(40, curve=0, run=NEXT, is_over=True))
        service.send(result("inference", "preliminary", curve=0, run=NEXT))
        page.wait_for("#band", "Scan 55: preliminary")
        service.send(result("reconstruction", "failed", ("the last of scan 54",), curve=0))
        page.wait_for("#rows", "the last of scan 54")
        assert page.text("#badge") == "… PRELIMINARY", "a late result of an earlier scan replaces nothing"
        service.send(progress(3, curve=1, run=NEXT))
        page.wait_for("#band", "Measuring scan 55, curve 1: 3 of 40 frames")
        service.restart()
        service.send(state())
        page.wait_for("#band", "Scan 55, curve 0: preliminary")
        assert "Measuring" not in page.text("#band"), "a service that began anew measures nothing"
        page.check_quiet()


def moment(epoch_s):
    """A moment as the page writes it: the time of day, before midnight the day as well."""
    then = time.localtime(epoch_s)
    is_today = then[:3] == time.localtime()[:3]
    return time.strftime("%H:%M:%S" if is_today else "%-d %b, %H:%M", then).replace("Sep", "Sept")


def test_while_nothing_is_measured_the_page_says_since_when(tmp_path):
    with source() as service, dashboard(tmp_path, service.endpoint) as uri, browser(tmp_path) as chrome:
        page = Page(chrome, tmp_path)
        chrome.get(uri)
        service.wait_for_listener()
        service.send(progress(40, is_over=True))
        service.send(result("reconstruction"))
        since = time.time() - 3600
        service.send(state(lag_s=3600.0))
        page.wait_for("#place", "idle since")
        assert page.figure("idle") in {moment(since + later_s) for later_s in range(-1, 6)}
        assert "behind the detector" not in page.text("body")
        service.send(state(lag_s=2.5, waiting=1))
        page.wait_for("#place", "behind the detector\n2.5 s")
        service.send(state(lag_s=None))
        page.wait_for("#place", "idle since\nthe service's start")
        page.check_quiet()


def alarm(key, text, since_s=1000.0):
    return {"key": key, "text": text, "since_s": since_s}


def test_an_alarm_can_be_seen_and_goes_when_the_service_no_longer_reports_it(tmp_path):
    disk, tiled = alarm("disk", "the disk is full"), alarm("tiled", "Tiled cannot be reached")
    with source() as service, dashboard(tmp_path, service.endpoint) as uri, browser(tmp_path) as chrome:
        page = Page(chrome, tmp_path)
        chrome.get(uri)
        service.wait_for_listener()
        service.send(result("reconstruction"))
        service.send(state(alarms=[disk, tiled]))
        page.wait_for("#alarms", "✖ the disk is full, since ")
        assert page.tone("body") == "bad"
        page.check_fits()
        page.shoot("alarms")
        page.click("#alarms button")
        assert page.text("#alarms").startswith("✖ Tiled cannot be reached")
        assert page.text("#standing").startswith("the disk is full"), "seen, but not over"
        assert focused(page) == ("Seen", "tiled"), "the next alarm is at hand"
        page.click("#alarms button")
        assert (page.text("#alarms"), page.tone("body")) == ("", "good")
        chrome.refresh()
        page.wait_for("#standing", "Tiled cannot be reached")
        assert page.text("#alarms") == "", "seen is seen, after a reload too"
        service.send(state(alarms=[tiled]))
        wait_until(lambda: "disk" not in page.text("body"))
        service.send(state(alarms=[tiled, disk | {"since_s": 2000.0}]))
        page.wait_for("#alarms", "✖ the disk is full")
        service.send(state(alarms=[]))
        wait_until(lambda: page.text("#alarms") == page.text("#standing") == "")
        service.send(result("reconstruction", "failed", ("no peak",), curve=5))
        page.wait_for("#alarms", "✖ scan 54, curve 5 failed: no peak")
        page.click("#alarms button")
        assert (page.text("#band"), page.tone("#band"), page.tone("body")) == (
            "Scan 54, curve 5: ✖ failed",
            "idle",
            "idle",
        )
        page.click("#counters-seen")
        assert page.tone('[data-name="stale"]') == ""
        page.check_quiet()


def focused(page):
    script = "const a = document.activeElement; return [a.innerText, a.parentElement.dataset.name.split(' ')[1]]"
    return tuple(page.chrome.execute_script(script))


def test_a_result_that_is_not_published_says_so(tmp_path):
    with source() as service, dashboard(tmp_path, service.endpoint) as uri, browser(tmp_path) as chrome:
        page = Page(chrome, tmp_path)
        chrome.get(uri)
        service.wait_for_listener()
        service.send(state())
        problem = {"published": False, "problem": "the results folder is full"}
        service.send(result("reconstruction", fields=problem))
        page.wait_for("#publication", "not published: the results folder is full")
        assert "✖ scan 54, curve 3, reconstruction: not published: the results folder is full" in page.text("#alarms")
        assert "not published: the results folder is full" in page.text("#rows")
        service.send(result("reconstruction", curve=4, fields={"problem": "its arrays wait for room on the disk"}))
        page.wait_for("#publication", "published, but its arrays wait for room on the disk")
        service.send(result("reconstruction", curve=5))
        page.wait_for("#band", "Scan 54, curve 5: ✔ good")
        assert (page.text("#publication"), page.text("#alarms")) == ("", "")
        page.check_quiet()


def test_the_focus_and_the_selection_outlive_what_comes_in(tmp_path):
    with source() as service, dashboard(tmp_path, service.endpoint) as uri, browser(tmp_path) as chrome:
        page = Page(chrome, tmp_path)
        chrome.get(uri)
        service.wait_for_listener()
        service.send(state())
        for stage in ("inference", "reconstruction"):
            service.send(result(stage))
        page.wait_for("#badge", "GOOD")
        page.click('[data-stage="inference"]')
        chrome.execute_script("getSelection().selectAllChildren(document.querySelector('[data-name=run] dd'))")
        service.send(result("refinement", curve=2))
        page.wait_for('[data-stage="refinement"]', "refinement (of scan 54, curve 2)")
        service.send(state(waiting=7))
        page.wait_for("#work", "7")
        assert chrome.execute_script("return document.activeElement.dataset.stage") == "inference"
        assert chrome.execute_script("return String(getSelection())") == "5d0c41f2"
        page.check_quiet()


def test_the_page_reads_well_on_a_phone_and_by_daylight(tmp_path):
    with source() as service, dashboard(tmp_path, service.endpoint) as uri, browser(tmp_path) as chrome:
        page = Page(chrome, tmp_path)
        service.wait_for_listener()
        service.send(state(alarms=[alarm("disk", "the disk is full")]))
        service.send(frame(24, (30, 150)))
        service.send(result("reconstruction", "doubtful", ("two crystals in the beam",)))
        service.send(progress(30, (4, 5, 22), curve=4))
        wait_until(lambda: health(uri)["feed_age_s"] is not None)
        for scheme, ground in (("dark", "rgb(14, 17, 22)"), ("light", "rgb(238, 241, 245)")):
            page.prefer(scheme)
            for width, height in ((390, 844), (1400, 900)):
                page.resize(width, height)
                chrome.get(uri)
                page.wait_for("#badge", "DOUBTFUL")
                assert chrome.execute_script("return getComputedStyle(document.body).backgroundColor") == ground
                page.check_fits()
                page.shoot(f"{scheme}-{width}")
        page.resize(390, 844)
        tops = [
            chrome.execute_script(f"return document.querySelector('{part}').getBoundingClientRect().top")
            for part in (
                "#band",
                "#alarms",
                "#verdict",
                "#strip",
                "#crystal",
                "#frame",
                "#queue",
                "#health",
                "#history",
            )
        ]
        assert tops == sorted(tops), "the verdict comes before the pictures"
        long = replace(NEXT, sample="gold_on_sapphire_" * 20, motors=("sample_stage_rocking_circle",) * 8)
        service.send(progress(30, (4, 5, 22), curve=4, run=long))
        service.send(result("reconstruction", "failed", ("no_room_for_a_break_" * 30,), curve=4, run=long))
        page.wait_for("#badge", "FAILED")
        page.check_fits()
        page.resize(1400, 900)
        page.check_fits()
        page.shoot("long names")
        before = page.pixels("strip")[0, 4]
        page.prefer("dark")
        wait_until(lambda: tuple(page.pixels("strip")[0, 4]) != tuple(before), 120, "another colour")
        assert tuple(page.pixels("strip")[0, 4]) == MISSING
        page.check_quiet()


# --- past scans --------------------------------------------------------------------------------------------

COLOURED = """
const canvas = document.getElementById(arguments[0]);
const copy = Object.assign(document.createElement("canvas"), {width: 60, height: 60}).getContext("2d");
copy.drawImage(canvas, 0, 0, 60, 60);
return Array.from(copy.getImageData(0, 0, 60, 60).data);
"""
BAD = ("serious", "critical")
AXE = Path(__file__).parents[1] / "data" / "axe.min.js"


def surface(page, canvas="crystal3d"):
    """The picture of a surface, 60 x 60 pixels, as an operator sees it."""
    data = page.chrome.execute_script(COLOURED, canvas)
    return np.array(data, dtype=int).reshape(60, 60, 4)


def is_drawn(page, canvas="crystal3d"):
    return (surface(page, canvas)[..., 3] > 0).mean() > 0.05


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "results"
    publish(folder, "5d0c41f2-raw", 54, ["inference", "reconstruction"], 1000.0)
    publish(folder, "6e1d52a3-raw", 55, ["reconstruction"], 2000.0, sample="Pt 1", grade="doubtful")
    return folder


@contextlib.contextmanager
def with_archive(directory, results, scheme=None):
    """The page of a dashboard with a results folder; yields what feeds the page, and the page."""
    with (
        source() as service,
        dashboard(directory, service.endpoint, results=results) as uri,
        browser(directory) as chrome,
    ):
        page = Page(chrome, directory)
        if scheme is not None:
            page.prefer(scheme)
        chrome.get(uri)
        service.wait_for_listener()
        yield service, page


def test_past_scans_are_found_shown_turned_and_compared(tmp_path, results):
    with with_archive(tmp_path, results) as (service, page):
        service.send(state())
        page.wait_for("#scans", "scan 55")
        assert page.text("#scans").strip().startswith("scan 55")
        assert page.text("#history-note") == "2 scans"
        choose(page, "trend", "chi2")
        wait_until(lambda: "nothing to plot" not in page.text("#trend-plot"), 20, "the trend of chi2")
        page.click("#scans tr:nth-child(2) button")
        page.wait_for("#past-name", "scan 54")
        page.wait_for("#badge", "GOOD")
        wait_until(lambda: is_drawn(page), 60, "the surface")
        before = surface(page)
        page.click("#look-x")
        wait_until(lambda: np.abs(surface(page) - before).mean() > 5, 20, "another side")
        side = surface(page)
        page.chrome.find_element("id", "crystal3d").send_keys("\ue014")  # the arrow to the right
        wait_until(lambda: np.abs(surface(page) - side).mean() > 0.5, 20, "a turn by the keyboard")
        turned = surface(page)
        choose(page, "quantity", "strain")
        wait_until(lambda: np.abs(surface(page) - turned).mean() > 0.5, 20, "other colours")
        wait_until(lambda: page.chrome.find_elements("id", "strain-z"), 20, "slices of the strain")
        middle = page.pixels("amplitude-z")
        move = "arguments[0].value = 38; arguments[0].dispatchEvent(new Event('input'))"
        page.chrome.execute_script(move, page.chrome.find_element("css selector", '#slices input[data-axis="z"]'))
        wait_until(lambda: not np.array_equal(page.pixels("amplitude-z"), middle), 20, "another slice")
        assert "counts" in page.text("#rocking")
        service.send(state())
        page.shoot("past")
        page.click("#live")
        page.wait_for("#badge", "no result yet")
        page.chrome.find_element("id", "search").send_keys("pt")
        page.wait_for("#history-note", "1 scan")
        page.chrome.find_element("id", "search").clear()
        page.chrome.find_element("id", "search").send_keys(" ")
        page.wait_for("#history-note", "2 scans")
        choose(page, "filter", "doubtful")
        page.wait_for("#history-note", "1 scan")
        choose(page, "filter", "")
        page.wait_for("#history-note", "2 scans")
        for box in page.chrome.find_elements("css selector", "#scans input"):
            box.click()
        wait_until(lambda: is_drawn(page, "compare-0") and is_drawn(page, "compare-1"), 60, "two surfaces")
        assert page.text("#compare-names").split() == ["scan", "55", "scan", "54"]
        page.resize(390, 844)
        assert page.chrome.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        page.shoot("compare-390")
        page.check_quiet()


def test_a_temperature_has_its_trend_and_each_curve_of_a_run_is_shown(tmp_path, results):
    for number, (kelvin, curves) in enumerate([(300.0, 1), (350.0, 3)]):
        readings = {"stage": Reading(value=kelvin, unit="K")}
        raw, time_s = f"heated-{number}", 5000.0 + 100 * number
        publish(results, raw, 60 + number, ["reconstruction"], time_s, readings=readings, curves=curves)
    with with_archive(tmp_path, results) as (service, page):
        page.wait_for("#scans", "scan 61, 3 curves")
        offered = '#trend option[value="reading stage"]'
        wait_until(lambda: page.chrome.find_elements("css selector", offered), 20, "the reading")
        choose(page, "trend", "reading stage")
        wait_until(lambda: len(page.chrome.find_elements("css selector", "#trend-plot .mark")) == 4, 20, "four curves")
        assert "stage / K" in page.text("#trend-plot")
        service.send(state())
        page.shoot("trend")
        page.click("#scans tr:nth-child(1) button")
        page.wait_for("#shown", "scan 61, curve 2")
        choose(page, "curve", "1")
        page.wait_for("#shown", "scan 61, curve 1")
        wait_until(lambda: is_drawn(page), 60, "the surface of the curve")
        page.click("#scans tr:nth-child(3) button")
        page.wait_for("#shown", "scan 55")
        assert not page.chrome.find_element("id", "curve").is_displayed(), "it has one curve"
        page.check_quiet()


def test_a_refinement_shows_how_far_it_is(tmp_path, results):
    enqueue_jobs(results, range(2), "3*ER")
    with contextlib.closing(Queue(results / QUEUE)) as queue:
        job = queue.lease("worker_0", 600.0)
    file = ProgressFile(progress_file(results, job.id))
    file.enter("12 starts on (32, 32, 32)")
    file.pass_share(0.42)
    with with_archive(tmp_path, results) as (service, page):
        page.wait_for("#jobs", "42 % of its time limit, 12 starts on (32, 32, 32)")
        assert len(page.chrome.find_elements("css selector", "#jobs progress")) == 1, "the other job waits"
        service.send(state())
        page.shoot("refinement")
        page.check_quiet()


def test_a_new_result_changes_surface_and_history(tmp_path, results):
    with with_archive(tmp_path, results) as (service, page):
        page.wait_for("#surface-note", "no result yet")
        service.send(result("reconstruction", curve=0, fields={"frame_sums": [1, 5, 2]}))
        wait_until(lambda: is_drawn(page), 60, "the surface")
        publish(results, "7f2e63b4-raw", 56, ["reconstruction"], 3000.0)
        page.wait_for("#scans", "scan 56")
        service.send(result("reconstruction", "failed", ("no peak",), curve=1))
        page.wait_for("#surface-note", "no surface")
        assert not is_drawn(page)


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_the_page_has_no_serious_barrier(tmp_path, results, scheme):
    with with_archive(tmp_path, results, scheme) as (service, page):
        service.send(state(malformed=3))
        service.send(progress(20, (3,)))
        service.send(frame(20, (30, 150)))
        service.send(result("reconstruction", "doubtful", ("two crystals",), curve=0))
        page.wait_for("#badge", "DOUBTFUL")
        page.wait_for("#scans", "scan 55")
        for box in page.chrome.find_elements("css selector", "#scans input"):
            box.click()
        page.chrome.execute_script(AXE.read_text(encoding="utf-8"))
        found = page.chrome.execute_async_script("axe.run().then(({violations}) => arguments[0](violations))")
        serious = [(one["id"], [node["html"] for node in one["nodes"]][:3]) for one in found if one["impact"] in BAD]
        assert serious == []


def choose(page, name, value):
    """Choose an entry of a list."""
    option = page.chrome.find_element("css selector", f'#{name} option[value="{value}"]')
    option.click()
