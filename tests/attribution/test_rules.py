"""Rules on operations: every way to write one is met once, what comes apart gives torch's values, and nothing slips by."""

import pytest
import torch
from attriscope.attribution import Model
from attriscope.attribution._rules import ACTIVATIONS, FUNCTIONS, Rules, depends, nodes, normalized, own
from torch import nn
from torch.nn import functional

# float64: the same sums in another order
EXACT = 1e-12


def values(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def leaf(*shape, seed=0):
    return values(*shape, seed=seed).requires_grad_()


class Seeing(Rules):
    """Remembers what it met, and does what torch does."""

    opens_attention = True

    def __init__(self, *, parts=False):
        super().__init__()
        self.seen, self.parts = [], parts

    def elementwise(self, apply, x, name):
        self.seen.append(name)
        return super().elementwise(apply, x, name)

    def linear(self, apply, x, weight, bias, name):
        self.seen.append(name)
        return super().linear(apply, x, weight, bias, name)

    def normalize(self, apply, x, name, options):
        self.seen.append(name)
        if not self.parts:
            return super().normalize(apply, x, name, options)

        def inverse(y):
            return (y.square().mean(options["dims"], keepdim=True) + options["eps"]).rsqrt()

        return normalized(x, options, inverse, torch.mul)


def agree(run, *given, rules=None, **how):
    """Values and gradients in the mode are torch's; returns the mode."""
    rules = rules or Seeing(**how)
    plain = run(*given)
    with rules:
        met = run(*given)
    plain, met = (t if isinstance(t, torch.Tensor) else t[0] for t in (plain, met))
    assert met.shape == plain.shape
    assert torch.allclose(met, plain, rtol=0, atol=EXACT, equal_nan=True)
    leaves = [g for g in given if g.requires_grad]
    weight = values(*plain.shape, seed=9)
    wanted = torch.autograd.grad((plain * weight).sum(), leaves)
    found = torch.autograd.grad((met * weight).sum(), leaves)
    for a, b in zip(found, wanted, strict=True):
        assert torch.allclose(a, b, rtol=0, atol=EXACT)
    return rules


# -- activations, however they are written -----------------------------------------------------------------------------

WAYS = {
    "relu": (nn.ReLU(), nn.ReLU(inplace=True), torch.relu, functional.relu, torch.relu_, lambda x: x.relu(),
             lambda x: x.relu_(), lambda x: functional.relu(x, True), lambda x: functional.relu(x, inplace=True),
             lambda x: functional.relu(input=x)),
    "relu6": (functional.relu6, lambda x: functional.relu6(x, inplace=True)),
    "hardtanh": (nn.ReLU6(), nn.ReLU6(inplace=True), nn.Hardtanh(), functional.hardtanh, functional.hardtanh_),
    "leaky_relu": (nn.LeakyReLU(0.3), nn.LeakyReLU(0.3, inplace=True), functional.leaky_relu, functional.leaky_relu_),
    "prelu": (nn.PReLU().double(), nn.PReLU(4, 0.1).double()),
    "rrelu": (nn.RReLU().eval(), nn.RReLU(inplace=True).eval()),
    "elu": (nn.ELU(0.7), nn.ELU(inplace=True), functional.elu, functional.elu_),
    "selu": (nn.SELU(), nn.SELU(inplace=True), torch.selu, torch.selu_),
    "celu": (nn.CELU(), nn.CELU(inplace=True), torch.celu, torch.celu_),
    "silu": (nn.SiLU(), nn.SiLU(inplace=True), functional.silu, lambda x: functional.silu(x, inplace=True)),
    "gelu": (nn.GELU(), nn.GELU("tanh"), functional.gelu, lambda x: functional.gelu(x, approximate="tanh")),
    "mish": (nn.Mish(), nn.Mish(inplace=True), functional.mish),
    "hardswish": (nn.Hardswish(), nn.Hardswish(inplace=True), functional.hardswish),
    "hardsigmoid": (nn.Hardsigmoid(), nn.Hardsigmoid(inplace=True), functional.hardsigmoid),
    "softplus": (nn.Softplus(), nn.Softplus(2, 3), functional.softplus),
    "softsign": (nn.Softsign(), functional.softsign),
    "tanh": (nn.Tanh(), torch.tanh, lambda x: x.tanh(), lambda x: x.tanh_(), torch.tanh_),
    "sigmoid": (nn.Sigmoid(), torch.sigmoid, lambda x: x.sigmoid(), lambda x: x.sigmoid_(), functional.sigmoid),
    "log_sigmoid": (nn.LogSigmoid(), functional.logsigmoid),
    "tanhshrink": (nn.Tanhshrink(), functional.tanhshrink),
    "softshrink": (nn.Softshrink(), functional.softshrink),
    "hardshrink": (nn.Hardshrink(), functional.hardshrink),
    "threshold": (nn.Threshold(0.1, 0.0), nn.Threshold(0.1, 0.0, inplace=True), lambda x: functional.threshold(x, 0, 0)),
    "clamp": (lambda x: x.clamp(0), lambda x: torch.clamp(x, min=-1, max=1), lambda x: x.clamp_(max=0.5)),
    "clip": (lambda x: x.clip(0, 1), lambda x: x.clip_(0, 1)),
    "clamp_min": (lambda x: x.clamp_min(0), lambda x: x.clamp_min_(0)),
    "clamp_max": (lambda x: torch.clamp_max(x, 0), lambda x: x.clamp_max_(0)),
}  # fmt: skip
ACTS = [pytest.param(name, act, id=f"{name}-{k}") for name, acts in WAYS.items() for k, act in enumerate(acts)]


def test_every_activation_is_written_out_here():
    assert set(WAYS) == ACTIVATIONS


@pytest.mark.parametrize(("name", "act"), ACTS)
def test_an_activation_is_met_once_however_it_is_written(name, act):
    x = leaf(2, 4, 3, 3)
    rules = agree(lambda x: act(x + 0.01), x)
    assert rules.seen == [name]
    assert rules.met == {"elementwise": 1}


@pytest.mark.parametrize(("name", "act"), ACTS)
def test_what_a_rule_returns_takes_the_result_s_place_also_in_place(name, act):
    """The caller may drop what the call returned and go on with its own tensor, as a statement `self.relu(x)` does."""

    class Seven(Rules):
        def elementwise(self, apply, x, name):
            return 7 * x

    x = leaf(2, 4)
    with Seven():
        y = x + 0.01
        before = y.detach().clone()
        out = act(y)
    assert torch.equal(out, 7 * before)
    writes = torch.equal(y, out)
    plain = before.clone()
    written = act(plain)
    # where torch leaves its argument alone, so does the mode
    assert writes == (written.data_ptr() == plain.data_ptr())
    assert writes or torch.equal(y, before)
    (gradient,) = torch.autograd.grad(y.sum() if writes else out.sum(), x)
    assert torch.equal(gradient, torch.full_like(x, 7))


@pytest.mark.parametrize(
    ("name", "function"),
    [
        *[(n, getattr(torch, n)) for n in sorted(FUNCTIONS - {"__rpow__", "float_power", "pow", "special_expit"})],
        ("pow", lambda x: x**3), ("pow", lambda x: x.pow(2)), ("float_power", lambda x: x.float_power(2)),
        ("__rpow__", lambda x: 2**x), ("special_expit", torch.special.expit), ("exp", lambda x: x.exp_()),
        ("square", lambda x: x.square_()), ("pow", lambda x: x.__ipow__(2)), ("abs", lambda x: abs(x)),
    ],
)  # fmt: skip
def test_a_function_of_each_value_is_met_once(name, function):
    rules = agree(lambda x: function(x * x + 0.3), leaf(3, 5))
    assert rules.seen.count(name) == len(rules.seen) == 1


def test_a_reused_module_and_a_skip_around_an_activation_in_place():
    act, layer = nn.ReLU(inplace=True), nn.Linear(6, 6).double()

    def run(x):
        h = layer(x)
        y = h + layer(act(layer(h).clone()))
        act(y)  # and y is what goes on
        return act(layer(y + x))

    rules = agree(run, leaf(3, 6))
    assert rules.seen.count("relu") == 3
    assert rules.seen.count("linear") == 4


# -- linear layers, products, norms ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "layer", "shape"),
    [
        ("linear", nn.Linear(4, 5), (2, 4)), ("linear", nn.Linear(4, 5, bias=False), (2, 3, 4)),
        ("conv1d", nn.Conv1d(4, 6, 3, 2, 1, groups=2), (2, 4, 7)),
        ("conv2d", nn.Conv2d(4, 6, 3, 2, 1), (2, 4, 7, 7)), ("conv2d", nn.Conv2d(4, 4, 3, padding="same"), (2, 4, 7, 7)),
        ("conv2d", nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), (2, 4, 7, 7)),
        ("conv3d", nn.Conv3d(2, 3, 2), (2, 2, 3, 4, 4)),
        ("conv_transpose2d", nn.ConvTranspose2d(4, 3, 3, 2, 1, 1), (2, 4, 5, 5)),
    ],
)  # fmt: skip
def test_a_linear_layer_is_met_with_its_weight_and_bias(name, layer, shape):
    layer = layer.double()
    given = []

    class Asked(Seeing):
        def linear(self, apply, x, weight, bias, name):
            given.append((weight, bias))
            return super().linear(apply, x, weight, bias, name)

    rules = agree(layer, leaf(*shape), rules=Asked())
    assert rules.seen == [name]
    assert given[0][0] is layer.weight
    assert given[0][1] is layer.bias


