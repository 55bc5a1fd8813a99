"""Decoders of detector streams, group ``cdi_stream.decoder``."""
