"""Read diffraction intensities from files of any kind, with mask and, where it is known, geometry."""
