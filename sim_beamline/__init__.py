"""A simulated beamline: diffraction computed independently of cdi_stream, and real messages on real sockets."""
