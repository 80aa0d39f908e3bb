"""Attention methods: closed forms, numpy beside recorded attentions, libraries beside one another, and what is refused."""

import numpy as np
import pytest
import torch
from attriscope import attribution
from attriscope.attribution import Model, available, create
from attriscope.attribution.attention import _attention
from attriscope.attribution.attention._attention import Recorder, follow, fuse, heads, layout
from attriscope.attribution.attention.attention_rollout import attention_rollout
from attriscope.attribution.attention.transformer_attribution import Relevance
from torch import nn
from torch.nn import functional

NAMES = ["attention_rollout", "gae", "grad_attention", "raw_attention", "transformer_attribution"]
BLIND = {"attention_rollout", "raw_attention"}
DOUBLE = {"rtol": 1e-9, "atol": 1e-12}  # float64 sums of a few hundred terms in another order
SINGLE = {"rtol": 1e-3, "atol": 1e-6}  # float32 through two layers and back


class Attention(nn.Module):
    """Attention that is written out, and leaves its probabilities where a test finds them."""

    def __init__(self, width, heads, style="written"):
        super().__init__()
        self.heads, self.style = heads, style
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        n, t, d = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if self.style == "fused":
            y = functional.scaled_dot_product_attention(q, k, v)
        elif self.style == "merged":  # batch and heads are one axis
            q, k, v = (z.flatten(0, 1) for z in (q, k, v))
            y = torch.bmm(torch.bmm(q, k.transpose(1, 2)).div((d / self.heads) ** 0.5).softmax(2), v)
            y = y.unflatten(0, (n, self.heads))
        elif self.style == "heads_first":
            q, k, v = (z.transpose(0, 1) for z in (q, k, v))
            y = ((q @ k.mT / (d / self.heads) ** 0.5).softmax(-1) @ v).transpose(0, 1)
        else:
            self.p = (q @ k.transpose(2, 3) * (d / self.heads) ** -0.5).softmax(-1)
            y = self.p @ v
        return self.out(y.transpose(1, 2).reshape(n, t, d))


class Block(nn.Module):
    def __init__(self, width, heads, style):
        super().__init__()
        self.norm1, self.attend = nn.LayerNorm(width), Attention(width, heads, style)
        self.norm2, self.fc1, self.fc2 = nn.LayerNorm(width), nn.Linear(width, 6), nn.Linear(6, width)

    def forward(self, x):
        x = x + self.attend(self.norm1(x))
        return x + self.fc2(functional.gelu(self.fc1(self.norm2(x))))


class Written(nn.Module):
    """A transformer by hand."""

    def __init__(
        self, *, width=8, heads=2, depth=2, prefix=1, positions=True, pool="token", style="written", patch="conv"
    ):
        super().__init__()
        self.prefix, self.pool, self.kind = prefix, pool, patch
        if patch == "conv":
            self.patch = nn.Conv2d(3, width, 4, stride=4)
        elif patch == "stem":
            self.patch = nn.Sequential(nn.Conv2d(3, width, 2, stride=2), nn.ReLU(), nn.MaxPool2d(2))
        elif patch == "average":
            self.patch = nn.Sequential(nn.Conv2d(3, width, 2, stride=2), nn.AvgPool2d(2))
        elif patch == "unfold":
            self.patch = nn.Linear(48, width)
        self.tokens = nn.Parameter(torch.zeros(1, prefix, width))
        self.position = nn.Parameter(torch.zeros(1, 64, width)) if positions else None
        self.blocks = nn.Sequential(*[Block(width, heads, style) for _ in range(depth)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 4)

    def forward(self, x):
        if self.kind == "unfold":
            x = self.patch(functional.unfold(x, 4, stride=4).transpose(1, 2))
        elif self.kind != "none":
            x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.tokens.expand(len(x), -1, -1), x], 1)
        if self.position is not None:
            x = x + self.position[:, : x.shape[1]]
        x = self.norm(self.blocks(x))
        if self.pool == "dense":
            return self.head(x[:, self.prefix :])
        return self.head(x[:, 0] if self.pool == "token" else x[:, self.prefix :].mean(1))


@pytest.fixture
def written(networks):
    """`written(...)`: weights that tell everything apart, float64."""
    return lambda **how: networks.quiet(lambda: networks.lively(Written(**how))).double()


def recorded(network, x, target):
    """Attentions and gradients of the written network by autograd alone, numpy."""
    outputs = network(x)
    found = [b.attend.p for b in network.blocks]
    score = outputs[torch.arange(len(x)), target].sum()
    return [p.detach().numpy() for p in found], [g.numpy() for g in torch.autograd.grad(score, found)]


def matrices(name, attentions, gradients, relevances=None):
    """Whole matrices (N, T, T) from attentions and gradients, as the papers write them: from the first layer on."""
    n, _, t, _ = attentions[0].shape
    eye = np.broadcast_to(np.eye(t), (n, t, t))
    if name == "raw_attention":
        return attentions[-1].mean(1)
    if name == "grad_attention":
        return np.maximum(attentions[-1] * gradients[-1], 0).mean(1)
    result = eye
    for i in range(len(attentions)):
        if name == "attention_rollout":
            step = attentions[i].mean(1) + eye
            result = np.einsum("nij,njk->nik", step / step.sum(2, keepdims=True), result)
        elif name == "gae":
            result = result + np.einsum("nij,njk->nik", np.maximum(attentions[i] * gradients[i], 0).mean(1), result)
        else:
            step = np.maximum(relevances[i] * gradients[i], 0).mean(1) + eye
            result = np.einsum("nij,njk->nik", step, result)
    return result


