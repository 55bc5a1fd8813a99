"""Geometry of beamlines, group ``cdi_stream.beamline``."""
