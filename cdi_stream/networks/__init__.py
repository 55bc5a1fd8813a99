"""Networks, their losses and their files."""
