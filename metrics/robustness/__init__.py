"""Metrics that ask how far a map changes with what should not matter."""