@pytest.mark.parametrize(
    ("run", "count"),
    [
        (lambda a, b: a * b, 1), (lambda a, b: a @ b.T, 1), (lambda a, b: torch.bmm(a[None], b.T[None]), 1),
        (lambda a, b: torch.mm(a, b.T), 1), (lambda a, b: torch.mv(a, b[0]), 1), (lambda a, b: torch.dot(a[0], b[0]), 1),
        (lambda a, b: torch.einsum("ij,kj->ik", a, b), 1), (lambda a, b: functional.linear(a, b), 1),
        (lambda a, b: functional.linear(a, b, a[:3, 0]), 1), (lambda a, b: a / (b * 0.1).exp(), 1),
        (lambda a, b: torch.addcmul(a, a, b, value=0.5), 1), (lambda a, b: (a + 0).addcmul_(b, b), 1),
        (lambda a, b: torch.addmm(a[:, :3], a, b.T, beta=2, alpha=0.3), 1),
        (lambda a, b: torch.baddbmm(a[None, :, :3], a[None], b.T[None]), 1),
        (lambda a, b: (a + 0).mul_(b), 1), (lambda a, b: (a + 0).div_((0.1 * b).exp()), 1),
        (lambda a, b: functional.glu((a * b)[:, :4]), 2),
        # by name
        (lambda a, b: torch.mul(input=a, other=b), 1), (lambda a, b: torch.matmul(a, other=b.T), 1),
        (lambda a, b: torch.matmul(input=a, other=b.T), 1), (lambda a, b: torch.mm(input=a, mat2=b.T), 1),
        (lambda a, b: torch.bmm(input=a[None], mat2=b.T[None]), 1), (lambda a, b: torch.mv(input=a, vec=b[0]), 1),
        (lambda a, b: torch.dot(input=a[0], tensor=b[0]), 1),
        (lambda a, b: torch.div(input=a, other=(b * 0.1).exp()), 1),
        (lambda a, b: torch.addmm(input=a[:, :3], mat1=a, mat2=b.T), 1),
        (lambda a, b: torch.addcmul(input=a, tensor1=a, tensor2=b), 1),
    ],
)  # fmt: skip
def test_a_product_of_two_that_depend_is_met(run, count):
    assert agree(run, leaf(3, 5), leaf(3, 5, seed=1)).met["product"] == count