# -- the algebra -------------------------------------------------------------------------------------------------------


def stochastic(n=2, t=5, layers=3):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, t, t, generator=generator, dtype=torch.float64).softmax(-1) for _ in range(layers)]


def eye(n=2, t=5):
    return torch.eye(t, dtype=torch.float64).expand(n, t, t)


@pytest.mark.parametrize(("residual", "discard"), [(0.5, 0.0), (0.0, 0.0), (0.3, 0.4), (1.0, 0.0), (0.0, 0.9)])
def test_rows_of_a_rollout_sum_to_one(residual, discard):
    layers = [layer * 3 for layer in stochastic()]  # fused by their maximum, rows sum to more
    found = attention_rollout(layers, eye(), residual=residual, discard_ratio=discard)
    torch.testing.assert_close(found.sum(2), torch.ones(2, 5, dtype=torch.float64) if discard < 0.9 else found.sum(2))
    assert bool((found >= 0).all())
    assert bool(found.isfinite().all())


def test_a_rollout_of_the_identity_is_the_identity():
    torch.testing.assert_close(attention_rollout([eye()] * 4, eye()), eye())


def test_a_rollout_of_uniform_attention_without_residual_is_uniform():
    found = attention_rollout([torch.full((2, 5, 5), 0.2, dtype=torch.float64)] * 3, eye(), residual=0.0)
    torch.testing.assert_close(found, torch.full_like(found, 0.2))


def test_a_rollout_is_the_product_from_the_last_layer_to_the_first():
    layers = stochastic()
    a, b, c = [0.75 * layer + 0.25 * eye() for layer in layers]
    torch.testing.assert_close(attention_rollout(layers, eye(), residual=0.25), c @ b @ a)


def test_discarding_sets_the_smallest_to_zero_and_keeps_ties():
    layer = torch.tensor([[[0.1, 0.9], [0.4, 0.6]]])
    start = torch.eye(2)[None]
    # of four values the two smallest go: what is left of each row is one value
    expected = torch.tensor([[[0.0, 1.0], [0.0, 1.0]]])
    torch.testing.assert_close(attention_rollout([layer], start, residual=0.0, discard_ratio=0.5), expected)
    even = torch.full((1, 2, 2), 0.5)
    torch.testing.assert_close(attention_rollout([even], start, residual=0.0, discard_ratio=0.5), even)


def test_without_gradient_nothing_is_added_to_the_identity():
    torch.testing.assert_close(follow([torch.zeros(2, 5, 5, dtype=torch.float64)] * 3, eye()), eye())


def test_following_is_the_update_of_the_papers():
    layers = stochastic()
    result = eye()
    for layer in layers:
        result = result + layer @ result
    torch.testing.assert_close(follow(layers, eye()), result)
    torch.testing.assert_close(follow(layers, eye()[:, :1]), result[:, :1])


def test_heads_are_fused_by_name():
    heads = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    for how in ("mean", "max", "min"):
        assert np.allclose(fuse(heads, how), getattr(np, how)(heads.numpy(), 1))


# -- whole methods beside numpy ----------------------------------------------------------------------------------------


