"""The stream of the detector: sockets, raw messages and their log, and the frames of one series."""
