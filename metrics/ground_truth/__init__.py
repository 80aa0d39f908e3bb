"""Metrics that know the truth: pictures that are made, and networks written or trained for them."""
