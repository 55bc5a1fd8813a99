"""Files on disk, whatever they hold: written whole or not at all, put aside, grown for hours."""
