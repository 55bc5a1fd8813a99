"""Recipes as text: a schedule of projections, read from left to right.

``50*ER+(50*HIO[beta=0.9]+50*ER)*9+100*ER`` means 50 cycles of ER, nine times 50 cycles of HIO and 50 of ER, and 100
cycles of ER.  The algorithms are ER, HIO, RAAR, DM, and AER: ER with momentum, see `cdi_stream.phasing.descent`.  A
directive holds from its place on:

- ``SW[every=10,after=100,threshold=0.2,relative=max,sigma=1.0]`` sets shrink-wrap, ``SW[off]`` ends it; see
  `cdi_stream.phasing.shrink_wrap.ShrinkWrap`.  A recipe begins with ``SW`` and these values.
- ``SUPPORT[full]``, ``SUPPORT[border]`` and ``SUPPORT[fixed]`` choose how far an update may change the support.
- ``DETWIN`` runs ten cycles of ER in one half of the support.
- ``AVG[20]`` makes the mean of the last 20 cycles the result.
- ``CLIP[every=10,low=0.5,high=1.5]`` keeps the amplitude inside the support between these multiples of its mean,
  ``CLIP[off]`` ends that.  The word was ``FLAT`` before.
"""

from __future__ import annotations

import re
from typing import Any, get_args

from cdi_stream.errors import ConfigError
from cdi_stream.phasing.shrink_wrap import ShrinkWrap
from cdi_stream.phasing.steps import Algorithm, AmplitudeClip, Average, Cycles, Detwin, Recipe, Step, SupportMode

MAX_CYCLES = 1_000_000
"""Largest number of cycles of a recipe, more than any use needs; protects a service against a mistyped number."""

MAX_STEPS = 100_000
"""Largest number of steps of a recipe with its groups written out; limits the memory that a text can take."""

MAX_DEPTH = 8
"""Largest depth of groups within groups; limits the recursion that a text can cause."""

NAMED = {
    "wu2021": "50*ER+(50*HIO[beta=0.9]+50*ER)*18+50*HIO[beta=0.9]+100*ER",
    "wu2021-2d": "50*ER+(50*HIO[beta=0.9]+50*ER)*4+50*HIO[beta=0.9]+100*ER",
    "chan2021": "50*ER+(50*HIO[beta=0.9]+50*ER)*4+50*HIO[beta=0.9]+120*ER+AVG[20]",
    "masto2025-reference": "SW[every=20,after=0,threshold=0.3,relative=rms,sigma=1.0]+400*HIO+1000*RAAR+300*ER",
    "masto2025-er": "SW[every=20,after=0,threshold=0.3,relative=rms,sigma=1.0]+SUPPORT[border]+400*ER",
}
"""Recipes of the papers, by name.

- ``wu2021``: Wu et al. (2021), npj Comput. Mater. 7, 175, doi:10.1038/s41524-021-00644-z.
- ``wu2021-2d``: Wu et al. (2021), IUCrJ 8, 12, doi:10.1107/S2052252520013780, without its second, fixed support.
- ``chan2021``: Chan et al. (2021), Appl. Phys. Rev. 8, 021407, doi:10.1063/5.0031486.
- ``masto2025-reference`` and ``masto2025-er``: Masto et al. (2025), arXiv:2507.06644, doi:10.48550/arXiv.2507.06644;
  npj Comput. Mater. (2026), doi:10.1038/s41524-026-02017-w.

Where a paper gives no threshold of the support, the recipe has the default threshold of ``SW``.
"""

_TOKEN = re.compile(r"\s*(?:(?P<count>[0-9]+)\s*\*\s*)?(?P<name>[A-Z]+)\s*(?:\[(?P<options>[^\[\]]*)\])?\s*")
_OPEN = re.compile(r"\s*\(")
_CLOSE = re.compile(r"\)\s*(?:\*\s*([0-9]+)\s*)?")
_PLUS = re.compile(r"\+")
_NUMBERS = {int: re.compile(r"[0-9]{1,9}"), float: re.compile(r"[0-9]+(\.[0-9]*)?|\.[0-9]+")}


def parse_recipe(text: str) -> Recipe:
    """Return the recipe that a text, or a name of `NAMED`, stands for.

    Raises
    ------
    ConfigError
        If a part of the text cannot be read (the error quotes it), or if the recipe has no cycle or more than
        `MAX_CYCLES`.
    """
    steps = _Reader(NAMED.get(text.strip(), text)).read()
    recipe = Recipe(text=text, steps=(ShrinkWrap(), *steps))
    if not 0 < recipe.cycles <= MAX_CYCLES:
        raise ConfigError(f"recipe {_quoted(text)}: expected 1 to {MAX_CYCLES} cycles, got {recipe.cycles}")
    return recipe


class _Reader:
    """Reader of one text, by recursive descent."""

    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0

    def read(self) -> list[Step]:
        """Read the whole text; return its steps."""
        steps = self._terms()
        if self._at < len(self._text):
            raise self._error("'+' or the end")
        return steps

    def _terms(self, depth: int = 0) -> list[Step]:
        steps = self._term(depth)
        while self._take(_PLUS):
            steps += self._term(depth)
            self._limit(len(steps))
        return steps

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
    """Return the step of one term; a ValueError says what was expected."""
    count, name, options = match["count"], match["name"], (match["options"] or "").strip()
    if count is None and name in _DIRECTIVES:
        return _DIRECTIVES[name](options)
    if count is not None and name in get_args(Algorithm):
        return _cycles(name, _count(count), options)
    raise ValueError("ER, AER, HIO, RAAR or DM with a count, or SW, SUPPORT, DETWIN, AVG or CLIP without")


def _cycles(name: Any, count: int, options: str) -> Cycles:
    names = {} if name in ("ER", "AER") else {"beta": 0.9}
    beta = _options(options, **names).get("beta", 0.9)
    if not 0 < beta <= 2:
        raise ValueError("0 < beta <= 2")
    return Cycles(name, count, beta)


def _shrink_wrap(options: str) -> ShrinkWrap | None:
    if options == "off":
        return None
    kinds = ("max", "mean", "rms")
    values = _options(options, every=10, after=100, threshold=0.2, relative=kinds, sigma=1.0)
    if values["every"] < 1 or values["threshold"] <= 0:
        raise ValueError("every >= 1 and threshold > 0")
    return ShrinkWrap(sigma_vox=values.pop("sigma"), **values)


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
    """Return the options of a term by name.

    ``text`` holds ``name=value`` pairs, each name once.  A value has the type of its default; where the default is a
    tuple, the value is one of its words.
    """
    options: dict[str, Any] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        name, _, value = map(str.strip, part.partition("="))
        if name not in defaults or name in options:
            raise ValueError(f"{', '.join(defaults) or 'nothing'} as name=value, each once, not {_quoted(part)}")
        options[name] = _value(name, value, defaults[name])
    return {name: default[0] if isinstance(default, tuple) else default for name, default in defaults.items()} | options


def _value(name: str, text: str, default: Any) -> Any:
    if isinstance(default, tuple):
        if text in default:
            return text
        raise ValueError(f"{name}={' or '.join(default)}, not {_quoted(text)}")
    if not _NUMBERS[type(default)].fullmatch(text):
        raise ValueError(f"a number like {name}={default}, not {_quoted(text)}")
    return type(default)(text)
