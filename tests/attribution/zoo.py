"""A zoo of tiny networks with random weights: the architectures that people explain, from the libraries they take them from.

`conftest.py` loads this file once, under a name that pickle finds again, and hands it out as the fixture `zoo`:
`zoo.build("timm_vit")` or `zoo.timm_vit()` gives a network, `zoo.FACTS["timm_vit"]` what is known of it. A test with an
argument `zoo_name` runs for all of them, with `zoo_cnn`, `zoo_vit` or `zoo_hierarchical` for those of a kind. Libraries are
imported when they are needed.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

CLASSES = 5
CALIBRATION = 8  # images that batch norms take their statistics from


@dataclass(frozen=True)
class Facts:
    """What is known of a network of the zoo.

    Attributes:
        kind: `"cnn"`, `"vit"` (one resolution, tokens) or `"hierarchical"` (windows of tokens, merged).
        size: Height and width of its input.
        grid: Rows and columns of its last feature map, or of its patches.
        prefix: Tokens that stand before the patches: class, distillation, registers.
        pooled: Whether the head takes the mean over places; otherwise it reads a token, or weighs every place by itself.
        logits: Whether the output has its scores in `.logits`, as transformers' have; otherwise it is a tensor.
    """

    kind: Literal["cnn", "vit", "hierarchical"]
    size: tuple[int, int]
    grid: tuple[int, int]
    prefix: int = 0
    pooled: bool = True
    logits: bool = False


BUILDERS: dict[str, Callable[[], nn.Module]] = {}
FACTS: dict[str, Facts] = {}


def entry(kind: str, size: tuple[int, int] | int, grid: tuple[int, int] | int, **more):
    """Put a builder and its facts into the tables."""

    def both(value: tuple[int, int] | int) -> tuple[int, int]:
        return (value, value) if isinstance(value, int) else value

    def decorate(builder: Callable[[], nn.Module]) -> Callable[..., nn.Module]:
        name = builder.__name__
        BUILDERS[name], FACTS[name] = builder, Facts(kind, both(size), both(grid), **more)
        return functools.partial(build, name)

    return decorate


def names(kind: str | None = None) -> list[str]:
    """All names, or those of a kind."""
    return [n for n, f in FACTS.items() if kind is None or f.kind == kind]


def build(name: str, seed: int = 0) -> nn.Module:
    """A fresh network in evaluation mode, the same for the same seed; the global generator is put back."""
    state = torch.get_rng_state()
    try:
        return lively(BUILDERS[name](), images(name, CALIBRATION, seed=seed + 1), seed)
    finally:
        torch.set_rng_state(state)


def images(name: str, n: int = 2, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Images in [0, 1] that the network takes, `(N, 3, H, W)`: large blobs of colour and a little noise."""
    generator, size = torch.Generator().manual_seed(seed), FACTS[name].size
    blobs = functional.interpolate(torch.rand(n, 3, 4, 4, generator=generator), size, mode="bicubic")
    return (blobs + torch.randn(n, 3, *size, generator=generator) / 20).clamp(0, 1).to(dtype)


def outputs(network: nn.Module, x: Tensor) -> Tensor:
    """A network's scores, `(N, classes)`, whatever it returns."""
    out = network(x)
    return out if isinstance(out, Tensor) else out.logits


@torch.no_grad()
def lively(network: nn.Module, calibration: Tensor, seed: int) -> nn.Module:
    """Weights that tell every channel apart; batch norms with the statistics of what they get, a little off."""
    generator = torch.Generator().manual_seed(seed)

    def normal(shape: torch.Size) -> Tensor:
        return torch.randn(shape, generator=generator)

    scales = {id(getattr(m, "weight", None)) for m in network.modules() if "Norm" in type(m).__name__}
    for name, parameter in network.named_parameters():
        fan = parameter[0].numel() if parameter.ndim in {2, 4} else 1
        if id(parameter) in scales:
            parameter.copy_(torch.rand(parameter.shape, generator=generator) + 0.5)
        elif "pos" in name or "token" in name:
            parameter.copy_(normal(parameter.shape) / 2)
        elif parameter.ndim == 1 and name.endswith("bias"):
            parameter.copy_(normal(parameter.shape) / 10)
        else:
            parameter.copy_(normal(parameter.shape) * (2 / fan) ** 0.5)
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [m.momentum for m in norms]
    network.eval()
    if norms:
        for norm in norms:
            norm.momentum = 1.0
            norm.train()
        network(calibration)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.running_mean.add_(normal(norm.running_mean.shape) * 0.2 * norm.running_var.sqrt())
        norm.running_var.mul_(torch.rand(norm.running_var.shape, generator=generator) + 0.5)
        norm.num_batches_tracked.zero_()
    return network.eval()


# -- written by hand ---------------------------------------------------------------------------------------------------


