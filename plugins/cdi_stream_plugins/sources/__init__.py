"""Document sources: each receives the documents of a RunEngine in one way."""
