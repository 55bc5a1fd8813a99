"""From measured counts to a crystal: what live curves, recorded scans and plain files have in common."""
