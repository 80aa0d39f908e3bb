"""Methods that integrate along a path from a baseline."""
