"""Figures that can be read without a caption: maps, methods side by side, curves.

Every function returns a matplotlib `Figure` and leaves pyplot and its settings alone; save it with `.savefig(...)`.
"""

from .curves import curves
from .heatmap import heatmap
from .side_by_side import side_by_side

__all__ = ["curves", "heatmap", "side_by_side"]
