"""Settings of the assembler."""

from __future__ import annotations

from dataclasses import dataclass, field

from cdi_stream.documents.readings import ReadingNames
from cdi_stream.messages import Box
from cdi_stream.stream.series import SeriesLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class AssembleSettings:
    """Waiting times, limits and names for the assembly of curves.

    Parameters
    ----------
    late_grace_s
        Time after the end of a series during which late frames are still taken [s].
    reading_timeout_s
        Time after the last message of a complete series during which documents are waited for [s].
    idle_timeout_s
        Time without any message after which a series is released as it is [s].
    limits
        Largest size of one series.
    max_total_bytes
        Largest memory of the frames of all open series together [bytes].
    monitor
        Data key of the monitor, None without one.
    roi
        Region that the decoder cuts from each frame; describes series whose header was lost.
    motors
        Data keys of the circles and of the energy.
    names
        Ends of the data keys that name a series and an image.
    copied_keys
        Further keys of the raw start document that the reconstruction's start document copies.
    preview_fractions
        Fractions of the frames of a curve at which a preview is asked for, ascending.
    ahead_fractions
        Fractions at which the work on the frames so far is asked for.
    """

    late_grace_s: float = 0.5
    reading_timeout_s: float = 10.0
    idle_timeout_s: float = 120.0
    limits: SeriesLimits = field(default_factory=SeriesLimits)
    max_total_bytes: int = 16 << 30
    monitor: str | None = None
    roi: Box | None = None
    motors: frozenset[str] = frozenset()
    names: ReadingNames = field(default_factory=ReadingNames)
    copied_keys: tuple[str, ...] = ()
    preview_fractions: tuple[float, ...] = ()
    ahead_fractions: tuple[float, ...] = ()
