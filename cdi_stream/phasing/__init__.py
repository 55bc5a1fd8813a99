"""Iterative phasing: batched torch, any number of axes."""
