"""Metrics that ask whether a map depends on what the network has learned."""
