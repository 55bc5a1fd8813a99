"""Engines of the refinement queue: this process, or a cluster."""
