"""Everything that is read from or written to disk by name: scans, intensities, results, exports, plots."""
