"""Metrics that score attribution maps, and studies that compare methods."""

from ._similarity import similarity
from .agreement import Agreement, agreement
from .complexity.complexity import Complexity
from .complexity.effective_complexity import EffectiveComplexity
from .complexity.sparseness import Sparseness
from .conformance import check, checks
from .engine import compare
from .faithfulness.aopc import AreaOverCurve
from .faithfulness.average_highest_confidence import AverageHighestConfidence
from .faithfulness.deletion import Deletion
from .faithfulness.faithfulness_correlation import FaithfulnessCorrelation
from .faithfulness.idsds import IDSDS
from .faithfulness.infidelity import Infidelity
from .faithfulness.insertion import Insertion
from .faithfulness.insertion_minus_deletion import InsertionMinusDeletion
from .faithfulness.label_leakage import LabelLeakage
from .faithfulness.mu_fidelity import MuFidelity
from .faithfulness.pixel_flipping import PixelFlipping
from .faithfulness.road import Road, RoadDifference, RoadLeast
from .faithfulness.sensitivity_n import SensitivityN
from .faithfulness.srg import SymmetricRelevanceGain
from .ground_truth._noise import NoiseScenes, SymbolicScenes, noise_scenes, symbolic_scenes
from .ground_truth._parts import PartScenes, part_scenes
from .ground_truth._pasted import Pasted, pasted
from .ground_truth.functional_precision import FunctionalPrecision
from .ground_truth.input_dependence import InputDependence
from .ground_truth.input_independence import InputIndependence
from .ground_truth.model_contrast import ModelContrast
from .ground_truth.noise_field_iou import NoiseFieldIoU
from .ground_truth.part_completeness import PartCompleteness
from .ground_truth.part_contrastivity import PartContrastivity
from .ground_truth.part_correctness import PartCorrectness
from .ground_truth.uniform_score import UniformScore
from .localization._grid import Grids, HeadMaps, attainable, cell_share, grids_of
from .localization.difull import DiFull
from .localization.dipart import DiPart
from .localization.energy_pointing_game import EnergyPointingGame
from .localization.grid_pointing_game import GridPointingGame
from .localization.pointing_game import PointingGame
from .localization.relevance_rank_accuracy import RelevanceRankAccuracy
from .metric import MapMetric, MethodMetric, Metric, Scored, UnitMetric, available, create, describe, register
from .photographs import Preparation
from .randomization.data_randomization import DataRandomization
from .randomization.efficient_mprt import EfficientMPRT
from .randomization.model_randomization import ModelRandomization
from .randomization.random_logit import RandomLogit
from .randomization.smooth_mprt import SmoothMPRT
from .robustness.attribution_attack import AttributionAttack
from .robustness.hyperparameter_sensitivity import HyperparameterSensitivity
from .robustness.seed_sensitivity import SeedSensitivity
from .robustness.sensitivity_max import SensitivityMax
from .sanity import SanityReport, sanity_report
from .study import Study

__all__ = [
    "Agreement",
    "Grids",
    "HeadMaps",
    "MapMetric",
    "MethodMetric",
    "Metric",
    "NoiseScenes",
    "PartScenes",
    "Pasted",
    "Preparation",
    "SanityReport",
    "Scored",
    "Study",
    "SymbolicScenes",
    "UnitMetric",
    "agreement",
    "attainable",
    "available",
    "cell_share",
    "check",
    "checks",
    "compare",
    "create",
    "describe",
    "grids_of",
    "noise_scenes",
    "part_scenes",
    "pasted",
    "register",
    "sanity_report",
    "similarity",
    "symbolic_scenes",
    "AreaOverCurve",
    "AttributionAttack",
    "AverageHighestConfidence",
    "Complexity",
    "DataRandomization",
    "Deletion",
    "DiFull",
    "DiPart",
    "EffectiveComplexity",
    "EfficientMPRT",
    "EnergyPointingGame",
    "FaithfulnessCorrelation",
    "FunctionalPrecision",
    "GridPointingGame",
    "HyperparameterSensitivity",
    "IDSDS",
    "Infidelity",
    "InputDependence",
    "InputIndependence",
    "Insertion",
    "InsertionMinusDeletion",
    "LabelLeakage",
    "ModelContrast",
    "ModelRandomization",
    "MuFidelity",
    "NoiseFieldIoU",
    "PartCompleteness",
    "PartContrastivity",
    "PartCorrectness",
    "PixelFlipping",
    "PointingGame",
    "RandomLogit",
    "RelevanceRankAccuracy",
    "Road",
    "RoadDifference",
    "RoadLeast",
    "SeedSensitivity",
    "SensitivityMax",
    "SensitivityN",
    "SmoothMPRT",
    "Sparseness",
    "SymmetricRelevanceGain",
    "UniformScore",
]