@entry("cnn", 32, 8)
def plain_cnn() -> nn.Module:
    """Convolutions and ReLUs in a row, global average pooling, one linear layer: where CAM is exact."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(12, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, CLASSES),
    )


class VGG(nn.Module):
    """Features that end in a max pooling; linear layers on the flattened maps."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 8, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(4)
        self.classifier = nn.Sequential(nn.Linear(128, 16), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(16, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


@entry("cnn", 32, 16, pooled=False)
def vgg_like() -> nn.Module:
    """The last convolution's maps are 16 x 16; then they are pooled twice, to 4 x 4, and flattened."""
    return VGG()


class PreActivation(nn.Module):
    """A residual block whose stream passes no activation: y = h + W relu(bn(h))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(width), nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(width), nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.relu = nn.ReLU()

    def forward(self, h: Tensor) -> Tensor:
        return h + self.conv2(self.relu(self.bn2(self.conv1(self.relu(self.bn1(h))))))


class PreActivationResNet(nn.Module):
    """A stem, two pre-activation blocks, a last batch norm and ReLU, pooling, one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=4, padding=1)
        self.blocks = nn.Sequential(PreActivation(8), PreActivation(8))
        self.bn, self.relu = nn.BatchNorm2d(8), nn.ReLU()
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.relu(self.bn(self.blocks(self.stem(x))))).flatten(1))


@entry("cnn", 32, 8)
def preactivation_resnet() -> nn.Module:
    return PreActivationResNet()


# -- torchvision -------------------------------------------------------------------------------------------------------


@entry("cnn", 64, 2)
def torchvision_resnet18() -> nn.Module:
    """ResNet-18 with a sixteenth of its channels: ReLUs in place, called twice in a block."""
    from torchvision.models.resnet import BasicBlock, ResNet

    class Narrow(ResNet):
        def _make_layer(self, block, planes, blocks, stride=1, dilate=False):
            if planes == 64:
                self.inplanes = 4
                self.conv1 = nn.Conv2d(3, 4, 7, 2, 3, bias=False)
                self.bn1 = nn.BatchNorm2d(4)
            return super()._make_layer(block, planes // 16, blocks, stride, dilate)

    network = Narrow(BasicBlock, [2, 2, 2, 2])
    network.fc = nn.Linear(32, CLASSES)
    network.__class__ = ResNet  # nothing but the constructor was its own, and pickle must find the class
    return network


@entry("cnn", 32, 4)
def torchvision_mobilenet_v2() -> nn.Module:
    """Inverted residuals, depthwise convolutions, ReLU6."""
    from torchvision.models import MobileNetV2

    setting = [[1, 4, 1, 1], [2, 8, 1, 2], [2, 8, 2, 2]]
    network = MobileNetV2(CLASSES, inverted_residual_setting=setting, round_nearest=4, width_mult=0.5)
    network.features[-1] = type(network.features[-1])(
        network.features[-1][0].in_channels, 16, kernel_size=1, norm_layer=nn.BatchNorm2d, activation_layer=nn.ReLU6
    )
    network.classifier[1] = nn.Linear(16, CLASSES)
    return network


@entry("cnn", 32, 4)
def torchvision_mobilenet_v3() -> nn.Module:
    """Squeeze and excitation, hardswish, hardsigmoid."""
    from torchvision.models.mobilenetv3 import InvertedResidualConfig, MobileNetV3

    rows = [(8, 3, 8, 8, True, "RE", 1, 1), (8, 3, 16, 8, True, "HS", 2, 1), (8, 5, 16, 8, True, "HS", 2, 1)]
    rows += [(8, 3, 16, 8, False, "HS", 1, 1)]
    return MobileNetV3([InvertedResidualConfig(*r, 1.0) for r in rows], last_channel=16, num_classes=CLASSES)


@entry("cnn", 32, 2)
def torchvision_convnext() -> nn.Module:
    """Layer norms over channels, GELU, layer scale, stochastic depth."""
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    stages = [CNBlockConfig(8, 12, 1), CNBlockConfig(12, 16, 1), CNBlockConfig(16, None, 2)]
    return ConvNeXt(stages, stochastic_depth_prob=0.1, num_classes=CLASSES)


@entry("cnn", 32, 4)
def torchvision_densenet() -> nn.Module:
    """Every layer sees all earlier ones; a functional ReLU in place before the pooling."""
    from torchvision.models import DenseNet

    return DenseNet(growth_rate=4, block_config=(2, 2), num_init_features=8, bn_size=2, num_classes=CLASSES)


@entry("vit", 32, 4, prefix=1, pooled=False)
def torchvision_vit() -> nn.Module:
    """`nn.MultiheadAttention`, a class token."""
    from torchvision.models import VisionTransformer

    return VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=CLASSES
    )


@entry("hierarchical", 32, 8)
def torchvision_swin() -> nn.Module:
    """Windows of 4 x 4 tokens, shifted; `(N, H, W, C)`."""
    from torchvision.models import SwinTransformer

    return SwinTransformer(
        patch_size=[2, 2], embed_dim=8, depths=[2, 2], num_heads=[2, 2], window_size=[4, 4], num_classes=CLASSES
    )


