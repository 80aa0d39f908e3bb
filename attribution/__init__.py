"""Attribution methods by name, behind one interface, on any model."""

from . import baselines, designs, games, masking, regions, targets, trees
from .attention.attention_rollout import AttentionRollout
from .attention.gae import GAE
from .attention.grad_attention import GradAttention
from .attention.raw_attention import RawAttention
from .attention.transformer_attribution import TransformerAttribution
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
from .control.center import Center
from .control.constant import Constant
from .control.edge import Edge
from .control.input import Input
from .control.random import Random
from .explanation import Explanation
from .external import FromCaptum, FromMaps, from_captum, from_maps
from .gradient.bcos import BCos
from .gradient.deconvnet import Deconvnet
from .gradient.full_grad import FullGrad, SimpleFullGrad, SmoothFullGrad
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
from .path.agi import AGI
from .path.blur_ig import BlurIG
from .path.expected_gradients import ExpectedGradients
from .path.gradient_shap import GradientSHAP
from .path.guided_ig import GuidedIG
from .path.idgi import IDGI
from .path.iia import IIA
from .path.integrated_gradients import IntegratedGradients
from .path.samp import SAMP
from .path.samp_pp import SAMPPlusPlus
from .path.smooth_ig import SmoothIG
from .perturbation.extremal_perturbation import ExtremalPerturbation
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
from .region.xrai import XRAI, XRAIFast
from .relevance.attn_lrp import CPLRP, AttnLRP
from .relevance.composites import (
    LRPAlphaBeta,
    LRPEpsilonAlpha2Beta1,
    LRPEpsilonAlpha2Beta1Flat,
    LRPEpsilonGammaBox,
    LRPEpsilonPlus,
    LRPEpsilonPlusFlat,
    LRPGamma,
    LRPZBox,
    LRPZPlus,
)
from .relevance.deep_lift_shap import DeepLiftSHAP
from .relevance.deeplift import DeepLift
from .relevance.excitation_backprop import ExcitationBackprop
from .relevance.lrp import LRP
from .relevance.pa_lrp import PALRP
from .subset.lima import LiMA
from .subset.submodular import Submodular

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
    "AGI",
    "AblationCAM",
    "AttentionRollout",
    "AttnLRP",
    "BCos",
    "BlurIG",
    "CPLRP",
    "Center",
    "Constant",
    "Deconvnet",
    "DeepLift",
    "DeepLiftSHAP",
    "Edge",
    "EigenCAM",
    "EigenGradCAM",
    "ExcitationBackprop",
    "ExpectedGradients",
    "ExtremalPerturbation",
    "FeatureAblation",
    "FromCaptum",
    "FromMaps",
    "FullGrad",
    "GAE",
    "GradAttention",
    "GradCAM",
    "GradCAMElementwise",
    "GradCAMPlusPlus",
    "Gradient",
    "GradientSHAP",
    "GuidedBackprop",
    "GuidedGradCAM",
    "GuidedIG",
    "HSIC",
    "HiResCAM",
    "IDGI",
    "IIA",
    "Input",
    "InputXGradient",
    "IntegratedGradients",
    "InternalInfluence",
    "KernelSHAP",
    "LIME",
    "LRP",
    "LRPAlphaBeta",
    "LRPEpsilonAlpha2Beta1",
    "LRPEpsilonAlpha2Beta1Flat",
    "LRPEpsilonGammaBox",
    "LRPEpsilonPlus",
    "LRPEpsilonPlusFlat",
    "LRPGamma",
    "LRPZBox",
    "LRPZPlus",
    "LayerActivation",
    "LayerCAM",
    "LayerConductance",
    "LayerDeepLift",
    "LayerGradientSHAP",
    "LayerGradientXActivation",
    "LayerIntegratedGradients",
    "LiMA",
    "NeuronConductance",
    "Occlusion",
    "PALRP",
    "RISE",
    "Random",
    "RawAttention",
    "SAMP",
    "SAMPPlusPlus",
    "Saliency",
    "ScoreCAM",
    "ShapBPT",
    "ShapleySampling",
    "SimpleFullGrad",
    "SmoothFullGrad",
    "SmoothGrad",
    "SmoothGradSquared",
    "SmoothIG",
    "Sobol",
    "Submodular",
    "TransformerAttribution",
    "VarGrad",
    "WCAM",
    "XGradCAM",
    "XRAI",
    "XRAIFast",
]
