"""Simulated camera with the states of a DECTRIS detector, and its REST interface in the style of SIMPLON."""
