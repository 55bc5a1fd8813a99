"""A recorded scan goes through a simulated beamline and the service."""
