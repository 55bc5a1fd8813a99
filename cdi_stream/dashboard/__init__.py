"""The operators' page: a process of its own that reads the feed and serves browsers."""