def by_hand(network, x, target):
    """Relevances of the attentions of a written network, operation by operation, in shares: no autograd, no rules."""
    f = {}

    def linear(layer, value):
        return value @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()

    def norm(layer, value):
        centred = value - value.mean(-1, keepdims=True)
        deviation = np.sqrt((centred**2).mean(-1, keepdims=True) + layer.eps)
        scale = layer.weight.detach().numpy() / deviation
        return centred * scale + layer.bias.detach().numpy(), scale

    def back_linear(layer, value, relevance):  # the share of each product among the positive ones
        products = value[..., None, :] * layer.weight.detach().numpy()
        products = np.maximum(products, 0)
        total = products.sum(-1, keepdims=True)
        return (products * relevance[..., None] / np.where(total > 0, total, 1)).sum(-2)

    def share(value, out, relevance):  # of a summand
        return value * relevance / out

    def back_norm(value, out, scale, relevance):
        coefficient = relevance / out * scale
        return value * (coefficient - coefficient.mean(-1, keepdims=True))

    def split(value, heads):
        return value.reshape(*value.shape[:2], heads, -1).transpose(0, 2, 1, 3)

    def merge(value):
        return value.transpose(0, 2, 1, 3).reshape(value.shape[0], value.shape[2], -1)

    with torch.no_grad():
        first = torch.cat([network.tokens.expand(len(x), -1, -1), network.patch(x).flatten(2).transpose(1, 2)], 1)
        value = (first + network.position[:, : first.shape[1]]).numpy()
    tape = []
    for block in network.blocks:
        f = {"x": value, "block": block}
        f["y"], f["y_scale"] = norm(block.norm1, value)
        f["qkv"] = linear(block.attend.qkv, f["y"])
        heads = block.attend.heads
        q, k, v = (split(z, heads) for z in np.split(f["qkv"], 3, -1))
        f["q"], f["k"], f["v"] = q * q.shape[-1] ** -0.5, k, v
        f["s"] = f["q"] @ k.transpose(0, 1, 3, 2)
        f["p"] = np.exp(f["s"]) / np.exp(f["s"]).sum(-1, keepdims=True)
        f["o"] = f["p"] @ v
        f["merged"] = merge(f["o"])
        f["a"] = linear(block.attend.out, f["merged"])
        f["x1"] = value + f["a"]
        f["z"], f["z_scale"] = norm(block.norm2, f["x1"])
        f["h"] = linear(block.fc1, f["z"])
        f["g"] = functional.gelu(torch.from_numpy(f["h"])).numpy()
        f["m"] = linear(block.fc2, f["g"])
        value = f["x1"] + f["m"]
        f["x2"] = value
        tape.append(f)
    out, scale = norm(network.norm, value)
    relevance = np.zeros((len(x), 4))
    relevance[np.arange(len(x)), target] = 1
    at_norm, prefix = np.zeros_like(out), network.prefix
    if network.pool == "token":
        at_norm[:, 0] = back_linear(network.head, out[:, 0], relevance)
    else:
        pooled, patches = out[:, prefix:].mean(1), out.shape[1] - prefix
        ratio = back_linear(network.head, pooled, relevance) / pooled
        at_norm[:, prefix:] = share(out[:, prefix:] / patches, 1, ratio[:, None])
    relevance = back_norm(value, out, scale, at_norm)
    found = []
    for f in reversed(tape):
        block = f["block"]
        at_h = back_linear(block.fc2, f["g"], share(f["m"], f["x2"], relevance))
        at_x1 = share(f["x1"], f["x2"], relevance)
        at_x1 = at_x1 + back_norm(f["x1"], f["z"], f["z_scale"], back_linear(block.fc1, f["z"], at_h))
        at_o = back_linear(block.attend.out, f["merged"], share(f["a"], f["x1"], at_x1))
        ratio = split(at_o, block.attend.heads) / f["o"]
        at_p = f["p"] * (ratio @ f["v"].transpose(0, 1, 3, 2)) / 2
        found.append(at_p)
        at_v = f["v"] * (f["p"].transpose(0, 1, 3, 2) @ ratio) / 2
        at_s = f["s"] * (at_p - f["p"] * at_p.sum(-1, keepdims=True))
        ratio = at_s / f["s"]
        at_q = f["q"] * (ratio @ f["k"]) / 2
        at_k = f["k"] * (ratio.transpose(0, 1, 3, 2) @ f["q"]) / 2
        at_y = back_linear(block.attend.qkv, f["y"], np.concatenate([merge(z) for z in (at_q, at_k, at_v)], -1))
        relevance = share(f["x"], f["x1"], at_x1) + back_norm(f["x"], f["y"], f["y_scale"], at_y)
    return found[::-1]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "how", [{}, {"prefix": 3}, {"pool": "mean"}, {"prefix": 0, "pool": "mean"}, {"depth": 1, "heads": 1}]
)
def test_a_method_is_what_numpy_makes_of_attentions_and_gradients(name, how, written, images):
    network = written(**how)
    x, target = images(3, 3, 8, 12, dtype=torch.float64), [1, 3, 0]
    attentions, gradients = recorded(network, x, target)
    relevances = by_hand(network, x, target) if name == "transformer_attribution" else None
    whole = matrices(name, attentions, gradients, relevances)
    rows = [0] if network.pool == "token" else range(network.prefix, whole.shape[1])
    expected = whole[:, rows].mean(1)[:, network.prefix :].reshape(3, 1, 2, 3)
    made = create(name, Model(network, batch_size=2)).explain(x, target=target)
    # relevances divide by values near 0, where the method adds 1e-9
    np.testing.assert_allclose(made.native, expected, rtol=1e-4 if relevances else 1e-9, atol=1e-12)
    assert made.details == {"layers": len(network.blocks), "prefix": network.prefix, "grid": (2, 3)}
    assert np.std(expected) > 1e-6  # the comparison is of something


def test_one_layer_with_one_head_by_hand(networks):
    """Two patches and a class token of one number each: everything on paper."""

    class Tiny(nn.Module):
        def __init__(self):
            super().__init__()
            self.patch = nn.Conv2d(1, 1, 1, bias=False)

        def forward(self, x):
            t = torch.cat([torch.zeros(len(x), 1, 1, dtype=x.dtype), self.patch(x).flatten(2).mT], 1)
            p = torch.softmax((t + 1) @ t.mT, -1)  # the class token, 0, asks with 1
            return torch.stack([(t + p @ t)[:, 0, 0], -(p @ t)[:, 0, 0]], 1)

    network = Tiny().double()
    nn.init.ones_(network.patch.weight)
    x = torch.tensor([0.5, 1.0], dtype=torch.float64).reshape(1, 1, 1, 2)
    weights = np.exp([0.0, 0.5, 1.0])
    weights = weights[1:] / weights.sum()  # the class token's row, without itself
    values = np.array([0.5, 1.0])  # the gradient of the score with respect to the row is what is looked at

    def check(name, target, expected, **more):
        np.testing.assert_allclose(
            create(name, network, **more).explain(x, target).native.flatten(), expected, **DOUBLE
        )

    check("raw_attention", 0, weights)
    check("attention_rollout", 0, weights / 2)
    check("attention_rollout", 1, weights / 4 * 3, residual=0.25)
    check("grad_attention", 0, weights * values)
    check("gae", 0, weights * values)
    check("gae", 1, [0, 0])
    check("grad_attention", 1, [0, 0])
    # relevance 1, of which the factors of a product get half each; P has its own shares of the sum
    shares = weights * values / (weights * values).sum() / 2
    check("transformer_attribution", 0, shares * values)


