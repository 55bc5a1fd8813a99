"""Geometry of the diffractometer: conventions, circles, the affine map of an array, and geometry cases."""
