"""The operators' page in a browser, fed with what the service would say."""

from __future__ import annotations

import numpy as np
import pytest

from tests.system.browser import (
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

pytest.importorskip("selenium", reason="selenium is not installed")

PIXELS = """
const canvas = document.getElementById(arguments[0]);
const {width, height} = canvas;
return [height, width, Array.from(canvas.getContext("2d").getImageData(0, 0, width, height).data)];
"""
DARK = (14, 17, 22)
RED = (255, 50, 60)


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

    def pixels(self, canvas):
        rows, cols, data = self.chrome.execute_script(PIXELS, canvas)
        return np.array(data, dtype=int).reshape(rows, cols, 4)[..., :3]

    def wait_for(self, selector, text, timeout_s=15):
        wait_until(lambda: text in self.text(selector), timeout_s, f"{text!r} in {selector}: {self.text(selector)!r}")

    def shoot(self, name):
        self.chrome.save_screenshot(str(self._directory / f"{name}.png"))

    def check_fits(self):
        """Nothing sticks out to the side, and no panel lies on another."""
        script = """
        const boxes = Array.from(document.querySelectorAll("header, #band, section"), (e) => e.getBoundingClientRect());
        const overlap = (a, b, low, high) => a[low] < b[high] - 1 && b[low] < a[high] - 1;
        const lies = (a, b) => overlap(a, b, "left", "right") && overlap(a, b, "top", "bottom");
        return [document.documentElement.scrollWidth <= innerWidth,
                boxes.some((a, i) => boxes.slice(i + 1).some((b) => lies(a, b)))];
        """
        assert self.chrome.execute_script(script) == [True, False]

    def check_quiet(self):
        """The console has no error."""
        assert [line for line in self.chrome.get_log("browser") if line["level"] == "SEVERE"] == []


def test_a_curve_is_followed_from_its_first_frame_to_the_refinement(tmp_path):
    with source() as service, dashboard(tmp_path, service.endpoint) as uri, browser(tmp_path) as chrome:
        page = Page(chrome, tmp_path)
        chrome.get(uri)
        page.wait_for("#lamp", "waiting for the service")
        assert page.text("#band") == "Waiting for the first curve"
        assert page.text("#badge") == "no result yet"
        service.wait_for_listener()
        service.send(state())
        service.send(progress(25))
        service.send(frame(24, (30, 150)))
        page.wait_for("#frame-label", "series 12 · image 24 · largest 54\u202f321 counts · 120 \u00d7 200 pixels")
        check_measuring(page)
        service.send(progress(40, is_over=True))
        service.send(result("inference", "doubtful", ("not yet held against the measured voxels",)))
        page.wait_for("#badge", "DOUBTFUL")
        assert page.text("#reasons") == "not yet held against the measured voxels"
        service.send(result("reconstruction"))
        page.wait_for("#badge", "GOOD")
        check_crystal(page)
        page.shoot("good")
        chrome.find_element("css selector", '[data-stage="inference"]').click()
        assert "DOUBTFUL" in page.text("#badge")
        service.send(result("refinement", curve=2))
        page.wait_for('[data-stage="refinement"]', "refinement (of curve 2)")
        assert "DOUBTFUL" in page.text("#badge"), "an old curve's refinement replaces nothing"
        service.send(result("reconstruction", curve=4, chi2=0.5))
        page.wait_for("#shown", "curve 4, reconstruction")
        assert page.figure("chi2") == "0.5 (noise floor 0.0098)"
        service.send(result("refinement", curve=4))
        page.wait_for("#shown", "curve 4, refinement")
        assert len(chrome.find_elements("css selector", "#rows tr")) == 5
        for width in (1600, 900):
            chrome.set_window_size(width, 1143)
            page.check_fits()
        page.shoot("narrow")
        page.check_quiet()


def check_measuring(page):
    assert page.text("#lamp") == "connected"
    assert page.text("#band") == "Measuring curve 3"
    names = ("expected", "received", "missing", "awaited")
    assert [page.figure(name) for name in names] == ["40", "25", "0", "15"]
    assert page.figure("running") == "1"
    assert page.figure("refining") == "run 5d0c41f2, curve 2"
    strip = page.pixels("strip")
    assert strip.shape == (1, 40, 3)
    assert len(np.unique(strip[0, :25], axis=0)) == len(np.unique(strip[0, 25:], axis=0)) == 1
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
    assert page.text("#band") == "Curve 3: good"
    assert page.figure("size x \u00d7 y \u00d7 z") == "145 \u00d7 185 \u00d7 105 nm"
    assert page.figure("r_p") == "0.9912"
    assert page.figure("· infer") == "110 ms"


def test_what_is_wrong_is_red_and_said_in_full(tmp_path):
    evil = '<img src="x" onerror="document.title=1"><script>document.title=2</script>'
    with source() as service, dashboard(tmp_path, service.endpoint) as uri, browser(tmp_path) as chrome:
        page = Page(chrome, tmp_path)
        service.wait_for_listener()
        service.send(state(malformed=3))
        service.send(result("reconstruction"))
        wait_until(lambda: health(uri)["feed_age_s"] is not None)
        chrome.get(uri)
        page.wait_for("#badge", "GOOD")
        assert page.tone('[data-name="malformed"]') == "warn", "it was so before the page came"
        service.send(progress(30, (4, 5, 22), curve=4))
        page.wait_for("#band", "3 of 40 frames missing in curve 4")
        assert page.tone("body") == "bad"
        assert page.text("#past") == "of an earlier curve: curve 4 is being measured"
        is_red = (page.pixels("strip")[0] == RED).all(axis=1)
        assert list(np.flatnonzero(is_red)) == [4, 5, 22]
        service.send(progress(38, (4, 5, 22), curve=4, is_over=True))
        service.send(result("reconstruction", "failed", ("5 of 40 frames missing", evil), curve=4))
        service.send(state(malformed=4, queue={evil: 1, "failed": 2}))
        page.wait_for("#badge", "FAILED")
        page.wait_for("#queue", evil)
        assert page.text("#band").startswith("5 of 40 frames missing in curve 4 · curve 4: failed")
        assert page.text("#reasons") == f"5 of 40 frames missing\n{evil}"
        assert page.text("#slices") == "no crystal: the reconstruction of curve 4 failed"
        assert page.tone('[data-name="malformed"]') == page.tone('#queue [data-name="failed"]') == "bad"
        assert chrome.title == "cdi-stream"
        page.check_fits()
        page.wait_for("#lamp", "feed silent for")
        assert "what is shown may be old" in page.text("#band")
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
            chrome.get(f"{uri}/?token=s3cret%20%26")
            service.wait_for_listener()
            service.send(state())
            service.send(result("reconstruction"))
            page.wait_for("#badge", "GOOD")
        page.wait_for("#lamp", "disconnected, reconnecting in")
        assert page.tone("#band") == "warn"
        page.shoot("disconnected")
        port = int(uri.rsplit(":", 1)[1])
        with dashboard(tmp_path, service.endpoint, port=port, token="s3cret &"):
            page.wait_for("#lamp", "feed silent", 30)
            service.send(state())
            page.wait_for("#lamp", "connected")
            assert "GOOD" in page.text("#badge"), "what was seen is kept"
