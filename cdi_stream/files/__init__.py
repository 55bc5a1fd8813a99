"""Files on disk: how they are written so that a reader never finds half of one."""
