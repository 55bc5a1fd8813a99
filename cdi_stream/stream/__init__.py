"""The detector's side: sockets, messages and their log, and the frames of one series."""
