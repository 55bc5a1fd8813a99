"""Adapters of cdi-stream: wire formats, beamlines, facility files, document sinks."""
