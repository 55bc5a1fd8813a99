"""Plugins of cdi-stream: detector formats, beamlines, readers of facility files, and document sinks."""