@pytest.mark.parametrize(
    "run",
    [
        lambda a, b, s: torch.baddbmm(s, a[None], b.T[None], beta=0), lambda a, b, s: torch.addmm(s[0], a, b.T, beta=0),
        lambda a, b, s: torch.baddbmm(s + 0 * a[:, 0], a[None], b.T[None], beta=0, alpha=0.5),
    ],
)  # fmt: skip
def test_a_summand_that_counts_for_nothing_is_not_looked_at(run):
    """Attention is written so, with memory that nobody has filled."""
    empty = torch.full((1, 3, 3), torch.nan, dtype=torch.float64)
    a, b = leaf(3, 5), leaf(3, 5, seed=1)
    rules = Rules()
    with rules:
        met = run(a, b, empty)
    assert rules.met["product"] == 1
    assert torch.allclose(met, run(a, b, empty), rtol=0, atol=EXACT)
    assert met.isfinite().all()


@pytest.mark.parametrize(
    "run",
    [
        lambda x, c: x * c, lambda x, c: c * x, lambda x, c: x / c.exp(), lambda x, c: x @ c.T, lambda x, c: c @ x.T,
        lambda x, c: torch.addcmul(c, x, c), lambda x, c: torch.addmm(c[:, :3], c, x.T), lambda x, c: 2 * x / 3,
    ],
)  # fmt: skip
def test_a_product_with_a_constant_or_a_parameter_is_no_product(run):
    x = leaf(3, 5)
    for constant in (values(3, 5, seed=1), nn.Parameter(values(3, 5, seed=1))):
        plain, rules = run(x, constant), Rules()
        with rules:
            met = run(x, constant)
        assert torch.allclose(met, plain, rtol=0, atol=EXACT)
        assert not rules.met
        rules.check(met.sum(), x, "a test")


