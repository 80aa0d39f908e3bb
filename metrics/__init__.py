"""Metrics that score attribution maps, and studies that compare methods."""

from .complexity.complexity import Complexity
from .complexity.effective_complexity import EffectiveComplexity
from .complexity.sparseness import Sparseness
from .conformance import check, checks
from .faithfulness.deletion import Deletion
from .faithfulness.insertion import Insertion
from .faithfulness.label_leakage import LabelLeakage
from .faithfulness.road import Road, RoadDifference, RoadLeast
from .localization.energy_pointing_game import EnergyPointingGame
from .localization.pointing_game import PointingGame
from .localization.relevance_rank_accuracy import RelevanceRankAccuracy
from .metric import MapMetric, MethodMetric, Metric, Scored, available, create, describe, register
from .robustness.sensitivity_max import SensitivityMax
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
    "Complexity",
    "Deletion",
    "EffectiveComplexity",
    "EnergyPointingGame",
    "Insertion",
    "LabelLeakage",
    "PointingGame",
    "RelevanceRankAccuracy",
    "Road",
    "RoadDifference",
    "RoadLeast",
    "SensitivityMax",
    "Sparseness",
]
