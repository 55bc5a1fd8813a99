"""Geometry of the diffractometer: circles and conventions, the affine map of an array, reports on both."""