def test_a_quotient_is_a_product_with_a_reciprocal():
    for run, products in ((lambda x: 2 / x, 0), (lambda x: x.exp() / x, 1), (lambda x: torch.div(3.0, x), 0)):
        rules = agree(run, leaf(3, 5))
        assert rules.seen.count("reciprocal") == 1
        assert rules.met.get("product", 0) == products


def test_a_caller_s_parameters_do_not_depend_on_the_input():
    """A bare callable hides parameters that take gradients: activations of them are not met, and they get no gradient."""
    scale, layer = nn.Parameter(values(4)), nn.Linear(4, 3).double()
    rules, x = Seeing(), leaf(2, 4)
    with rules:
        out = layer(x * torch.sigmoid(scale) + torch.relu(input=scale)) / scale[:3].exp()
    assert rules.seen == ["linear"]
    rules.check(out.sum(), x, "a test")
    assert not depends(scale)
    assert layer.weight.grad is None


@pytest.mark.parametrize(
    "made",
    [
        lambda a, b: torch.stack([a, b]).mean(0), lambda a, b: torch.cat((a[:2], b[2:])),
        lambda a, b: torch.cat(tensors=[a[:2], b[2:]]), lambda a, b: torch.einsum("i,i->i", [a, b]),
        lambda a, b: torch.broadcast_tensors(a, b)[0] * b,
    ],
)  # fmt: skip
def test_parameters_in_lists_do_not_depend_on_the_input(made):
    """Otherwise a scale that is made of two of them counts as a factor that the image moves."""
    a, b, x = nn.Parameter(values(4)), nn.Parameter(values(4, seed=1)), leaf(2, 4)
    rules = Rules()
    with rules:
        scale = made(a, b)
        out = x * scale
    assert not depends(scale)
    assert not rules.met
    rules.check(out.sum(), x, "a test")
    assert torch.allclose(out, x * made(a, b), rtol=0, atol=EXACT)


def test_what_depends_is_found_in_lists_within_lists():
    x = leaf(2, 4)
    assert depends([1, (None, [x])])
    assert not depends([1, (None, [nn.Parameter(values(2))])])
    assert agree(lambda a, b: torch.einsum("ij,kj->ik", [a, b]), x, leaf(3, 4, seed=1)).met == {"product": 1}


NORMS = {
    "layer": (nn.LayerNorm(5), (2, 3, 5)),
    "layer_two_axes": (nn.LayerNorm((3, 5), eps=1e-3), (2, 3, 5)),
    "layer_without_bias": (nn.LayerNorm(5, bias=False), (2, 3, 5)),
    "layer_plain": (nn.LayerNorm(5, elementwise_affine=False), (2, 3, 5)),
    "group": (nn.GroupNorm(2, 4, eps=1e-2), (2, 4, 3, 3)),
    "group_of_table": (nn.GroupNorm(2, 4), (3, 4)),
    "instance": (nn.InstanceNorm2d(4), (2, 4, 3, 3)),
    "instance_affine": (nn.InstanceNorm2d(4, affine=True), (2, 4, 3, 3)),
    "rms": (nn.RMSNorm(5), (2, 3, 5)),
    "rms_eps": (nn.RMSNorm((3, 5), eps=1e-2), (2, 3, 5)),
}


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("parts", [False, True])
def test_a_norm_in_its_parts_is_torch_s(name, parts):
    layer, shape = NORMS[name]
    layer = layer.double()
    for k, parameter in enumerate(layer.parameters()):
        parameter.data = values(*parameter.shape, seed=k + 3)
    rules = agree(layer, leaf(*shape), parts=parts)
    assert rules.met == {"normalize": 1}


