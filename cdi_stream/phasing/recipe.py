"""Recipes: schedules of projections as text, with groups and directives.

``50*ER+(50*HIO[beta=0.9]+50*ER)*9+100*ER`` is read left to right.  Algorithms are ER, HIO, RAAR and DM.  Directives
hold from where they stand: ``SW[every=10,after=100,threshold=0.2,relative=max,sigma=1.0]``, ``SW[off]``,
``SUPPORT[full]``, ``SUPPORT[border]``, ``SUPPORT[fixed]``, ``DETWIN`` (ten cycles of ER in half of the support),
``AVG[20]`` (mean of the last 20 cycles), ``CLIP[every=10,low=0.5,high=1.5]`` (amplitudes inside the support are kept
between these multiples of their mean) and ``CLIP[off]``.
"""

from __future__ import annotations

import re
from typing import Any

from cdi_stream.errors import ConfigError
from cdi_stream.phasing.shrink_wrap import ShrinkWrap
from cdi_stream.phasing.steps import AmplitudeClip, Average, Cycles, Detwin, Recipe, Step, SupportMode

MAX_CYCLES = 1_000_000
MAX_STEPS = 100_000
MAX_DEPTH = 8

NAMED = {
    "wu2021": "50*ER+(50*HIO[beta=0.9]+50*ER)*18+50*HIO[beta=0.9]+100*ER",
    "wu2021-2d": "50*ER+(50*HIO[beta=0.9]+50*ER)*4+50*HIO[beta=0.9]+100*ER",
    "chan2021": "50*ER+(50*HIO[beta=0.9]+50*ER)*4+50*HIO[beta=0.9]+120*ER+AVG[20]",
    "masto2025-reference": "SW[every=20,after=0,threshold=0.3,relative=rms,sigma=1.0]+400*HIO+1000*RAAR+300*ER",
    "masto2025-er": "SW[every=20,after=0,threshold=0.3,relative=rms,sigma=1.0]+SUPPORT[border]+400*ER",
}
"""Recipes of the papers: Wu et al. (2021), npj Comput. Mater. 7, 175; Wu et al. (2021), IUCrJ 8, 12; Chan et al.
(2021), Appl. Phys. Rev. 8, 021407; Masto et al. (2025).  Where a paper gives no threshold it is ours, and
the second, fixed support of wu2021-2d is left out."""

_TOKEN = re.compile(r"\s*(?:(?P<count>[0-9]+)\s*\*\s*)?(?P<name>[A-Z]+)\s*(?:\[(?P<options>[^\[\]]*)\])?\s*")
_OPEN = re.compile(r"\s*\(")
_CLOSE = re.compile(r"\)\s*(?:\*\s*([0-9]+)\s*)?")
_PLUS = re.compile(r"\+")
_NUMBERS = {int: re.compile(r"[0-9]{1,9}"), float: re.compile(r"[0-9]+(\.[0-9]*)?|\.[0-9]+")}


def parse_recipe(text: str) -> Recipe:
    """Read a recipe, or the name of one.

    Raises
    ------
    ConfigError
        If a part cannot be read, or there are more than `MAX_CYCLES` cycles; the part is quoted.
    """
    steps = _Reader(NAMED.get(text.strip(), text)).whole()
    recipe = Recipe(text=text, steps=(ShrinkWrap(), *steps))
    if not 0 < recipe.cycles <= MAX_CYCLES:
        raise ConfigError(f"recipe {_quoted(text)}: expected 1 to {MAX_CYCLES} cycles, got {recipe.cycles}")
    return recipe


