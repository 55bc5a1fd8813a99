"""Frames and documents become rocking curves, live or while a scan is recorded."""
