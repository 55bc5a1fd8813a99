"""Beamlines as values, group ``cdi_stream.beamline``."""