class _Reader:
    """Recursive descent over the text."""

    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0

    def whole(self) -> list[Step]:
        """Read all there is."""
        steps = self._terms()
        if self._at < len(self._text):
            raise self._error("'+' or the end")
        return steps

    def _terms(self, depth: int = 0) -> list[Step]:
        found = self._term(depth)
        while self._take(_PLUS):
            found += self._term(depth)
            self._limit(len(found))
        return found

    def _term(self, depth: int) -> list[Step]:
        if self._take(_OPEN):
            return self._group(depth + 1)
        match = _TOKEN.match(self._text, self._at)
        if match is not None and match["name"] == "FLAT":
            raise self._error("CLIP, which is the present name of FLAT", match[0].strip())
        if match is None:
            raise self._error(f"a term like 50*ER, 50*HIO[beta=0.9], SW[...] or (...)*2, or one of {', '.join(NAMED)}")
        try:
            step = _step(match)
        except ValueError as error:
            raise self._error(str(error), match[0].strip()) from error
        self._at = match.end()
        return [step]

    def _group(self, depth: int) -> list[Step]:
        if depth > MAX_DEPTH:
            raise self._error(f"groups at most {MAX_DEPTH} deep")
        inside = self._terms(depth)
        close = self._take(_CLOSE)
        if close is None:
            raise self._error("'+' or ')'")
        repeats = _count(close[1] or "1")
        self._limit(repeats * len(inside))
        return inside * repeats

    def _take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        match = pattern.match(self._text, self._at)
        self._at = match.end() if match else self._at
        return match

    def _limit(self, n_steps: int) -> None:
        if n_steps > MAX_STEPS:
            raise ConfigError(f"recipe {_quoted(self._text)}: expected at most {MAX_STEPS} steps, got {n_steps}")

    def _error(self, expected: str, got: str | None = None) -> ConfigError:
        part = self._text[self._at :] if got is None else got
        return ConfigError(
            f"recipe {_quoted(self._text)}: expected {expected}, got {_quoted(part) if part else 'the end'}"
        )


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 400 else text[:400] + "...")


def _count(digits: str) -> int:
    return min(int(digits), 10 * MAX_CYCLES) if len(digits) < 1000 else 10 * MAX_CYCLES


def _step(match: re.Match[str]) -> Step:
    """Read one term; an error says what was expected."""
    count, name, options = match["count"], match["name"], (match["options"] or "").strip()
    if count is None and name in _DIRECTIVES:
        return _DIRECTIVES[name](options)
    if count is not None and name in ("ER", "HIO", "RAAR", "DM"):
        return _cycles(name, _count(count), options)
    raise ValueError("ER, HIO, RAAR or DM with a count, or SW, SUPPORT, DETWIN, AVG or CLIP without")


def _cycles(name: Any, count: int, options: str) -> Cycles:
    names = {} if name == "ER" else {"beta": 0.9}
    beta = _options(options, **names).get("beta", 0.9)
    if not 0 < beta <= 2:
        raise ValueError("0 < beta <= 2")
    return Cycles(name, count, beta)


def _shrink_wrap(options: str) -> ShrinkWrap | None:
    if options == "off":
        return None
    kinds = ("max", "mean", "rms")
    given = _options(options, every=10, after=100, threshold=0.2, relative=kinds, sigma=1.0)
    if given["every"] < 1 or given["threshold"] <= 0:
        raise ValueError("every >= 1 and threshold > 0")
    return ShrinkWrap(sigma_vox=given.pop("sigma"), **given)


def _support_mode(options: str) -> SupportMode:
    if options not in ("full", "border", "fixed"):
        raise ValueError("SUPPORT[full], [border] or [fixed]")
    return SupportMode(options)  # type: ignore[arg-type]


def _detwin(options: str) -> Detwin:
    _options(options)
    return Detwin()


def _average(options: str) -> Average:
    if not re.fullmatch("[0-9]{1,4}", options) or not 0 < int(options) <= 1000:
        raise ValueError("AVG[1] to AVG[1000]")
    return Average(int(options))


def _clip(options: str) -> AmplitudeClip:
    if options == "off":
        return AmplitudeClip(every=0)
    clip = AmplitudeClip(**_options(options, every=10, low=0.5, high=1.5))
    if clip.every < 1 or not clip.low < 1 < clip.high:
        raise ValueError("every >= 1 and low < 1 < high")
    return clip


_DIRECTIVES = {"SW": _shrink_wrap, "SUPPORT": _support_mode, "DETWIN": _detwin, "AVG": _average, "CLIP": _clip}


def _options(text: str, **defaults: Any) -> dict[str, Any]:
    """Read ``name=value`` pairs, none twice; values are like their defaults, or one word of a tuple."""
    found: dict[str, Any] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        name, _, value = map(str.strip, part.partition("="))
        if name not in defaults or name in found:
            raise ValueError(f"{', '.join(defaults) or 'nothing'} as name=value, each once, not {_quoted(part)}")
        found[name] = _value(name, value, defaults[name])
    return {name: default[0] if isinstance(default, tuple) else default for name, default in defaults.items()} | found


def _value(name: str, text: str, default: Any) -> Any:
    if isinstance(default, tuple):
        if text in default:
            return text
        raise ValueError(f"{name}={' or '.join(default)}, not {_quoted(text)}")
    if not _NUMBERS[type(default)].fullmatch(text):
        raise ValueError(f"a number like {name}={default}, not {_quoted(text)}")
    return type(default)(text)