@pytest.mark.parametrize("name", sorted({*NAMES} - BLIND))
def test_probabilities_are_differentiated_where_they_are_asked_for(name, written, images):
    network = written()
    x = images(2, 3, 8, 12, dtype=torch.float64)
    logit = create(name, network).explain(x, 1).native
    probability = create(name, network, output="probability").explain(x, 1).native
    if name == "grad_attention":
        found = [b.attend.p for b in [network.blocks[-1]] if network(x) is not None]
        outputs = network(x)
        found = [network.blocks[-1].attend.p]
        gradient = torch.autograd.grad(outputs.softmax(1)[:, 1].sum(), found)[0]
        expected = (gradient * found[0]).relu().mean(1)[:, 0, 1:].detach()
        torch.testing.assert_close(probability.flatten(1), expected, **DOUBLE)
    assert not torch.allclose(logit, probability)
    for other in ("log_probability", "margin"):
        assert bool(create(name, network, output=other).explain(x, 1).native.isfinite().all())


# -- properties --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_without_positions_maps_follow_their_patches(name, written, images):
    network = written(positions=False)
    x = images(2, 3, 8, 12, dtype=torch.float64)
    patches = x.unfold(2, 4, 4).unfold(3, 4, 4)  # (N, C, 2, 3, 4, 4)
    flat, order = patches.flatten(2, 3), [3, 0, 5, 1, 2, 4]
    moved = flat[:, :, order].unflatten(2, (2, 3)).permute(0, 1, 2, 4, 3, 5).reshape(x.shape)
    before, after = (create(name, network).explain(i, 1).native.flatten(1) for i in (x, moved))
    torch.testing.assert_close(after, before[:, order], **DOUBLE)


def test_uniform_attention_gives_uniform_maps(written, images):
    network = written()
    with torch.no_grad():
        for block in network.blocks:
            block.attend.qkv.weight[:16] = 0
            block.attend.qkv.bias[:16] = 0
    x = images(2, 3, 8, 12, dtype=torch.float64)
    raw = create("raw_attention", network).explain(x, 1).native
    torch.testing.assert_close(raw, torch.full_like(raw, 1 / 7))
    # s (U + I)/2 (U + I)/2 with s the class token: 3/4 of it is spread over 7 tokens
    rollout = create("rollout", network).explain(x, 1).native
    torch.testing.assert_close(rollout, torch.full_like(rollout, 3 / 4 / 7))


def test_a_score_that_does_not_change_gives_nothing(written, images):
    x = images(2, 3, 8, 12, dtype=torch.float64)
    for name in ("gae", "grad_attention"):
        made = create(name, written())
        assert not made.explain(x, lambda out: out[:, 0] * 0).native.any()
        with pytest.raises(ValueError, match="autograd can follow"):
            made.attribute(x, lambda out: torch.ones(len(out)))


def test_a_score_of_one_token_is_read_at_that_token(written, images):
    """Of a dense output the target says which token is read; nothing else counts."""
    network = written(pool="dense")
    x = images(2, 3, 8, 12, dtype=torch.float64)
    target = [(4, 1), (0, 2)]
    out = network(x)
    p = network.blocks[-1].attend.p
    g = torch.autograd.grad(out[0, 4, 1] + out[1, 0, 2], p)[0]
    expected = torch.stack([(g * p).relu().mean(1)[0, 1 + 4, 1:], (g * p).relu().mean(1)[1, 1, 1:]]).detach()
    found = create("grad_attention", network).explain(x, target).native.flatten(1)
    torch.testing.assert_close(found, expected, **DOUBLE)


@pytest.mark.parametrize("name", NAMES)
def test_heads_in_one_axis_with_the_batch_and_fused_kernels_give_the_same(name, networks, written, images):
    x = images(3, 3, 8, 12, dtype=torch.float64)
    expected = create(name, written()).explain(x, 1).native
    for style in ("merged", "fused"):
        torch.testing.assert_close(create(name, written(style=style)).explain(x, 1).native, expected, **DOUBLE)


