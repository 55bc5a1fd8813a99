"""Live 3D imaging of nanocrystals at Bragg coherent diffraction beamlines.

A detector streams the frames of a rocking curve over ZeroMQ while a Bluesky plan turns the crystal::

    receive -> assemble -> prepare -> correct -> infer -> phase -> publish

*receive* decodes wire messages, *assemble* joins frames and angles by id, *prepare* marks what may be
trusted and crops about the peak, *correct* takes intensities from skew detector axes to lab axes, *infer*
asks a network for the crystal, *phase* searches on the measured voxels from there, and *publish* hands out
Bluesky documents.  Conventions are in `cdi_stream.geometry.circles`.
"""
