"""Write files safely: atomic writes, broken files renamed, and HDF5 files that grow for hours."""
