"""Readers of recorded scans, group ``cdi_stream.reader``."""
