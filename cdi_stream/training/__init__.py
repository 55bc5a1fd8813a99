"""Train networks on simulated crystals."""
