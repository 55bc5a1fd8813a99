"""Archives of past runs."""
