"""From a complex crystal to physics: strain, displacement, lattice spacing, surface, facets."""
