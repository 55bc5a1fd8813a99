"""The operators' page: the feed that the service publishes, a read-only web server, and the page itself."""
