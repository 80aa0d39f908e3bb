"""Metrics that score attribution maps, and studies that compare methods."""

from .conformance import check, checks
from .faithfulness.aopc import AreaOverCurve
from .faithfulness.average_highest_confidence import AverageHighestConfidence
from .faithfulness.deletion import Deletion
from .faithfulness.insertion import Insertion
from .faithfulness.insertion_minus_deletion import InsertionMinusDeletion
from .faithfulness.pixel_flipping import PixelFlipping
from .faithfulness.srg import SymmetricRelevanceGain
from .metric import MapMetric, MethodMetric, Metric, Scored, available, create, describe, register
from .study import Study, compare

__all__ = [
    "MapMetric",
    "MethodMetric",
    "Metric",
    "Scored",
    "Study",
    "available",
    "check",
    "checks",
    "compare",
    "create",
    "describe",
    "register",
    "AreaOverCurve",
    "AverageHighestConfidence",
    "Deletion",
    "Insertion",
    "InsertionMinusDeletion",
    "PixelFlipping",
    "SymmetricRelevanceGain",
]
