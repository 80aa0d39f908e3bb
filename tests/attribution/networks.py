"""Tiny networks for the tests; `conftest.py` loads this file once, under a name that pickle finds again."""

import threading

import torch
from torch import Tensor, nn
from torch.nn import functional


def lively(network: nn.Module, seed: int = 0) -> nn.Module:
    """Weights and running statistics that tell every channel apart, in evaluation mode; the global generator is put back."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            fan = max(parameter[0].numel(), 1) if parameter.ndim > 1 else 4
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / fan**0.5)
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
                module.running_mean.copy_(torch.randn(module.num_features, generator=generator) * 0.3)
                module.running_var.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
                if module.affine:
                    module.weight.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
    return network.eval()


def quiet(build):
    """Build without moving the global generator."""
    state = torch.get_rng_state()
    try:
        return build()
    finally:
        torch.set_rng_state(state)


# -- by architecture ---------------------------------------------------------------------------------------------------


def cnn(channels: int = 3, classes: int = 5) -> nn.Module:
    """Two convolutions with batch norms, pooling, one linear layer."""
    return quiet(
        lambda: lively(
            nn.Sequential(
                nn.Conv2d(channels, 4, 3, padding=1),
                nn.BatchNorm2d(4),
                nn.ReLU(),
                nn.Conv2d(4, 6, 3, stride=2, padding=1),
                nn.BatchNorm2d(6),
                nn.ReLU(),
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
                nn.Linear(6, classes),
            )
        )
    )


def smooth(channels: int = 1, classes: int = 3, size: int = 8) -> nn.Module:
    """A network without kinks, so that finite sums over a path converge fast."""
    return quiet(
        lambda: lively(
            nn.Sequential(
                nn.Conv2d(channels, 3, 3, padding=1),
                nn.Softplus(),
                nn.Flatten(),
                nn.Linear(3 * size * size, classes),
                nn.Tanh(),
                nn.Linear(classes, classes),
            )
        )
    )


def linear(channels: int = 3, height: int = 4, width: int = 4, classes: int = 3, *, bias: bool = True) -> nn.Module:
    """A linear network of the image."""
    return quiet(lambda: lively(nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, classes, bias=bias))))


def mlp() -> nn.Module:
    """No spatial layer at all."""
    return quiet(lambda: lively(nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.ReLU(), nn.Linear(8, 3))))


class VGG(nn.Module):
    """Features that end in a max pooling, then flattened."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 6, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(2)
        self.classifier = nn.Sequential(nn.Linear(24, 8), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(8, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


class Block(nn.Module):
    """A residual block whose in-place ReLU is used twice."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        return self.relu(out)


class ResNet(nn.Module):
    """A stem, two stages of residual blocks, pooling, one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = nn.Sequential(Block(4), Block(4))
        self.layer2 = nn.Sequential(Block(4))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer2(self.layer1(self.relu(self.bn1(self.conv1(x)))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class MBConv(nn.Module):
    """Depthwise convolution, squeeze and excitation, projection, residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.act = nn.SiLU(inplace=True)
        self.reduce, self.expand = nn.Conv2d(width, 2, 1), nn.Conv2d(2, width, 1)
        self.project = nn.Conv2d(width, width, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.bn(self.depthwise(x)))
        gate = self.expand(functional.silu(self.reduce(y.mean((2, 3), keepdim=True)))).sigmoid()
        return self.bn2(self.project(y * gate)) + x


class EfficientNet(nn.Module):
    """Stem, one mobile block, head convolution, pooling, dropout, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_stem = nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.blocks = nn.Sequential(MBConv(4))
        self.conv_head = nn.Conv2d(4, 6, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(6)
        self.act2 = nn.SiLU(inplace=True)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.drop = nn.Dropout(0.2)
        self.classifier = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(functional.silu(self.bn1(self.conv_stem(x))))
        x = self.act2(self.bn2(self.conv_head(x)))
        return self.classifier(self.drop(self.pool(x).flatten(1)))


class ViT(nn.Module):
    """Patches, one attention block, a class token."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, stride=4)
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        self.norm = nn.LayerNorm(8)
        self.qkv = nn.Linear(8, 24)
        self.out = nn.Linear(8, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        x = x + self.out((q @ k.transpose(1, 2) / 8**0.5).softmax(-1) @ v)
        return self.head(x[:, 0])


def vgg() -> nn.Module:
    return quiet(lambda: lively(VGG()))


def resnet() -> nn.Module:
    return quiet(lambda: lively(ResNet()))


def efficientnet() -> nn.Module:
    return quiet(lambda: lively(EfficientNet()))


def vit() -> nn.Module:
    return quiet(lambda: lively(ViT()))


class Branching(nn.Module):
    """Data-dependent control flow: torch.fx cannot trace it. Both branches are taken on ordinary images."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        if float(x.detach().abs().max()) > 0:
            x = x * 2
        return self.fc(x.mean((2, 3)))


def branching() -> nn.Module:
    return quiet(lambda: lively(Branching()))


class Locked(nn.Module):
    """Holds a lock, which cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.drop(self.features(x).mean((2, 3))))


def locked() -> nn.Module:
    return quiet(lambda: lively(Locked()))


def noisy_in_training() -> nn.Module:
    """Batch norm and dropout: in training mode every call gives something else."""
    return quiet(
        lambda: lively(
            nn.Sequential(
                nn.Conv2d(3, 4, 3),
                nn.BatchNorm2d(4),
                nn.ReLU(),
                nn.Dropout2d(0.5),
                nn.Sequential(nn.Flatten(), nn.Dropout(0.5)),
                nn.Linear(144, 3),
            )
        )
    )


class Statement(nn.Module):
    """An in-place activation as a statement of its own: a graph does not show that it matters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(4, 4, 3)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        self.relu(x)
        return self.fc(self.conv2(x).mean((2, 3)))


def statement() -> nn.Module:
    return quiet(lambda: lively(Statement()))


class Optional(nn.Module):
    """A further argument that is usually left out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.bn(self.conv(x))
        if mask is not None:
            x = x * mask
        return self.fc(x.mean((2, 3)))


def optional() -> nn.Module:
    return quiet(lambda: lively(Optional()))


class Conditioned(nn.Module):
    """Needs one vector per image beside the image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(5, 4, 3, padding=1)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor, extra: Tensor) -> Tensor:
        planes = extra[:, :, None, None] * torch.ones_like(x[:, :1])  # the batch sizes must agree
        return self.fc(self.conv(torch.cat([x, planes], 1)).relu().mean((2, 3)))


def conditioned() -> nn.Module:
    return quiet(lambda: lively(Conditioned()))


class Cached(nn.Module):
    """Makes a positional table on the first call and keeps it."""

    def __init__(self) -> None:
        super().__init__()
        self.table: Tensor | None = None
        self.fc = nn.Linear(192, 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.table is None or self.table.shape[-1] != x.shape[-1]:
            self.table = torch.linspace(0, 1, x.shape[-1])
        return self.fc((x * self.table).flatten(1))


def cached() -> nn.Module:
    return quiet(lambda: lively(Cached()))


class Overwriting(nn.Module):
    """Writes into its own input."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(192, 3)

    def forward(self, x: Tensor) -> Tensor:
        x -= 0.5
        return self.fc(x.flatten(1))


def overwriting() -> nn.Module:
    return quiet(lambda: lively(Overwriting()))


# -- what a fast copy must get right -----------------------------------------------------------------------------------


class SameConv(nn.Conv2d):
    """Pads by itself, as TensorFlow does."""

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = (
            max((-(-s // t) - 1) * t + k - s, 0)
            for s, t, k in zip(x.shape[2:], self.stride, self.kernel_size, strict=True)
        )
        x = functional.pad(x, [columns // 2, columns - columns // 2, rows // 2, rows - rows // 2])
        return functional.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class StaticSameConv(nn.Conv2d):
    """Pads by a module of its own, one pixel more at the end."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.pad = nn.ZeroPad2d((0, 1, 0, 1))

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(
            self.pad(x), self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )


class StandardisedConv(nn.Conv2d):
    """Standardises its weights on every call."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = weight / (weight.std((1, 2, 3), keepdim=True) + 1e-5)
        return functional.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class StandardisedByBatchNorm(nn.Conv2d):
    """The same through a batch norm of the weights, as timm does it: that batch norm is not one of activations."""

    def forward(self, x: Tensor) -> Tensor:
        weight = functional.batch_norm(
            self.weight.reshape(1, self.out_channels, -1), None, None, training=True, momentum=0.0, eps=1e-6
        ).reshape_as(self.weight)
        return functional.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Of(nn.Module):
    """A network from its layers and a function of them and the input."""

    def __init__(self, function, **layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def _pooled(x: Tensor) -> Tensor:
    return torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)


def _functional(m: nn.Module, x: Tensor) -> Tensor:
    b = m.bn
    return _pooled(
        functional.relu(
            functional.batch_norm(
                functional.conv2d(x, m.conv.weight, m.conv.bias, padding=1),
                b.running_mean,
                b.running_var,
                b.weight,
                b.bias,
                False,
                0.1,
                b.eps,
            )
        )
    )


def _inplace_skip(m: nn.Module, x: Tensor) -> Tensor:
    y = m.conv(x)
    return _pooled(m.conv2(m.relu(m.bn(y))) + y)


def _activation_and_skip(m: nn.Module, x: Tensor) -> Tensor:
    y = m.bn(m.conv(x))
    return _pooled(functional.relu(y) - 2 * y)


def _sum_read_twice(m: nn.Module, x: Tensor) -> Tensor:
    total = m.bn(m.conv(x)) + m.conv(x)
    return _pooled(torch.relu(total) * total)


def _dense(m: nn.Module, x: Tensor) -> Tensor:
    y = m.relu(m.bn(m.conv(x)))
    return _pooled(torch.cat([y, m.relu(m.bn2(m.conv2(y)))], 1))


def _view(m: nn.Module, x: Tensor) -> Tensor:
    y = m.conv(x)
    return y.view(x.size(0), -1)[:, :36] + y.view(x.shape[0], 4, -1).mean(1)


def _padding_read_twice(m: nn.Module, x: Tensor) -> Tensor:
    padded = functional.pad(x, (1, 1, 1, 1))
    return _pooled(m.conv(padded)) + padded.mean((1, 2, 3))[:, None]


def _conv_read_twice(m: nn.Module, x: Tensor) -> Tensor:
    y = m.conv(x)
    return _pooled(m.bn(y)) + _pooled(y)


CASES = {
    "conv_bn": lambda: Of(
        lambda m, x: _pooled(m.relu(m.bn(m.conv(x)))), conv=nn.Conv2d(3, 4, 3), bn=nn.BatchNorm2d(4), relu=nn.ReLU()
    ),
    "conv_bn_without_bias": lambda: Of(
        lambda m, x: _pooled(m.bn(m.conv(x))), conv=nn.Conv2d(3, 4, 3, bias=False), bn=nn.BatchNorm2d(4)
    ),
    "bn_without_affine": lambda: Of(
        lambda m, x: _pooled(m.bn(m.conv(x))), conv=nn.Conv2d(3, 4, 3), bn=nn.BatchNorm2d(4, affine=False)
    ),
    "bn_with_other_eps": lambda: Of(
        lambda m, x: _pooled(m.bn(m.conv(x))), conv=nn.Conv2d(3, 4, 3), bn=nn.BatchNorm2d(4, eps=0.3)
    ),
    "same_padding": lambda: Of(
        lambda m, x: _pooled(m.bn(m.conv(x))), conv=SameConv(3, 4, 3, stride=2), bn=nn.BatchNorm2d(4)
    ),
    "asymmetric_padding": lambda: Of(
        lambda m, x: _pooled(m.bn(m.conv(x))), conv=StaticSameConv(3, 4, 3, stride=2), bn=nn.BatchNorm2d(4)
    ),
    "symmetric_padding_module": lambda: Of(
        lambda m, x: _pooled(m.bn(m.conv(m.pad(x)))),
        pad=nn.ZeroPad2d((2, 2, 1, 1)),
        conv=nn.Conv2d(3, 4, 3, padding=1),
        bn=nn.BatchNorm2d(4),
    ),
    "symmetric_padding_function": lambda: Of(
        lambda m, x: _pooled(m.bn(m.conv(functional.pad(x, (1, 1, 2, 2))))),
        conv=nn.Conv2d(3, 4, 3),
        bn=nn.BatchNorm2d(4),
    ),
    "padding_with_a_value": lambda: Of(
        lambda m, x: _pooled(m.conv(functional.pad(m.pad(x), (1, 1, 1, 1), value=0.7))),
        pad=nn.ConstantPad2d(1, 0.5),
        conv=nn.Conv2d(3, 4, 3),
    ),
    "padding_read_twice": lambda: Of(
        _padding_read_twice,
        conv=nn.Conv2d(3, 4, 3),
    ),
    "reflecting_conv": lambda: Of(
        lambda m, x: _pooled(m.bn(m.conv(x))),
        conv=nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"),
        bn=nn.BatchNorm2d(4),
    ),
    "padding_same_by_name": lambda: Of(
        lambda m, x: _pooled(m.bn(m.conv(x))), conv=nn.Conv2d(3, 4, 3, padding="same", dilation=2), bn=nn.BatchNorm2d(4)
    ),
    "weight_standardised": lambda: Of(
        lambda m, x: _pooled(m.bn(m.conv(x))), conv=StandardisedConv(3, 4, 3), bn=nn.BatchNorm2d(4)
    ),
    "weight_standardised_by_bn": lambda: Of(
        lambda m, x: _pooled(m.bn(m.conv(x))), conv=StandardisedByBatchNorm(3, 4, 3), bn=nn.BatchNorm2d(4)
    ),
    "functional": lambda: Of(_functional, conv=nn.Conv2d(3, 4, 3), bn=nn.BatchNorm2d(4)),
    "weight_norm": lambda: Of(
        lambda m, x: _pooled(m.bn(m.conv(x))),
        conv=torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)),
        bn=nn.BatchNorm2d(4),
    ),
    "groups": lambda: Of(
        lambda m, x: _pooled(m.bn(m.conv(x))), conv=nn.Conv2d(3, 6, 3, groups=3, dilation=2), bn=nn.BatchNorm2d(6)
    ),
    "transposed": lambda: Of(
        lambda m, x: _pooled(m.bn(m.conv(x))), conv=nn.ConvTranspose2d(3, 4, 3), bn=nn.BatchNorm2d(4)
    ),
    "reused_relu": lambda: Of(
        lambda m, x: _pooled(m.relu(m.conv2(m.relu(m.conv(x))))),
        conv=nn.Conv2d(3, 4, 3),
        conv2=nn.Conv2d(4, 4, 3),
        relu=nn.ReLU(inplace=True),
    ),
    "inplace_beside_a_skip": lambda: Of(
        _inplace_skip,
        conv=nn.Conv2d(3, 4, 3),
        bn=nn.BatchNorm2d(4),
        relu=nn.ReLU(inplace=True),
        conv2=nn.Conv2d(4, 4, 1),
    ),
    "activation_beside_a_skip": lambda: Of(_activation_and_skip, conv=nn.Conv2d(3, 4, 3), bn=nn.BatchNorm2d(4)),
    "sum_read_twice": lambda: Of(_sum_read_twice, conv=nn.Conv2d(3, 4, 3), bn=nn.BatchNorm2d(4)),
    "conv_read_twice": lambda: Of(
        _conv_read_twice,
        conv=nn.Conv2d(3, 4, 3),
        bn=nn.BatchNorm2d(4),
    ),
    "one_conv_two_bns": lambda: Of(
        lambda m, x: _pooled(m.bn(m.conv(x))) - _pooled(m.bn2(m.conv(x.flip(-1)))),
        conv=nn.Conv2d(3, 4, 3),
        bn=nn.BatchNorm2d(4),
        bn2=nn.BatchNorm2d(4),
    ),
    "two_convs_one_bn": lambda: Of(
        lambda m, x: _pooled(m.bn(m.conv(x))) - _pooled(m.bn(m.conv2(x))),
        conv=nn.Conv2d(3, 4, 3),
        conv2=nn.Conv2d(3, 4, 3),
        bn=nn.BatchNorm2d(4),
    ),
    "bn_first": lambda: Of(
        lambda m, x: _pooled(m.conv(m.relu(m.bn(x)))),
        conv=nn.Conv2d(3, 4, 3),
        bn=nn.BatchNorm2d(3),
        relu=nn.ReLU(inplace=True),
    ),
    "bn_of_the_batch": lambda: Of(
        lambda m, x: _pooled(m.bn(m.conv(x))), conv=nn.Conv2d(3, 4, 3), bn=nn.InstanceNorm2d(4)
    ),
    "bn_after_pooling": lambda: Of(
        lambda m, x: _pooled(m.bn(functional.avg_pool2d(m.conv(x), 2))), conv=nn.Conv2d(3, 4, 3), bn=nn.BatchNorm2d(4)
    ),
    "dense_block": lambda: Of(
        _dense,
        conv=nn.Conv2d(3, 4, 3, padding=1),
        bn=nn.BatchNorm2d(4),
        conv2=nn.Conv2d(4, 4, 3, padding=1),
        bn2=nn.BatchNorm2d(4),
        relu=nn.ReLU(inplace=True),
    ),
    "linear_bn1d": lambda: Of(
        lambda m, x: m.relu(m.bn(m.fc(x.flatten(1)))), fc=nn.Linear(192, 6), bn=nn.BatchNorm1d(6), relu=nn.ReLU()
    ),
    "one_linear_two_bns": lambda: Of(
        lambda m, x: m.bn(m.fc(x.flatten(1))) - m.bn2(m.fc(x.flatten(1).flip(1))),
        fc=nn.Linear(192, 6),
        bn=nn.BatchNorm1d(6),
        bn2=nn.BatchNorm1d(6),
    ),
    "conv1d": lambda: Of(
        lambda m, x: m.bn(m.conv(x.flatten(1, 2))).mean(2), conv=nn.Conv1d(24, 5, 3), bn=nn.BatchNorm1d(5)
    ),
    "view_after_conv": lambda: Of(_view, conv=nn.Conv2d(3, 4, 3)),
    "options_of_activations": lambda: Of(
        lambda m, x: _pooled(m.a(m.conv(x)) + m.b(m.conv(x)) + m.c(m.conv(x)) + m.d(m.conv(x)) + m.e(m.conv(x))),
        conv=nn.Conv2d(3, 4, 3),
        a=nn.LeakyReLU(0.3),
        b=nn.ELU(0.7),
        c=nn.Hardswish(),
        d=nn.Mish(),
        e=nn.ReLU6(),
    ),
    "identity_and_dropout": lambda: Of(
        lambda m, x: _pooled(m.bn(m.idle(m.drop(m.conv(functional.dropout(x, 0.5, False)))))),
        conv=nn.Conv2d(3, 4, 3),
        drop=nn.Dropout(),
        idle=nn.Identity(),
        bn=nn.BatchNorm2d(4),
    ),
    "resnet": ResNet,
    "efficientnet": EfficientNet,
    "vgg": VGG,
}
FOLDED = {  # no batch norm may be left in these
    "conv_bn",
    "conv_bn_without_bias",
    "bn_without_affine",
    "bn_with_other_eps",
    "asymmetric_padding",
    "symmetric_padding_module",
    "symmetric_padding_function",
    "padding_same_by_name",
    "weight_standardised",
    "functional",
    "groups",
    "activation_beside_a_skip",
    "sum_read_twice",
    "one_conv_two_bns",
    "two_convs_one_bn",
    "dense_block",
    "conv1d",
    "identity_and_dropout",
    "resnet",
    "efficientnet",
}


def case(name: str) -> nn.Module:
    return quiet(lambda: lively(CASES[name]()))
