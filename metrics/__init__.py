"""Metrics that score attribution maps, and studies that compare methods."""

from .conformance import check, checks
from .faithfulness.deletion import Deletion
from .faithfulness.faithfulness_correlation import FaithfulnessCorrelation
from .faithfulness.idsds import IDSDS
from .faithfulness.infidelity import Infidelity
from .faithfulness.insertion import Insertion
from .faithfulness.mu_fidelity import MuFidelity
from .faithfulness.sensitivity_n import SensitivityN
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
    "Deletion",
    "FaithfulnessCorrelation",
    "IDSDS",
    "Infidelity",
    "Insertion",
    "MuFidelity",
    "SensitivityN",
]
