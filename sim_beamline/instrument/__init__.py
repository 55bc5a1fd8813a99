"""Physics of the simulated beamline: motorised axes, beam, crystals and sensor; nothing here knows EPICS or sockets."""