def test_batch_norm_and_average_pooling_are_affine():
    norm = nn.BatchNorm2d(4).double().eval()
    norm.running_mean, norm.running_var = values(4), values(4, seed=1).exp()
    rules = agree(lambda x: functional.adaptive_avg_pool2d(functional.avg_pool2d(norm(x), 2), 1), leaf(2, 4, 6, 6))
    assert rules.met == {"affine": 3}


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm2d(4, track_running_stats=False).eval(), nn.BatchNorm2d(4).train(),
        lambda x: functional.batch_norm(x, x.new_zeros(4), x.new_ones(4), None, None, True),
        lambda x: functional.batch_norm(x, x.new_zeros(4), x.new_ones(4), training=True),
        lambda x: torch.batch_norm(x, None, None, None, None, True, 0.1, 1e-5, False),
        lambda x: torch.batch_norm(x, None, None, x.new_zeros(4), x.new_ones(4), True, 0.1, 1e-5, False),
    ],
)  # fmt: skip
def test_a_batch_norm_of_the_batch_s_own_statistics_is_refused(norm):
    """It is not affine, and an image's map would depend on its batch mates."""
    with Rules(), pytest.raises(ValueError, match="evaluation, or give it running statistics"):
        norm(leaf(2, 4, 3, 3).float())


def test_a_batch_norm_of_torch_s_own_function_is_affine():
    mean, var = values(4), values(4, seed=1).exp()
    rules = agree(lambda x: torch.batch_norm(x, None, None, mean, var, False, 0.1, 1e-5, False), leaf(2, 4, 3, 3))
    assert rules.met == {"affine": 1}


@pytest.mark.parametrize(
    ("run", "kind"),
    [
        (lambda x: x.softmax(1), "softmax"), (lambda x: functional.softmax(x, dim=-1), "softmax"),
        (lambda x: torch.softmax(x, 1, torch.float64), "softmax"), (nn.Softmax(1), "softmax"),
        (lambda x: functional.softmin(x, 1), "softmax"), (lambda x: x.log_softmax(1), "log_softmax"),
        (nn.LogSoftmax(1), "log_softmax"), (lambda x: x.logsumexp(1), "logsumexp"),
        (lambda x: torch.logsumexp(x, (0, 1), keepdim=True), "logsumexp"), (lambda x: x.amax(1), "maximum"),
        (lambda x: x.amin((0, 1), keepdim=True), "maximum"), (lambda x: x.max(1).values, "maximum"),
        (lambda x: torch.min(x, dim=0, keepdim=True)[0], "maximum"),
        (lambda x: functional.max_pool1d(x, 2), "max_pool"), (lambda x: torch.max_pool1d(x, 3, 1, 1), "max_pool"),
        (lambda x: functional.max_pool1d(x, 2, return_indices=True)[0], "max_pool"),
        (lambda x: functional.adaptive_max_pool1d(x, 2), "max_pool"), (nn.MaxPool1d(2, ceil_mode=True), "max_pool"),
    ],
)  # fmt: skip
def test_what_mixes_values_is_met_by_its_kind(run, kind):
    assert agree(run, leaf(3, 5)).met == {kind: 1}


@pytest.mark.parametrize(
    ("pool", "shape"),
    [
        (nn.MaxPool2d(2), (2, 3, 5, 6)), (nn.MaxPool2d(3, 2, 1), (2, 3, 5, 6)), (nn.MaxPool2d(2, dilation=2), (2, 3, 5, 6)),
        (nn.MaxPool2d(2, return_indices=True), (2, 3, 5, 6)), (nn.AdaptiveMaxPool2d((2, 3)), (2, 3, 5, 6)),
        (nn.MaxPool3d(2), (2, 3, 4, 4, 5)), (lambda x: torch.max_pool2d(x, [2, 2], stride=[1, 1]), (2, 3, 5, 6)),
        (nn.AdaptiveMaxPool3d(2), (2, 3, 4, 4, 5)),
    ],
)  # fmt: skip
def test_max_pooling_of_any_kind_gives_its_winners_places(pool, shape):
    class Places(Seeing):
        def max_pool(self, apply, x, name):
            out, places = apply(x, indices=True)
            axes = int(name[name.index("pool") + 4])
            flat = x.flatten(-axes).gather(-1, places.flatten(-axes)).reshape(out.shape)
            assert torch.equal(flat, out)
            return (out, places) if name.endswith("_with_indices") else out

    assert agree(pool, leaf(*shape), rules=Places()).met == {"max_pool": 1}


