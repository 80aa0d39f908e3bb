"""Attribution methods by name, behind one interface, on any model."""

from . import baselines, designs, games, masking, regions, targets, trees
from .attributor import Attributor, Computed, Cost, available, create, describe, register
from .cam.grad_cam import GradCAM
from .conformance import check, checks
from .explanation import Explanation
from .external import FromCaptum, FromMaps, from_captum, from_maps
from .gradient.deconvnet import Deconvnet
from .gradient.gradient import Gradient
from .gradient.guided_backprop import GuidedBackprop
from .gradient.input_x_gradient import InputXGradient
from .gradient.saliency import Saliency
from .gradient.smoothgrad import SmoothGrad
from .gradient.smoothgrad_sq import SmoothGradSquared
from .gradient.vargrad import VarGrad
from .model import Model
from .path.blur_ig import BlurIG
from .path.expected_gradients import ExpectedGradients
from .path.gradient_shap import GradientSHAP
from .path.idgi import IDGI
from .path.integrated_gradients import IntegratedGradients
from .path.smooth_ig import SmoothIG
from .perturbation.feature_ablation import FeatureAblation
from .perturbation.hsic import HSIC
from .perturbation.kernel_shap import KernelSHAP
from .perturbation.lime import LIME
from .perturbation.occlusion import Occlusion
from .perturbation.rise import RISE
from .perturbation.shap_bpt import ShapBPT
from .perturbation.shapley_sampling import ShapleySampling
from .perturbation.sobol import Sobol
from .perturbation.wcam import WCAM
from .relevance.deeplift import DeepLift

__all__ = [
    "Attributor",
    "Computed",
    "Cost",
    "Explanation",
    "Model",
    "available",
    "check",
    "checks",
    "create",
    "describe",
    "register",
    "from_captum",
    "from_maps",
    "baselines",
    "designs",
    "games",
    "masking",
    "regions",
    "targets",
    "trees",
    "BlurIG",
    "Deconvnet",
    "DeepLift",
    "ExpectedGradients",
    "FeatureAblation",
    "FromCaptum",
    "FromMaps",
    "GradCAM",
    "Gradient",
    "GradientSHAP",
    "GuidedBackprop",
    "HSIC",
    "IDGI",
    "InputXGradient",
    "IntegratedGradients",
    "KernelSHAP",
    "LIME",
    "Occlusion",
    "RISE",
    "Saliency",
    "ShapBPT",
    "ShapleySampling",
    "SmoothGrad",
    "SmoothGradSquared",
    "SmoothIG",
    "Sobol",
    "VarGrad",
    "WCAM",
]
