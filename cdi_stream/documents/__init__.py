"""Bluesky documents: raw runs that are received, and runs of this service on their way to the bus and to Tiled."""
