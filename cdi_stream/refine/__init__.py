"""Refinement of reconstructions after the live path: a durable queue, worker processes, and published results."""
