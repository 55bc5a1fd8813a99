"""Replay a recorded scan through a simulated beamline and the live service."""
