"""Refinement behind the live path: a durable queue, worker processes, methods."""