def test_layers_are_counted_from_either_end_and_left_out_from_the_first_on(written, images):
    network, x = written(depth=3), images(2, 3, 8, 12, dtype=torch.float64)
    attentions, gradients = recorded(network, x, [1, 1])

    def found(name, **more):
        return create(name, network, **more).explain(x, 1).native.flatten(1).numpy()

    for name in ("raw_attention", "grad_attention"):
        for layer in range(3):
            expected = matrices(name, attentions[: layer + 1], gradients[: layer + 1])[:, 0, 1:]
            np.testing.assert_allclose(found(name, block=layer), expected, **DOUBLE)
            np.testing.assert_allclose(found(name, block=layer - 3), expected, **DOUBLE)
        np.testing.assert_allclose(found(name), found(name, block=2), **DOUBLE)
    for name in ("attention_rollout", "gae"):
        expected = matrices(name, attentions[1:], gradients[1:])[:, 0, 1:]
        np.testing.assert_allclose(found(name, start_layer=1), expected, **DOUBLE)
    assert not np.allclose(found("transformer_attribution", start_layer=2), found("transformer_attribution"))
    for name, option, value in (
        ("gae", "start_layer", 3),
        ("raw_attention", "block", 3),
        ("grad_attention", "block", -4),
    ):
        with pytest.raises(ValueError, match=r"out of range: the network has 3 attention layers"):
            found(name, **{option: value})


def test_from_a_block_on_is_without_the_blocks_before(written, images):
    """At a layer the rest of the network is the network; its inputs are all tokens, of which the map shows the patches."""
    network, x = written(depth=3), images(2, 3, 8, 12, dtype=torch.float64)
    for name in ("attention_rollout", "gae"):
        expected = create(name, network, start_layer=1).explain(x, 1)
        found = create(name, network, layer="blocks.0").explain(x, 1)
        torch.testing.assert_close(found.native, expected.native, **DOUBLE)
        assert (found.details["layer"], found.details["layers"]) == ("blocks.0", 2)


def test_options_of_the_rollout(written, images):
    network, x = written(), images(2, 3, 8, 12, dtype=torch.float64)
    attentions, _ = recorded(network, x, [1, 1])
    for how in ("max", "min"):
        steps = [getattr(p, how)(1) for p in attentions]
        steps = [np.where(a < np.sort(a.reshape(2, -1), 1)[:, 14][:, None, None], 0, a) for a in steps]  # 14 of 49 go
        steps = [a * 0.7 + 0.3 * np.eye(7) for a in steps]
        steps = [a / a.sum(2, keepdims=True) for a in steps]
        made = create("rollout", network, fusion=how, discard_ratio=0.3, residual=0.3)
        np.testing.assert_allclose(made.explain(x, 0).native.flatten(1), (steps[1] @ steps[0])[:, 0, 1:], **DOUBLE)
        raw = create("raw_attention", network, fusion=how).explain(x, 0).native.flatten(1)
        np.testing.assert_allclose(raw, getattr(attentions[-1], how)(1)[:, 0, 1:], **DOUBLE)


def test_methods_without_a_target_keep_nothing_to_go_back_with(written, images):
    network, x, kept = written(), images(2, 3, 8, 12, dtype=torch.float64), []
    model = Model(network)
    create("gae", model).attribute(x, 1)  # it is known what the network is like
    for name, saves in (("rollout", False), ("raw_attention", False), ("gae", True)):
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(1) or t, lambda t: t):
            create(name, model).attribute(x, 1)
        assert bool(kept) == saves, name


