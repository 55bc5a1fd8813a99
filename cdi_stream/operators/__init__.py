"""The operators' page: the feed of the service, a read-only server, and the page itself."""
