"""Decoders of wire formats, group ``cdi_stream.decoder``."""