# -- timm --------------------------------------------------------------------------------------------------------------


@entry("cnn", 64, 4)
def timm_resnet() -> nn.Module:
    """Bottlenecks with average pooling in the shortcut; the last stage keeps its resolution."""
    from timm.models.resnet import Bottleneck, ResNet

    return ResNet(
        Bottleneck, [1, 1, 1, 1], CLASSES, channels=(2, 2, 4, 4), stem_width=4, stem_type="deep", avg_down=True,
        output_stride=16,
    )  # fmt: skip


@entry("cnn", 32, 4)
def timm_efficientnet() -> nn.Module:
    """Depthwise separable and inverted residual blocks, squeeze and excitation, SiLU in place."""
    from timm.models._efficientnet_builder import decode_arch_def
    from timm.models.efficientnet import EfficientNet

    blocks = [["ds_r1_k3_s1_e1_c4_se0.25"], ["ir_r1_k3_s2_e3_c8_se0.25"], ["ir_r2_k5_s2_e3_c8_se0.25"]]
    return EfficientNet(
        decode_arch_def(blocks), CLASSES, num_features=16, stem_size=8, act_layer=nn.SiLU, drop_rate=0.2,
    )  # fmt: skip


@entry("cnn", 64, 2)
def timm_convnext() -> nn.Module:
    from timm.models.convnext import ConvNeXt

    return ConvNeXt(num_classes=CLASSES, depths=(1, 1, 1, 1), dims=(8, 8, 12, 16))


def _timm_vit(**more) -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    given = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "mlp_ratio": 2}
    return VisionTransformer(**given | more, num_classes=CLASSES)


@entry("vit", 32, 4, prefix=1, pooled=False)
def timm_vit() -> nn.Module:
    """A class token; attention that is never written out."""
    return _timm_vit()


@entry("vit", 32, 4)
def timm_vit_pooled() -> nn.Module:
    """The mean of the patches, no class token."""
    return _timm_vit(global_pool="avg", class_token=False)


@entry("vit", 32, 4, prefix=3, pooled=False)
def timm_vit_registers() -> nn.Module:
    """A class token and two registers."""
    return _timm_vit(reg_tokens=2)


@entry("vit", (32, 48), (4, 6), prefix=1, pooled=False)
def timm_vit_wide() -> nn.Module:
    """Images that are not square."""
    return _timm_vit(img_size=(32, 48))


@entry("vit", 32, 4, prefix=2, pooled=False)
def timm_deit() -> nn.Module:
    """A class and a distillation token, each with its own head, averaged."""
    from timm.models.deit import VisionTransformerDistilled

    return VisionTransformerDistilled(
        img_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2, mlp_ratio=2, num_classes=CLASSES
    )


@entry("hierarchical", 32, 8)
def timm_swin() -> nn.Module:
    from timm.models.swin_transformer import SwinTransformer

    return SwinTransformer(
        img_size=32, patch_size=2, window_size=4, embed_dim=8, depths=(2, 2), num_heads=(2, 2), num_classes=CLASSES
    )


# -- transformers ------------------------------------------------------------------------------------------------------


@entry("vit", 32, 4, prefix=1, pooled=False, logits=True)
def hf_vit() -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    return ViTForImageClassification(ViTConfig(**_HF_VIT, num_labels=CLASSES))


@entry("vit", 32, 4, prefix=2, pooled=False, logits=True)
def hf_deit() -> nn.Module:
    """Two prefix tokens; the distillation token is not read."""
    from transformers import DeiTConfig, DeiTForImageClassification

    return DeiTForImageClassification(DeiTConfig(**_HF_VIT, num_labels=CLASSES))


_HF_VIT = {
    "image_size": 32, "patch_size": 8, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 32,
}  # fmt: skip


@entry("hierarchical", 32, 8, logits=True)
def hf_swin() -> nn.Module:
    from transformers import SwinConfig, SwinForImageClassification

    return SwinForImageClassification(
        SwinConfig(
            image_size=32, patch_size=2, window_size=4, embed_dim=8, depths=[2, 2], num_heads=[2, 2], num_labels=CLASSES
        )
    )


@entry("cnn", 32, 2, logits=True)
def hf_convnext() -> nn.Module:
    from transformers import ConvNextConfig, ConvNextForImageClassification

    return ConvNextForImageClassification(
        ConvNextConfig(patch_size=2, hidden_sizes=[8, 8, 12, 16], depths=[1, 1, 1, 1], num_labels=CLASSES)
    )


@entry("cnn", 64, 4, logits=True)
def hf_resnet() -> nn.Module:
    from transformers import ResNetConfig, ResNetForImageClassification

    return ResNetForImageClassification(
        ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 12, 16], depths=[1, 1, 1], layer_type="basic", num_labels=CLASSES
        )
    )