def test_the_maps_are_resized_or_left(written, images):
    x = images(2, 3, 8, 12)
    network = written().float()
    assert create("gae", network).attribute(x, 1).shape == (2, 1, 8, 12)
    assert create("gae", network, resize=None).attribute(x, 1).shape == (2, 1, 2, 3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_runs(dtype, written, images):
    network = written().to(dtype)
    for name in NAMES:
        found = create(name, network).explain(images(2, 3, 8, 12), 1).native
        assert found.dtype == torch.float32
        assert bool(found.isfinite().all())
    assert heads(torch.ones(2, 3, 4, 4, dtype=dtype), 2).dtype == torch.float32  # what is multiplied through the layers


# -- what a network is like --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("patch", ["conv", "stem", "average", "unfold"])
@pytest.mark.parametrize("prefix", [0, 1, 3])
def test_the_grid_is_found_however_patches_are_made(patch, prefix, written, images):
    model = Model(written(patch=patch, prefix=prefix, pool="mean").float())
    model.scores(images(1, 3, 8, 12), 0)
    known = layout(model)
    assert (known.layers, known.tokens, known.prefix, known.grid) == (2, 6 + prefix, prefix, (2, 3))
    assert known.read.tolist() == [False] * prefix + [True] * 6


def test_maps_after_the_first_attention_are_no_grid_of_patches(networks, images):
    class Decoding(Written):
        def forward(self, x):
            scale = functional.avg_pool2d(super().forward(x)[:, :1, None, None].expand(-1, -1, 3, 3), 1)
            return self.scores(scale).flatten(1)  # as many places as there are tokens

    network = Decoding(prefix=3)
    network.scores = nn.Conv2d(1, 1, 1)
    model = Model(networks.quiet(lambda: networks.lively(network)))
    model.scores(images(1, 3, 8, 12), 0)
    assert (layout(model).tokens, layout(model).grid) == (9, (2, 3))


def test_what_is_known_is_found_out_once_until_the_network_changes(written, images, monkeypatch):
    explored, explore = [], _attention._explore
    monkeypatch.setattr(_attention, "_explore", lambda *a: explored.append(1) or explore(*a))
    network = written()
    model, x = Model(network), images(2, 3, 8, 12, dtype=torch.float64)
    before = model.forwards, model.backwards
    for name in NAMES:
        create(name, model).attribute(x, 1)
    assert len(explored) == 1
    assert (model.forwards - before[0], model.backwards - before[1]) == (2 * 6, 2 * 4)  # the search is nobody's cost
    create("gae", model).attribute(images(1, 3, 12, 12, dtype=torch.float64), 1)
    assert len(explored) == 2
    with torch.no_grad():
        network.head.weight.mul_(2)
    create("gae", model).attribute(images(1, 3, 12, 12, dtype=torch.float64), 1)
    assert len(explored) == 3
    with pytest.raises(ValueError, match="once the model has seen an input"):
        Model(network).learn("attention", lambda x, run: None)


def test_a_new_network_of_the_model_s_own_is_looked_at_anew(written, images):
    """`available` sees that the network was changed, without a call in between."""
    network = nn.Sequential(written().float())
    model = Model(network)
    model.scores(images(1, 3, 8, 12), 0)
    assert available("attention/*", model=model) == NAMES
    network[0] = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert available("attention/*", model=model) == []


# -- libraries ---------------------------------------------------------------------------------------------------------

PARITY = 1e-5  # of the largest value: float32, fused kernels beside sums that are written out


def close(a, b):
    return float((a - b).abs().max()) <= PARITY * float(b.abs().max())


def attended(network, x):
    with Recorder(len(x)) as recorder:
        out = network(x.clone().requires_grad_())
    return [p.detach() for p in recorder.found], getattr(out, "logits", out).detach()


def test_scores_are_what_they_are_without_rules(zoo, zoo_vit):
    network, x = zoo.build(zoo_vit), zoo.images(zoo_vit, 2)
    with torch.no_grad():
        expected = zoo.outputs(network, x)
    assert close(attended(network, x)[1], expected)
    leaf = x.clone().requires_grad_()
    with Relevance(leaf):
        found = zoo.outputs(network, leaf).detach()
    assert close(found, expected)


def test_every_vision_transformer_is_read_and_explained(zoo, zoo_vit):
    network, facts, x = zoo.build(zoo_vit), zoo.FACTS[zoo_vit], zoo.images(zoo_vit, 2)
    model = Model(network)
    assert available("attention/*", model=model) == NAMES  # by the names of its modules
    model.scores(x, 0)
    assert available("attention/*", model=model) == NAMES  # by a trial
    known = layout(model)
    assert (known.grid, known.prefix) == (facts.grid, facts.prefix)
    read = known.read.nonzero().flatten().tolist()
    assert read == ([0, 1] if zoo_vit == "timm_deit" else list(range(known.tokens)) if facts.pooled else [0])
    for name in NAMES:
        made = create(name, model)
        found = made.explain(x, [1, 2])
        assert found.maps.shape == (2, 1, *facts.size)
        assert float(found.native.std()) > 0
        torch.testing.assert_close(found.native[1:], made.explain(x[1:], 2).native, **SINGLE)
        other = made.explain(x, [2, 1]).native
        assert torch.equal(found.native, other) == (name in BLIND)


def test_a_mean_of_patches_beside_a_class_token_reads_the_patches(zoo):
    network = zoo.lively(zoo._timm_vit(global_pool="avg"), zoo.images("timm_vit"), 0)
    model = Model(network)
    model.scores(zoo.images("timm_vit"), 0)
    assert layout(model).read.tolist() == [False] + [True] * 16


def test_attentions_are_those_that_transformers_hands_out(zoo):
    for name in ("hf_vit", "hf_deit"):
        network, x = zoo.build(name), zoo.images(name, 2)
        found, _ = attended(network, x)
        network.set_attn_implementation("eager")
        expected = network(x, output_attentions=True).attentions
        assert len(found) == len(expected) == 2
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, **SINGLE)
        for a, b in zip(attended(network, x)[0], expected, strict=True):
            torch.testing.assert_close(a, b, **SINGLE)


def test_attentions_are_those_of_torch_s_own_module(zoo):
    network, x, inputs = zoo.build("torchvision_vit"), zoo.images("torchvision_vit", 2), []
    layers = [m for m in network.modules() if isinstance(m, nn.MultiheadAttention)]
    handles = [m.register_forward_pre_hook(lambda m, args: inputs.append(args[0])) for m in layers]
    network(x)
    for handle in handles:
        handle.remove()
    expected = [
        m(i, i, i, need_weights=True, average_attn_weights=False)[1] for m, i in zip(layers, inputs, strict=True)
    ]
    for a, b in zip(attended(network, x)[0], expected, strict=True):
        torch.testing.assert_close(a, b, **SINGLE)


def test_timm_s_fused_attention_is_its_own_written_out(zoo):
    network, x = zoo.build("timm_vit"), zoo.images("timm_vit", 2)
    fused = {name: create(name, network).explain(x, 1).native for name in NAMES}
    for block in network.blocks:
        assert block.attn.fused_attn
        block.attn.fused_attn = False
    for name in NAMES:
        torch.testing.assert_close(create(name, network).explain(x, 1).native, fused[name], **SINGLE)


