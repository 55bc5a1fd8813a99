"""Numerics that know nothing of diffraction: the centred FFT pair, splines, interpolation, compiled loops."""
