"""Metrics that score attribution maps, and studies that compare methods."""

from .conformance import check, checks
from .engine import compare
from .faithfulness.deletion import Deletion
from .faithfulness.insertion import Insertion
from .metric import MapMetric, MethodMetric, Metric, Scored, available, create, describe, register
from .study import Study

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
    "Deletion",
    "Insertion",
]