def test_the_same_weights_in_three_libraries_give_the_same_maps(zoo):
    from transformers import ViTConfig, ViTForImageClassification

    theirs = zoo.build("torchvision_vit")
    given = theirs.state_dict()
    ours = zoo.build("timm_vit")
    names = {
        "class_token": "cls_token", "conv_proj": "patch_embed.proj", "encoder.pos_embedding": "pos_embed",
        "encoder.layers.encoder_layer_": "blocks.", ".ln_1.": ".norm1.", ".ln_2.": ".norm2.", "self_attention": "attn",
        "in_proj_": "qkv.", "out_proj": "proj", "mlp.0": "mlp.fc1", "mlp.3": "mlp.fc2", "encoder.ln": "norm",
        "heads.head": "head",
    }  # fmt: skip
    renamed = {}
    for key, tensor in given.items():
        for old, new in names.items():
            key = key.replace(old, new)  # noqa: PLW2901  the key under its new name
        renamed[key] = tensor
    ours.load_state_dict(renamed)
    hf = ViTForImageClassification(ViTConfig(**zoo._HF_VIT, num_labels=zoo.CLASSES, layer_norm_eps=1e-6)).eval()
    with torch.no_grad():
        state = hf.state_dict()
        wanted = {
            "vit.embeddings.cls_token": "class_token",
            "vit.embeddings.position_embeddings": "encoder.pos_embedding",
        }
        for at in ("weight", "bias"):
            wanted |= {
                f"vit.embeddings.patch_embeddings.projection.{at}": f"conv_proj.{at}",
                f"vit.layernorm.{at}": f"encoder.ln.{at}",
                f"classifier.{at}": f"heads.head.{at}",
            }
        for key, source in wanted.items():
            state[key].copy_(given[source])
        for i, layer in enumerate(m for m in hf.modules() if type(m).__name__ == "ViTLayer"):
            source = f"encoder.layers.encoder_layer_{i}."
            for at in ("weight", "bias"):
                mine = [p for n, p in layer.named_parameters() if n.endswith(at)]
                chunks = given[f"{source}self_attention.in_proj_{at}"].chunk(3)
                rest = [
                    given[f"{source}{k}.{at}"] for k in ("self_attention.out_proj", "ln_1", "ln_2", "mlp.0", "mlp.3")
                ]
                for tensor, value in zip(mine, [*chunks, *rest], strict=True):
                    tensor.copy_(value)
    x = zoo.images("torchvision_vit", 2)
    models = [Model(n) for n in (theirs, ours, hf)]
    scores = [m.scores(x, 1, every=True) for m in models]
    assert close(scores[1], scores[0])
    assert close(scores[2], scores[0])
    for name in NAMES:
        maps = [create(name, m).explain(x, [1, 3]).native for m in models]
        torch.testing.assert_close(maps[1], maps[0], **SINGLE)
        torch.testing.assert_close(maps[2], maps[0], **SINGLE)


def test_torch_s_own_encoder_is_read(networks, images):
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.patch = nn.Conv2d(3, 8, 4, stride=4)
            self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)
            self.head = nn.Linear(8, 4)

        def forward(self, x):
            return self.head(self.encoder(self.patch(x).flatten(2).mT).mean(1))

    network = networks.quiet(lambda: networks.lively(Encoder()))
    for name in NAMES:
        found = create(name, network).explain(images(2, 3, 8, 12), 1)
        assert found.details == {"layers": 2, "prefix": 0, "grid": (2, 3)}


# -- tokens ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("prefix", [0, 1])
def test_tokens_get_a_number_each(name, prefix, written):
    network = written(patch="none", prefix=prefix, pool="mean" if prefix == 0 else "token", positions=False)
    model = Model(network, kind="tokens", bounds=None)
    x = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = create(name, model).explain(x, 1)
    assert found.details == {"layers": 2, "prefix": prefix, "grid": None}
    assert found.maps.shape == x.shape
    assert found.native.shape == (2, 6)
    order = [5, 2, 0, 1, 4, 3]
    torch.testing.assert_close(create(name, model).explain(x[:, order], 1).native, found.native[:, order], **DOUBLE)


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_convolutional_networks_are_left_out(zoo, zoo_cnn):
    model = Model(zoo.build(zoo_cnn))
    assert available("attention/*", model=model) == []
    made = create("gae", model)  # by its modules' names it cannot be told for sure
    with pytest.raises(ValueError, match=r"no attention .* was met in it: use grad_cam"):
        made.attribute(zoo.images(zoo_cnn, 1), 0)
    assert available("attention/*", model=model) == []
    with pytest.raises(ValueError, match="gae does not run on this model: no attention"):
        create("gae", model)


def test_windows_are_left_out(zoo, zoo_hierarchical):
    model = Model(zoo.build(zoo_hierarchical))
    assert available("attention/*", model=model) == []
    model.scores(zoo.images(zoo_hierarchical, 1), 0)
    assert available("attention/*", model=model) == []
    with pytest.raises(ValueError, match=r"within windows, or its tokens change .* use grad_cam"):
        create("rollout", model)


