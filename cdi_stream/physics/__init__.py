"""Physics of a complex crystal: displacement, strain, lattice spacing, surface and facets."""
