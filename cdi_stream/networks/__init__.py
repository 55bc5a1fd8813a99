"""Neural networks for phase retrieval, their losses, and their files."""
