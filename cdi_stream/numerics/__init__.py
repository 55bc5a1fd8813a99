"""Numerical tools without physics: the centred FFT pair, spline interpolation, and compiled loops."""
