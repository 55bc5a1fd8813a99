"""The running service: it takes frames and documents in and sends reconstructions out."""
