"""Assembly of frames and documents into rocking curves, for the live service and for recordings."""
