"""Files of intensities and of objects: what ``cdi-stream phase`` reads and writes, and the frame it works in."""
