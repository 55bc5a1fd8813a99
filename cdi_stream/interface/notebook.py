"""Pictures and tables for notebooks."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cdi_stream.errors import ConfigError
from cdi_stream.files.plot import Picture, draw_slices
from cdi_stream.interface.metric_rows import Row
from cdi_stream.messages import Verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURE_DPI = 70
"""Resolution of the picture in a notebook's table [dots per inch]: three slices are then about 800 pixels wide."""

COLOURS = {"good": "#1b7f3b", "preliminary": "#9a6700", "doubtful": "#9a6700", "failed": "#b3261e"}
"""Colour of the verdict in a notebook, by its grade."""


def slices_figure(picture: Picture, title: str) -> Figure:
    """Return a matplotlib figure of the central slices of a picture, which a notebook shows as PNG.

    Raises
    ------
    ConfigError
        If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("plot: expected matplotlib, got no such package: pip install 'cdi-stream[plot]'") from error

    class NotebookFigure(Figure):
        """A figure that a notebook shows without pyplot."""

        def _repr_png_(self) -> bytes:
            return _png(self)

    figure = NotebookFigure()
    draw_slices(figure, picture, title)
    return figure


def png_of(picture: Picture, title: str) -> bytes | None:
    """Return the central slices of a picture as PNG; None if matplotlib is not installed."""
    try:
        figure = slices_figure(picture, title)
    except ConfigError:
        return None
    figure.set_dpi(PICTURE_DPI)
    return _png(figure)


def _png(figure: Figure) -> bytes:
    image = BytesIO()
    figure.savefig(image, format="png", dpi=figure.dpi)
    return image.getvalue()


def html_page(verdict: Verdict, rows: Sequence[Row], png: bytes | None) -> str:
    """Return a verdict, a table of numbers and a picture as HTML."""
    colour = COLOURS.get(verdict.grade, "#555555")
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in verdict.reasons)
    table = "".join(
        f"<tr><th style='text-align:left'>{escape(row.name)}</th><td>{escape(row.text)}</td>"
        f"<td style='text-align:left'>{escape(row.meaning)}</td></tr>"
        for row in rows
    )
    image = "" if png is None else f"<img alt='' src='data:image/png;base64,{base64.b64encode(png).decode()}'>"
    return (
        f"<div><p><b style='color:{colour}'>{escape(verdict.grade)}</b></p>"
        f"<ul>{reasons}</ul><table>{table}</table>{image}</div>"
    )


def without_ramp(density: NDArray[np.complex64]) -> NDArray[np.complex64]:
    """Return an object without the mean ramp of its phase along each axis.

    The phase of an object has a ramp where the brightest voxel of its diffraction is not the origin voxel.
    """
    for axis, n in enumerate(density.shape):
        ahead, behind = (density.take(range(a, n - 1 + a), axis) for a in (1, 0))
        step = np.angle((ahead * behind.conj()).sum())
        wave = np.exp(-1j * step * (np.arange(n) - n // 2)).astype(np.complex64)
        density = density * np.expand_dims(wave, [k for k in range(density.ndim) if k != axis])
    return density
