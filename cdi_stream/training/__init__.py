"""Training on simulated crystals."""
