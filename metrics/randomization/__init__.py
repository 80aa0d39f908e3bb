"""Metrics that ask whether a map depends on what it is said to explain."""
