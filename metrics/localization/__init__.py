"""Metrics that know where the object is."""
