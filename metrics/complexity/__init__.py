"""Metrics of the map alone: how much of the image it needs."""
