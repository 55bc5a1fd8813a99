"""A simulated beamline: ground truth by its own route, real bytes on real sockets."""
