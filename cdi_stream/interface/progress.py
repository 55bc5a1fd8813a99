"""Progress of a phasing: a callback, and bars for terminal and notebook that are such callbacks."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Protocol

from cdi_stream.errors import ConfigError

TELL_EVERY_S = 0.2
"""Shortest time [s] between two calls of a callback within one stage: a bar then moves smoothly, and costs nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Progress of a phasing.

    Parameters
    ----------
    stage
        Name of the current stage, for people.
    passed_s, budget_s
        Wall time since the start, and the largest wall time allowed [s].
    is_done
        True in the last call; it comes after errors too.
    """

    stage: str
    passed_s: float
    budget_s: float
    is_done: bool = False

    @property
    def share(self) -> float:
        """Share of the budget that has passed, 0 to 1."""
        return min(1.0, self.passed_s / self.budget_s)


ProgressCallback = Callable[[Progress], None]
"""Function that is called with the progress at each stage, and a few times a second within a stage."""


class ProgressReport:
    """Calls a callback with the progress of one phasing; leaving the context makes the last call."""

    def __init__(
        self, callback: ProgressCallback | None, budget_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if callback is not None and not callable(callback):
            raise ConfigError(
                f"progress: expected a function of one argument, got {callback!r}: take cdi_stream.progress_bar()"
            )
        self._callback, self._budget_s, self._clock = callback, budget_s, clock
        self._begin_s = self._told_s = clock()
        self._stage = "starting"

    def stage(self, text: str) -> None:
        """Begin a stage."""
        self._stage = text
        self._tell()

    def tick(self) -> None:
        """Call the callback again within a stage, at most once in `TELL_EVERY_S`."""
        if self._callback is not None and self._clock() - self._told_s >= TELL_EVERY_S:
            self._tell()

    def _tell(self, *, is_done: bool = False) -> None:
        if self._callback is not None:
            self._told_s = self._clock()
            passed_s = self._told_s - self._begin_s
            self._callback(Progress(stage=self._stage, passed_s=passed_s, budget_s=self._budget_s, is_done=is_done))

    def __enter__(self) -> ProgressReport:
        """Make the first call."""
        self.stage(self._stage)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Make the last call."""
        self._tell(is_done=True)


class _Bar(Protocol):
    """A bar on the screen."""

    def show(self, progress: Progress) -> None:
        """Show the progress."""
        ...

    def close(self) -> None:
        """Leave the screen."""
        ...


class ProgressBar:
    """Callback that shows the progress as a bar; the bar opens with the first call, and closes with the last."""

    def __init__(self, make: Callable[[Progress], _Bar]) -> None:
        self._make = make
        self._bar: _Bar | None = None

    def __call__(self, progress: Progress) -> None:
        """Show the progress."""
        if self._bar is None:
            self._bar = self._make(progress)
        self._bar.show(progress)
        if progress.is_done:
            self._bar.close()
            self._bar = None


def progress_bar(kind: Literal["auto", "rich", "tqdm"] = "auto") -> ProgressBar:
    """Return a bar for the argument ``progress`` of `cdi_stream.phase` and `cdi_stream.reconstruct`.

    Parameters
    ----------
    kind
        ``rich`` or ``tqdm`` draws the bar; ``auto`` takes tqdm in a notebook where it is installed, else rich.

    Raises
    ------
    ConfigError
        If the kind is another, or tqdm is not installed.
    """
    makers: dict[str, Callable[[Progress], _Bar]] = {"rich": _RichBar, "tqdm": _TqdmBar}
    if kind == "auto":
        return ProgressBar(_TqdmBar if _is_notebook() and _has_tqdm() else _RichBar)
    if kind not in makers:
        raise ConfigError(f"progress_bar: expected 'auto', 'rich' or 'tqdm', got {kind!r}")
    if kind == "tqdm" and not _has_tqdm():
        raise ConfigError(
            "progress_bar: expected the package tqdm, got no such package: pip install tqdm, or take 'rich'"
        )
    return ProgressBar(makers[kind])


class _RichBar:
    """Bar of rich, in a terminal or a notebook."""

    def __init__(self, progress: Progress) -> None:
        import rich.progress

        columns = (
            rich.progress.SpinnerColumn(),
            rich.progress.TextColumn("{task.description}", markup=False),
            rich.progress.BarColumn(),
            rich.progress.TimeElapsedColumn(),
        )
        self._bar = rich.progress.Progress(*columns, transient=True)
        self._task = self._bar.add_task(progress.stage, total=progress.budget_s)
        self._bar.start()

    def show(self, progress: Progress) -> None:
        """Show the progress."""
        self._bar.update(self._task, description=progress.stage, completed=progress.passed_s)

    def close(self) -> None:
        """Leave the screen."""
        self._bar.stop()


class _TqdmBar:
    """Bar of tqdm, in a terminal or a notebook."""

    def __init__(self, progress: Progress) -> None:
        from tqdm.auto import tqdm

        self._bar: Any = tqdm(
            total=round(progress.budget_s, 1), leave=False, bar_format="{desc} |{bar}| {n:.0f} of at most {total:.0f} s"
        )

    def show(self, progress: Progress) -> None:
        """Show the progress."""
        self._bar.set_description_str(progress.stage, refresh=False)
        self._bar.n = min(round(progress.passed_s, 1), self._bar.total)
        self._bar.refresh()

    def close(self) -> None:
        """Leave the screen."""
        self._bar.close()


def _is_notebook() -> bool:
    """Return whether Jupyter runs this Python."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"


def _has_tqdm() -> bool:
    try:
        import tqdm  # noqa: F401
    except ImportError:
        return False
    return True
