"""The page's colours: told apart by brightness, on every ground and by either preference, and each with a sign."""

from __future__ import annotations

import re
from importlib.resources import files
from itertools import combinations, product

import pytest

CSS = (files("cdi_stream.operators") / "page" / "page.css").read_text(encoding="utf-8")
SCHEMES = ("dark", "light")
TEXTS = ("text", "quiet", "good", "warn", "bad", "busy", "idle")
FILLS = ("good", "warn", "bad", "busy")
MARKS = ("there", "missing", "awaited")


def variables(scheme):
    """Values of the CSS variables by name."""
    blocks = re.findall(r":root \{(.*?)\}", CSS, re.DOTALL)
    assert len(blocks) == len(SCHEMES)
    found = [dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block)) for block in blocks]
    return found[0] if scheme == "dark" else found[0] | found[1]


def luminance(colour):
    """Relative luminance of the Web Content Accessibility Guidelines 2.2."""
    shares = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    """Contrast ratio of the same guidelines, from 1 to 21."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def seen_without_red_or_green(colour):
    """A colour as a deuteranope sees it: Vienot, Brettel and Mollon (1999), on linear red, green and blue."""
    r, g, b = ((int(colour[i : i + 2], 16) / 255) ** 2.2 for i in (1, 3, 5))
    yellow = 0.29275 * r + 0.70725 * g
    blue = -0.02234 * r + 0.02234 * g + b
    return yellow, blue


def test_contrast_is_that_of_the_guidelines():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)
    assert contrast("#46a069", "#ff323c") < 1.13, "the green and red that were here before"


@pytest.mark.parametrize("scheme", SCHEMES)
def test_texts_are_read_on_every_ground(scheme):
    colour = variables(scheme)
    pairs = [*product(TEXTS, ("ground", "panel")), *((f"{fill}-on", f"{fill}-fill") for fill in FILLS)]
    pairs += [("pressed-on", "pressed"), ("picture-on", "picture")]
    low = {pair: contrast(*(colour[name] for name in pair)) for pair in pairs}
    assert not {pair: value for pair, value in low.items() if value < 4.5}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_marks_are_told_apart_from_their_ground_and_from_one_another(scheme):
    colour = variables(scheme)
    pairs = [
        *((mark, "strip") for mark in MARKS),
        ("missing", "there"),
        ("missing", "awaited"),
        ("good-fill", "bad-fill"),
    ]
    low = {pair: contrast(*(colour[name] for name in pair)) for pair in pairs}
    assert not {pair: value for pair, value in low.items() if value < 3}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_good_doubtful_and_bad_differ_for_eyes_that_see_no_red_and_green(scheme):
    colour = variables(scheme)
    for one, other in combinations(("good", "warn", "bad"), 2):
        if "good" in (one, other):
            a, b = (seen_without_red_or_green(colour[name]) for name in (one, other))
            assert max(abs(x - y) for x, y in zip(a, b, strict=True)) > 0.15, (one, other)


def test_every_colour_is_a_variable_of_both_schemes():
    rules = re.sub(r":root \{.*?\}", "", CSS, flags=re.DOTALL)
    assert not re.findall(r"#[0-9a-f]{3,8}\b(?![\w-])(?=[^{}]*;)|rgba?\(", rules)
    used = set(re.findall(r"var\(--([\w-]+)", rules)) - {"tone", "fill", "on"}
    assert used | set(MARKS) <= variables("dark").keys()