@pytest.mark.parametrize(
    "run",
    [
        functional.normalize, lambda x: functional.normalize(x, dim=-1, eps=1e-3), lambda x: x.norm(dim=1),
        lambda x: x.norm(2, -1, keepdim=True), lambda x: torch.linalg.vector_norm(x, dim=(0, 1)),
    ],
)  # fmt: skip
def test_lengths_come_apart_where_that_is_asked(run):
    assert {"square", "sqrt"} <= set(agree(run, leaf(3, 5)).seen)
    closed = Rules()
    with closed:
        run(leaf(3, 5))
    assert not closed.met


# -- attention ---------------------------------------------------------------------------------------------------------

MASKS = {
    "none": {},
    "bool": {"attn_mask": torch.rand(4, 6, generator=torch.Generator().manual_seed(0)) > 0.3},
    "bool_per_head": {"attn_mask": torch.rand(2, 1, 4, 6, generator=torch.Generator().manual_seed(1)) > 0.3},
    "float": {"attn_mask": values(4, 6, seed=7)},
    "minus_infinity": {
        "attn_mask": torch.zeros(4, 6, dtype=torch.float64).masked_fill(torch.eye(4, 6) > 0, -torch.inf)
    },
    "causal": {"is_causal": True},
    "scaled": {"scale": 0.3, "attn_mask": values(4, 6, seed=8)},
}


@pytest.mark.parametrize("mask", MASKS)
def test_attention_in_its_parts_is_torch_s(mask):
    q, k, v = leaf(2, 3, 4, 8), leaf(2, 3, 6, 8, seed=1), leaf(2, 3, 6, 5, seed=2)
    options = MASKS[mask]
    rules = agree(lambda q, k, v: functional.scaled_dot_product_attention(q, k, v, **options), q, k, v)
    assert rules.met == {"product": 2, "softmax": 1}
    # queries that every image shares: no product of two that depend
    rules = agree(lambda q, k, v: functional.scaled_dot_product_attention(q, k, v, **options), q.detach(), k, v)
    assert rules.met == {"product": 1, "softmax": 1}


def test_grouped_queries_share_keys():
    q, k, v = leaf(2, 4, 5, 8), leaf(2, 2, 5, 8, seed=1), leaf(2, 2, 5, 8, seed=2)
    agree(lambda q, k, v: functional.scaled_dot_product_attention(q, k, v, enable_gqa=True, is_causal=True), q, k, v)


def multi_head(**how):
    layer = nn.MultiheadAttention(8, 2, **how).double().eval()
    for k, parameter in enumerate(layer.parameters()):
        parameter.data = values(*parameter.shape, seed=k + 20) / 2
    return layer


PAD = torch.tensor([[False, False, False, False, True], [False, False, True, True, True], [False] * 5])
HEADS = {
    "plain": ({}, {}),
    "no_bias": ({"bias": False}, {}),
    "weights": ({}, {"need_weights": True}),
    "weights_per_head": ({}, {"need_weights": True, "average_attn_weights": False}),
    "padding": ({}, {"key_padding_mask": PAD}),
    "padding_float": ({}, {"key_padding_mask": torch.zeros(3, 5, dtype=torch.float64).masked_fill(PAD, -torch.inf)}),
    "bool": ({}, {"attn_mask": torch.ones(4, 5, dtype=torch.bool).triu(2)}),
    "float": ({}, {"attn_mask": values(4, 5, seed=5)}),
    "bool_per_image": ({}, {"attn_mask": (values(6, 4, 5, seed=6) > 0.5) & (torch.arange(5) > 0)}),
    "float_per_image": ({}, {"attn_mask": values(6, 4, 5, seed=6)}),
    "both": ({}, {"attn_mask": torch.ones(4, 5, dtype=torch.bool).triu(2), "key_padding_mask": PAD}),
    "both_float": (
        {},
        {
            "attn_mask": values(4, 5, seed=5),
            "key_padding_mask": torch.zeros(3, 5, dtype=torch.float64).masked_fill(PAD, -torch.inf),
        },
    ),
    "other_widths": ({"kdim": 6, "vdim": 7}, {}),
}


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("batch_first", [True, False])
def test_multi_head_attention_in_its_parts_is_torch_s(name, batch_first):
    how, options = HEADS[name]
    layer = multi_head(batch_first=batch_first, **how)
    options = {"need_weights": False, **options}
    q, k, v = leaf(3, 4, 8), leaf(3, 5, how.get("kdim", 8), seed=1), leaf(3, 5, how.get("vdim", 8), seed=2)

    def run(q, k, v):
        q, k, v = (t if batch_first else t.transpose(0, 1) for t in (q, k, v))
        return layer(q, k, v, **options)[0]

    rules = agree(run, q, k, v)
    assert rules.met == {"linear": 4, "product": 2, "softmax": 1}
    with Seeing():
        found = layer(*(t if batch_first else t.transpose(0, 1) for t in (q, k, v)), **options)[1]
    expected = layer(*(t if batch_first else t.transpose(0, 1) for t in (q, k, v)), **options)[1]
    assert (found is None) == (expected is None)
    assert found is None or torch.allclose(found, expected, rtol=0, atol=EXACT)


