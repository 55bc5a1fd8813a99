"""Faults of a beamline by name: each spoils the frames, the documents or the course of one scan on purpose."""
