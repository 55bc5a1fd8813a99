"""Channel Access server of the simulated beamline, and the devices of ophyd and ophyd-async that drive it."""
