"""The Python interface: what ``import cdi_stream`` offers in a script or notebook."""
