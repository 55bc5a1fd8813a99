"""The running service: receives frames and documents, and publishes reconstructions."""