class Odd(nn.Module):
    """Patches, then something that is not attention between all tokens."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.patch = nn.Conv2d(3, 8, 4, stride=4)
        self.qkv, self.head = nn.Linear(8, 24), nn.Linear(8, 4)

    def forward(self, x):
        x = self.patch(x).flatten(2).mT  # (N, 16, 8)
        if self.kind == "windows":
            x = x.reshape(-1, 4, 8)
        q, k, v = self.qkv(x).chunk(3, -1)
        if self.kind == "channels":
            x = x + ((q.mT @ k).softmax(-1) @ v.mT).mT
        elif self.kind == "heads_first":
            q, k, v = (z.unflatten(2, (2, 4)).permute(2, 0, 1, 3) for z in (q, k, v))
            x = x + ((q @ k.mT).softmax(-1) @ v).permute(1, 2, 0, 3).flatten(2)
        elif self.kind == "pruned":
            x = x + (q @ k.mT).softmax(-1) @ v
            q, k, v = self.qkv(x[:, :9]).chunk(3, -1)
            x = x[:, :9] + (q @ k.mT).softmax(-1) @ v
        elif self.kind == "nested":
            p = (q @ k.mT)[:, None, None].softmax(-1)
            x = x + (p @ v[:, None, None])[:, 0, 0]
        else:
            x = x + (q @ k.mT).softmax(-1) @ v
        return self.head(x.mean(1) if self.kind != "windows" else x.reshape(-1, 16, 8).mean(1))


@pytest.mark.parametrize("kind", ["windows", "heads_first", "pruned", "nested"])
def test_attention_that_is_not_between_the_same_tokens_is_refused(kind, networks, images):
    network = networks.quiet(lambda: networks.lively(Odd(kind)))
    for n in (1, 2):
        with pytest.raises(ValueError, match="this network: its attention stays within windows, or its tokens change"):
            create("rollout", network).attribute(images(n, 3, 16, 16), 0)


def test_attention_between_channels_is_none(networks, images):
    with pytest.raises(ValueError, match="no attention from all of its tokens"):
        create("rollout", networks.quiet(lambda: networks.lively(Odd("channels")))).attribute(images(2, 3, 16, 16), 0)


def test_tokens_that_do_not_cover_the_image_are_refused(networks, images):
    class Few(Written):
        def forward(self, x):
            y = functional.unfold(x, 4, stride=4).mT if self.kind == "unfold" else self.patch(x).flatten(2).mT
            y = self.patch(y) if self.kind == "unfold" else y
            return self.head(self.norm(self.blocks(y[:, : self.few])).mean(1))

    for patch, few in (("unfold", 13), ("conv", 5)):  # of sixteen patches
        network = networks.quiet(lambda: networks.lively(Few(patch=patch)))
        network.few = few
        with pytest.raises(
            ValueError, match=rf"its {few} tokens cannot be laid out over an input of shape \(3, 16, 16\)"
        ):
            create("rollout", network).attribute(images(2, 3, 16, 16), 0)


def test_tokens_that_come_and_go_with_the_input_are_refused(networks, images):
    class Skipping(Written):
        def forward(self, x):
            y = self.patch(x).flatten(2).mT
            y = self.blocks[0](y)
            if float(x.detach().mean()) > 0.6:
                return self.head(y.mean(1))
            return self.head(self.blocks[1](y).mean(1))

    network = networks.quiet(lambda: networks.lively(Skipping(prefix=0)))
    x = images(2, 3, 16, 16)
    assert create("rollout", network).attribute(x, 0).shape == (2, 1, 16, 16)
    for name in ("rollout", "gae"):
        with pytest.raises(ValueError, match="changes from input to input"):
            create(name, network).attribute(x * 0.2 + 0.8, 0)


def test_relevance_refuses_what_it_has_no_rule_for(networks, images):
    class Sorting(Written):
        def forward(self, x):
            return super().forward(x).cumprod(1)

    network = networks.quiet(lambda: networks.lively(Sorting()))
    x = images(1, 3, 8, 12)
    with pytest.raises(ValueError, match="transformer_attribution has no rule for the operation 'Cumprod'"):
        create("transformer_attribution", network).attribute(x, 0)
    assert create("gae", network).attribute(x, 0).shape == (1, 1, 8, 12)


def test_a_bare_callable_and_a_table_are_refused(images):
    with pytest.raises(ValueError, match="bare callable"):
        create("gae", lambda x: x.mean((2, 3)))
    with pytest.raises(ValueError, match="it explains image and tokens inputs"):
        create("rollout", Model(nn.Linear(4, 2), kind="table"))


def test_the_family_is_listed():
    assert available("attention/*") == NAMES
    assert available("attention/*", targeted=False) == ["attention_rollout", "raw_attention"]
    assert attribution.describe("chefer")["name"] == attribution.describe("generic attention")["name"] == "gae"
    for alias, name in (("rollout", NAMES[0]), ("attention_x_gradient", NAMES[2]), ("beyond_attention", NAMES[4])):
        assert attribution.describe(alias)["name"] == name
