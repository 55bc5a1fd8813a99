"""Files of a deployment, each loaded by its own program where that is installed, else by a validator."""
