"""Searches for the few regions that decide."""
