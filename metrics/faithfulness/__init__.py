"""Metrics that remove or restore pixels in the order of the map."""
