"""Intensities to be phased, from files of any kind, with mask and, where it is known, geometry."""
