"""Read and write files: recorded scans, intensities, results, exports and plots."""
