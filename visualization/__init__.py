"""Figures that need no caption: maps, methods side by side, curves, areas, regions, scales, ranks, costs, random nets, grids.

Every function but `report`, which writes a file, returns a matplotlib `Figure` and leaves pyplot and its settings alone;
save it with `.savefig(...)`.
"""

from .aggregate import aggregate
from .agreement import agreement
from .area_sweep import area_sweep
from .cascade import cascade
from .cost import cost
from .critical_difference import critical_difference
from .curves import curves
from .heatmap import heatmap
from .report import report
from .score_distribution import score_distribution
from .side_by_side import side_by_side
from .similarity_curves import similarity_curves
from .subset_path import subset_path
from .wavelet import wavelet

__all__ = [
    "aggregate", "agreement", "area_sweep", "cascade", "cost", "critical_difference", "curves", "heatmap", "report",
    "score_distribution", "side_by_side", "similarity_curves", "subset_path", "wavelet",
]  # fmt: skip