@pytest.mark.parametrize("pad", [None, PAD])
def test_masks_that_forbid_are_turned_round(pad):
    """The module hands on numbers; who calls the function may pass what is forbidden."""
    layer, x, mask = multi_head(), leaf(5, 3, 8), torch.ones(5, 5, dtype=torch.bool).triu(1)
    weights = (
        layer.in_proj_weight,
        layer.in_proj_bias,
        None,
        None,
        False,
        0.0,
        layer.out_proj.weight,
        layer.out_proj.bias,
    )
    agree(
        lambda x: functional.multi_head_attention_forward(
            x, x, x, 8, 2, *weights, training=False, attn_mask=mask, key_padding_mask=pad
        )[0],
        x,
    )


def test_attention_to_itself_and_of_one_image_and_in_an_encoder_layer():
    layer = multi_head(batch_first=True)
    agree(lambda x: layer(x, x, x)[0], leaf(3, 4, 8))
    assert agree(lambda x: layer(x, x, x, attn_mask=values(4, 4), need_weights=False)[0], leaf(4, 8)).met["linear"] == 4
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu").double().eval()
    rules = agree(encoder, leaf(3, 4, 8))
    assert rules.met == {"linear": 6, "product": 2, "softmax": 1, "normalize": 2, "elementwise": 1}


def test_what_is_projected_has_the_batch_first():
    shapes = []

    class Asked(Rules):
        opens_attention = True

        def linear(self, apply, x, weight, bias, name):
            shapes.append(tuple(x.shape))
            return apply(x, weight, bias)

    with Asked():
        multi_head()(leaf(4, 3, 8), leaf(5, 3, 8), leaf(5, 3, 8))
    assert shapes == [(3, 4, 8), (3, 5, 8), (3, 5, 8), (3, 4, 8)]


def test_attention_that_nobody_opens_is_left_whole():
    class Closed(Seeing):
        opens_attention = False

    q = leaf(2, 3, 4, 8)
    assert agree(lambda q: functional.scaled_dot_product_attention(q, q, q), q, rules=Closed()).met == {}


@pytest.mark.parametrize(
    ("layer", "options"),
    [({"add_bias_kv": True}, {}), ({"add_zero_attn": True}, {})],
)
def test_attention_with_added_keys_is_refused(layer, options):
    x = leaf(2, 4, 8)
    with pytest.raises(ValueError, match="added keys"), Seeing():
        multi_head(batch_first=True, **layer)(x, x, x, **options)


# -- what slipped by ---------------------------------------------------------------------------------------------------


