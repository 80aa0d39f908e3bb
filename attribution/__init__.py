"""Attribution methods by name, behind one interface, on any model."""

from . import baselines, designs, games, masking, regions, targets, trees
from .attributor import Attributor, Computed, Cost, available, create, describe, register
from .cam.ablation_cam import AblationCAM
from .cam.eigen_cam import EigenCAM
from .cam.eigen_grad_cam import EigenGradCAM
from .cam.grad_cam import GradCAM
from .cam.grad_cam_elementwise import GradCAMElementwise
from .cam.grad_cam_pp import GradCAMPlusPlus
from .cam.guided_grad_cam import GuidedGradCAM
from .cam.hires_cam import HiResCAM
from .cam.layer_cam import LayerCAM
from .cam.score_cam import ScoreCAM
from .cam.xgrad_cam import XGradCAM
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
from .layer.internal_influence import InternalInfluence
from .layer.layer_activation import LayerActivation
from .layer.layer_conductance import LayerConductance
from .layer.layer_deep_lift import LayerDeepLift
from .layer.layer_gradient_shap import LayerGradientSHAP
from .layer.layer_gradient_x_activation import LayerGradientXActivation
from .layer.layer_integrated_gradients import LayerIntegratedGradients
from .layer.neuron_conductance import NeuronConductance
from .model import Model
from .path.blur_ig import BlurIG
from .path.expected_gradients import ExpectedGradients
from .path.gradient_shap import GradientSHAP
from .path.idgi import IDGI
from .path.iia import IIA
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
    "AblationCAM",
    "BlurIG",
    "Deconvnet",
    "DeepLift",
    "EigenCAM",
    "EigenGradCAM",
    "ExpectedGradients",
    "FeatureAblation",
    "FromCaptum",
    "FromMaps",
    "GradCAM",
    "GradCAMElementwise",
    "GradCAMPlusPlus",
    "Gradient",
    "GradientSHAP",
    "GuidedBackprop",
    "GuidedGradCAM",
    "HSIC",
    "HiResCAM",
    "IDGI",
    "IIA",
    "InputXGradient",
    "IntegratedGradients",
    "InternalInfluence",
    "KernelSHAP",
    "LIME",
    "LayerActivation",
    "LayerCAM",
    "LayerConductance",
    "LayerDeepLift",
    "LayerGradientSHAP",
    "LayerGradientXActivation",
    "LayerIntegratedGradients",
    "NeuronConductance",
    "Occlusion",
    "RISE",
    "Saliency",
    "ScoreCAM",
    "ShapBPT",
    "ShapleySampling",
    "SmoothGrad",
    "SmoothGradSquared",
    "SmoothIG",
    "Sobol",
    "VarGrad",
    "WCAM",
    "XGradCAM",
]
