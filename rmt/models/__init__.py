"""Models users meet."""
