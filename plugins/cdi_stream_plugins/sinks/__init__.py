"""Sinks of documents, group ``cdi_stream.sink``."""
