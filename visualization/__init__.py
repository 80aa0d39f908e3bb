"""Figures that can be read without a caption: maps, methods side by side, curves, scales.

Every function returns a matplotlib `Figure` and leaves pyplot and its settings alone; save it with `.savefig(...)`.
"""

from .curves import curves
from .heatmap import heatmap
from .report import report
from .side_by_side import side_by_side
from .wavelet import wavelet

__all__ = ["curves", "heatmap", "report", "side_by_side", "wavelet"]