class Hidden(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.relu()

    @staticmethod
    def backward(ctx, g):
        return g


@pytest.mark.parametrize(
    ("run", "kind"),
    [
        (Hidden.apply, "Hidden"), (lambda x: x.cumprod(1), "Cumprod"), (lambda x: torch.addcdiv(x, x, x), "Addcdiv"),
        (lambda x: torch.lerp(x, 2 * x, x), "Lerp"), (lambda x: x.prod(1), "Prod"), (lambda x: x.relu(), "Relu"),
        (lambda x: x.sort(1).values.cumsum(1), "Sort"), (lambda x: torch.outer(x[0], x[1]), "Mul"),
        (lambda x: torch.clamp(x, max=x.mean()), "Clamp"), (lambda x: x.amax(), "Amax"), (lambda x: x.std(1), "Std"),
        (lambda x: functional.conv1d(x[None], x[None]), "Convolution"),
    ],
)  # fmt: skip
def test_an_operation_without_a_rule_is_refused_by_name(run, kind):
    x, rules = leaf(3, 4), Rules()
    with rules:
        score = run(x * 2).sum()
    with pytest.raises(ValueError, match=f"deeplift has no rule for the operation '{kind}"):
        rules.check(score, x, "deeplift")
    if kind != "Hidden":
        rules.check(score, x, "deeplift", allowed=[kind])


def test_a_rule_s_own_function_passes():
    @own
    class Known(Hidden):
        pass

    x, rules = leaf(3, 4), Rules()
    rules.check(Known.apply(x).sum(), x, "a test")


def test_what_does_not_lead_to_the_input_is_not_looked_at():
    x, other, rules = leaf(3, 4), leaf(3, 4, seed=1), Rules()
    score = (x * other.exp().cumprod(0)).sum()
    rules.check(score, x, "a test")
    assert {n.name() for n, _ in nodes(score, x)} == {"SumBackward0", "MulBackward0"}


LINEAR = {
    "reshaping": lambda x: x.reshape(2, -1).view(2, 3, 16).permute(2, 0, 1).contiguous().unsqueeze(0).squeeze(0).flatten(1),
    "padding": lambda x: functional.pad(functional.pad(x, (1, 2, 0, 1)), (1, 1, 1, 1), mode="reflect"),
    "replicating": lambda x: functional.pad(x, (1, 1, 1, 1), mode="replicate").repeat(1, 2, 1, 1),
    "rolling": lambda x: torch.cat([x.roll(1, 2), x.flip(3)], 1)[:, ::2].chunk(3, 1)[0],
    "resizing": lambda x: functional.interpolate(functional.interpolate(x, scale_factor=2), (5, 5), mode="bilinear"),
    "bicubic": lambda x: functional.interpolate(x, (7, 7), mode="bicubic", antialias=True),
    "shuffling": lambda x: functional.pixel_unshuffle(functional.pixel_shuffle(x.repeat(1, 4, 1, 1), 2), 2),
    "unfolding": lambda x: functional.fold(functional.unfold(x, 2), (4, 4), 2),
    "means": lambda x: x.mean((2, 3), keepdim=True).expand_as(x) - x.sum(1, keepdim=True) / 3 + 1,
    "writing": lambda x: _written(x),
    "masking": lambda x: torch.where(torch.eye(4).bool(), x, 0.0).masked_fill(torch.eye(4).bool(), 1.0).tril(),
    "sampling": lambda x: functional.grid_sample(x, torch.zeros(2, 3, 3, 2, dtype=x.dtype), align_corners=False),
    "gathering": lambda x: x.index_select(1, torch.tensor([0, 2])).gather(2, torch.zeros(2, 2, 1, 4, dtype=torch.long)),
    "stacking": lambda x: torch.stack(x.unbind(1), 1).cumsum(1).narrow(1, 0, 2).movedim(1, 0),
    "normalising": lambda x: torch.addcmul(torch.ones(1, 3, 1, 1).double(), x, torch.full((1, 3, 1, 1), 2.0).double()),
    "dropping": lambda x: nn.Dropout().eval()(x).type(torch.float64),
}  # fmt: skip


def _written(x):
    out = torch.zeros_like(x)
    out[:, 0] = x[:, 1]
    out += x
    out.mul_(2).sub_(1)
    return -out


@pytest.mark.parametrize("name", LINEAR)
def test_what_is_linear_passes(name):
    x, rules = leaf(2, 3, 4, 4), Seeing()
    with rules:
        score = LINEAR[name](x).sum()
    rules.check(score, x, "a test")


@pytest.mark.parametrize("fast", [True, False])
def test_linear_networks_pass_through_a_model(networks, images, fast):
    network = networks.linear(3, 8, 8)
    model = Model(network, mean=(0.4, 0.5, 0.6), std=0.3)
    x = images()

    def work(part, x, run):
        rules = Seeing()
        with rules:
            score = run(x)[:, 1]
        rules.check(score, x, "a test")
        assert rules.seen == ["linear"]
        return torch.autograd.grad(score.sum(), x)[0]

    target = model.resolve(x, 1)
    found = torch.cat(model.passes(x, target, work, fast=fast))
    assert torch.allclose(found, model.gradients(x, 1)[1])


def test_the_mode_is_closed_after_an_exception():
    with pytest.raises(KeyError), Rules():
        raise KeyError
    rules = Rules()
    leaf(3).relu()
    assert not rules.met
