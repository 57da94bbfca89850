"""Examples, run from a checkout of the repository."""
