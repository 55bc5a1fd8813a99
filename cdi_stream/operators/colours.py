"""Colours of the phase, which the page's own pictures use too."""

from __future__ import annotations

import numpy as np

from cdi_stream.geometry.affine import Floats

_LIGHTNESS, _CHROMA = 0.74, 0.125
_LMS = np.array([[0.3963377774, 0.2158037573], [-0.1055613458, -0.0638541728], [-0.0894841775, -1.291485548]])
_RGB = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.707614701],
    ]
)


def phase_colours(n: int) -> Floats:
    """Return ``n`` colours ``(n, 3)``, 0 to 255, once around a colour wheel of equal lightness.

    No phase looks more important than another.  The colours are those of OKLCH: B. Ottosson (2020), "A perceptual color
    space for image processing".
    """
    turn = 2 * np.pi * np.arange(n) / n
    ab = _CHROMA * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    linear = np.clip((_LIGHTNESS + ab @ _LMS.T) ** 3 @ _RGB.T, 0, 1)
    result: Floats = 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return result


PHASE_COLOURS = phase_colours(255)
"""Colours of the values 1 to 255 of a picture of the phase."""
