"""One rocking curve becomes one crystal: locate, prepare, correct, infer, retrieve the phase, describe."""
