"""The Bluesky side: runs as they are heard, and our own runs on their way to the bus and to Tiled."""
