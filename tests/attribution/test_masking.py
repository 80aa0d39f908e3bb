"""Perturbed images: exact at both ends, equal to a naive composition, one stream for everybody."""

import pytest
import torch
from attriscope.attribution import masking
from attriscope.attribution.model import Model
from torch import nn


class Sum(nn.Module):
    """One number per class that tells every pixel apart."""

    def forward(self, x):
        weights = torch.linspace(0.5, 2, x[0].numel(), dtype=x.dtype).reshape(1, -1)
        flat = x.flatten(1)
        return torch.stack([(flat * weights).sum(1), flat.sum(1), flat.amax(1)], 1)


def frozen(model, x, target=0):
    return model.resolve(x, target)


def compose(source, row, items=None, *, dtype=None):
    items = items or slice(0, source.count)
    out = torch.full(
        (items.stop - items.start, *source.images.shape[1:]), float("nan"), dtype=dtype or source.images.dtype
    )
    source.write(out, row, items)
    return out


def make(kind, x, baseline):
    """Each kind of source with the naive version of what it composes: `naive(row, item)`."""
    n, _, height, width = x.shape
    generator = torch.Generator().manual_seed(5)
    full = baseline.expand(n, *x.shape[1:]) if baseline.shape[0] == 1 else baseline.expand(x.shape)

    def mixed(row, keep):
        return keep * x[row] + (1 - keep) * full[row]

    if kind == "masks":
        masks = torch.rand(5, 1, height, width, generator=generator)
        return masking.Masks(x, baseline, lambda items: masks[items], 5), lambda r, i: mixed(r, masks[i].to(x))
    if kind == "coalitions":
        labels = torch.randint(0, 4, (n, height, width), generator=generator)
        keep = torch.rand(n, 6, 4, generator=generator)
        return (
            masking.Coalitions(x, baseline, labels, lambda row, items: keep[row, items], 6),
            lambda r, i: mixed(
                r, torch.tensor([[float(keep[r, i, k]) for k in line] for line in labels[r].tolist()]).to(x)
            ),
        )
    if kind == "bool_coalitions":
        labels = torch.randint(0, 4, (1, height, width), generator=generator)
        keep = torch.rand(6, 4, generator=generator) < 0.5
        return (
            masking.Coalitions(x, baseline, labels, lambda row, items: keep[items], 6),
            lambda r, i: torch.where(keep[i][labels[0]], x[r], full[r]),
        )
    if kind in {"insertion", "deletion"}:
        ranks = torch.stack(
            [torch.randperm(height * width, generator=generator).reshape(height, width) for _ in range(n)]
        )
        cuts = torch.tensor([0, 1, 3, height * width // 2, height * width])
        insert = kind == "insertion"
        return (
            masking.Ranks(x, baseline, ranks, cuts, insert),
            lambda r, i: torch.where((ranks[r] < cuts[i]) == insert, x[r], full[r]),
        )
    if kind == "windows":
        corners = [(0, 0), (0, width - 1), (height - 2, 1), (1, 1)]

        def naive(r, i):
            out = x[r].clone()
            for y in range(corners[i][0], min(corners[i][0] + 2, height)):
                for z in range(corners[i][1], min(corners[i][1] + 3, width)):
                    out[:, y, z] = full[r][:, y, z]
            return out

        return masking.Windows(x, baseline, corners, (2, 3)), naive
    return masking.Clean(x), lambda r, i: x[r]


KINDS = ["masks", "coalitions", "bool_coalitions", "insertion", "deletion", "windows", "clean"]
BASELINES = {
    "number": lambda x: torch.full((1, x.shape[1], 1, 1), 0.3, dtype=x.dtype),
    "channels": lambda x: torch.linspace(0.1, 0.9, x.shape[1], dtype=x.dtype).reshape(1, -1, 1, 1),
    "one": lambda x: x[:1] * 0.5,
    "each": lambda x: x.flip(-1),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("of", BASELINES)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_source_equals_a_naive_composition(images, kind, of, channels):
    x = images(3, channels, 5, 7, dtype=torch.float64)
    source, naive = make(kind, x, BASELINES[of](x))
    for row in range(3):
        found = compose(source, row)
        for item in range(source.count):
            # masks are drawn in float32 and blended in float64: the two ways to write a blend round differently
            torch.testing.assert_close(found[item], naive(row, item), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(
            compose(source, row, slice(1, source.count))[:1], found[1:2], rtol=0, atol=0
        ) if source.count > 1 else None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("kind", ["masks", "coalitions", "bool_coalitions", "insertion", "deletion"])
def test_the_ends_are_exact_to_the_bit(images, kind, dtype):
    x = (images(2, 3, 6, 5) * 3 - 1).to(dtype)
    baseline = (images(2, 3, 6, 5, seed=1) * 1e3).to(dtype)  # far away, so that x0 + 1 * (x - x0) would not be x
    whole = torch.tensor([0.0, 1.0])
    source = {
        "masks": lambda: masking.Masks(x, baseline, lambda s: whole[s].reshape(-1, 1, 1, 1).expand(-1, 1, 6, 5), 2),
        "coalitions": lambda: masking.Coalitions(
            x, baseline, torch.zeros(1, 6, 5, dtype=torch.long), lambda r, s: whole[s, None], 2
        ),
        "bool_coalitions": lambda: masking.Coalitions(
            x, baseline, torch.zeros(1, 6, 5, dtype=torch.long), lambda r, s: whole[s, None] > 0, 2
        ),
        "insertion": lambda: masking.Ranks(
            x, baseline, torch.arange(30).reshape(1, 6, 5).expand(2, -1, -1), torch.tensor([0, 30]), True
        ),
        "deletion": lambda: masking.Ranks(
            x, baseline, torch.arange(30).reshape(1, 6, 5).expand(2, -1, -1), torch.tensor([30, 0]), False
        ),
    }[kind]()
    for row in range(2):
        found = compose(source, row)
        assert torch.equal(found[0], baseline[row])
        assert torch.equal(found[1], x[row])


def test_a_window_larger_than_the_image_covers_it(images):
    x = images(1, 3, 4, 5)
    found = compose(masking.Windows(x, torch.full((1, 3, 1, 1), 0.5), [(0, 0)], (9, 9)), 0)
    assert bool((found == 0.5).all())


def test_a_stand_in_is_evaluated_instead(images):
    x, other = images(2), images(2, seed=3)
    assert torch.equal(compose(masking.Clean(x, other), 1)[0], other[1])
    assert torch.equal(compose(masking.Clean(x, other[:1]), 1)[0], other[0])
    assert bool((compose(masking.Clean(x, torch.full((1, 3, 1, 1), 0.25)), 1) == 0.25).all())


@pytest.mark.parametrize("size", [1, 2, 5, 7, 64, None])
def test_one_stream_over_sources_and_images_whatever_the_batch(images, size):
    x = images(3, 3, 5, 7, dtype=torch.float64)
    model = Model(Sum(), batch_size=size)
    target = frozen(model, x, [0, 1, 2])
    todo = masking.Evaluations(model, target, output="logit")
    made = [make(kind, x, BASELINES["each"](x)) for kind in KINDS]
    tickets = [todo.ask(source) for source, _ in made]
    with model.ledger(3) as ledger:
        todo.run()
    total = sum(source.count for source, _ in made)
    assert ledger.forwards.tolist() == [total] * 3
    network = Sum()
    for (source, naive), ticket in zip(made, tickets, strict=True):
        wanted = torch.stack(
            [torch.stack([network(naive(row, i)[None])[0, row] for i in range(source.count)]) for row in range(3)]
        )
        assert ticket().shape == (3, source.count)
        torch.testing.assert_close(ticket(), wanted, rtol=1e-10, atol=1e-10)  # float64 sums of 105 terms
    assert model.forwards == 3 * total  # asking for the result costs nothing


@pytest.mark.parametrize("size", [1, 4, 16])
def test_batches_are_full(images, size):
    sizes = []

    class Counting(Sum):
        def forward(self, x):
            sizes.append(len(x))
            return super().forward(x)

    x = images(3, 3, 5, 7)
    model = Model(Counting(), batch_size=size, fast=False)
    target = frozen(model, x)
    sizes.clear()
    source, _ = make("masks", x, BASELINES["number"](x))
    masking.evaluate(source, model, target, output="logit")
    assert all(s == size for s in sizes[:-1])
    assert sum(sizes) == 15


def test_the_same_key_is_paid_once(images):
    x = images(2)
    model = Model(Sum())
    todo = masking.Evaluations(model, frozen(model, x), output="logit")
    one, two = todo.ask(masking.Clean(x), key="clean"), todo.ask(masking.Clean(x), key="clean")
    other, more = todo.ask(masking.Clean(x)), todo.ask(masking.Clean(x, x * 0), key="black")
    assert one is two
    todo.run()
    assert model.forwards == 6
    assert torch.equal(one(), other())
    assert not more().any()
    late = todo.ask(masking.Clean(x), key="clean")  # still known
    todo.run()
    assert model.forwards == 6
    assert torch.equal(late(), one())


def test_each_source_may_ask_for_a_score_of_its_own(images):
    x = images(2)
    model = Model(Sum())
    todo = masking.Evaluations(model, frozen(model, x, 1), output="logit")
    logit, again = todo.ask(masking.Clean(x), key="clean"), todo.ask(masking.Clean(x), key="clean", output="logit")
    margin = todo.ask(masking.Clean(x), key="clean", output="margin")
    todo.run()
    assert model.forwards == 4
    torch.testing.assert_close(logit(), model.scores(x, 1)[:, None])
    torch.testing.assert_close(margin(), model.scores(x, 1, output="margin")[:, None])
    assert again() is logit() or torch.equal(again(), logit())


def test_progress_is_told_of_every_evaluation(images):
    x, heard = images(3, 3, 5, 7), []
    model = Model(Sum(), batch_size=4)
    target = frozen(model, x)
    source, _ = make("masks", x, BASELINES["number"](x))
    with model.listen(heard.append):
        masking.evaluate(source, model, target, output="logit")
        model.gradients(x, target)
    model.scores(x, target)
    assert sum(heard) == 15 + 2 * 3
    assert len(heard) >= 4


def test_a_ticket_runs_what_waits(images):
    x = images(2)
    model = Model(Sum())
    todo = masking.Evaluations(model, frozen(model, x), output="logit")
    ticket = todo.ask(masking.Clean(x))
    torch.testing.assert_close(ticket()[:, 0], model.scores(x, 0))


def test_part_of_a_source(images):
    x = images(3, 3, 5, 7)
    model = Model(Sum(), batch_size=4)
    source, _ = make("coalitions", x, BASELINES["number"](x))
    target = frozen(model, x, 1)
    whole = masking.evaluate(source, model, target, output="logit")
    torch.testing.assert_close(masking.evaluate(source, model, target, output="logit", start=2, stop=5), whole[:, 2:5])
    torch.testing.assert_close(masking.evaluate(source, model, target, output="logit", start=4), whole[:, 4:])


def test_nothing_to_evaluate_is_no_error(images):
    x = images(2)
    model = Model(Sum())
    empty = masking.Windows(x, torch.zeros(1, 3, 1, 1), [], (2, 2))
    assert masking.evaluate(empty, model, frozen(model, x), output="logit").shape == (2, 0)
    todo = masking.Evaluations(model, frozen(model, x), output="logit")
    none, some = todo.ask(empty), todo.ask(masking.Clean(x))
    todo.run()
    assert none().shape == (2, 0)
    assert some().shape == (2, 1)


@pytest.mark.parametrize("shape", [(3, 6), (3, 4, 6)])
def test_tables_and_tokens_are_streamed_too(shape):
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    model = Model(Sum(), kind="table" if len(shape) == 2 else "tokens", batch_size=2)
    scores = masking.evaluate(masking.Clean(x), model, frozen(model, x), output="logit")
    torch.testing.assert_close(scores[:, 0], Sum()(x)[:, 0])


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_it_works_without_gradients(images, context):
    x = images(2)
    model = Model(Sum())
    source, _ = make("masks", x, BASELINES["number"](x))
    wanted = masking.evaluate(source, model, frozen(model, x), output="logit")
    with context():
        torch.testing.assert_close(masking.evaluate(source, model, frozen(model, x), output="logit"), wanted)
