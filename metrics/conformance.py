"""What every metric must keep, as checks that anybody can run on their own: `metrics.check("insertion")`."""

import math
import pickle
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from attriscope.attribution import attributor as methods
from attriscope.attribution.attributor import Attributor
from attriscope.attribution.conformance import Detector, run_all
from attriscope.attribution.masking import Evaluations
from attriscope.attribution.model import Model
from torch import Tensor

from .metric import REGISTRY, MapMetric, MethodMetric, Metric, UnitMetric

SIZE = 16

__all__ = ["CHECKS", "Case", "check", "checks"]


class Case:
    """One metric on images whose object is known.

    Args:
        cls: The class.
        options: Its options; the class's `small` are the default.
    """

    def __init__(self, cls: type[Metric], options: dict[str, Any]) -> None:
        self.cls, self.options = cls, {**cls.small, **options}

    def make(self, **more: Any) -> Metric:
        """The metric."""
        return self.cls(**{**self.options, **more})

    def model(self, **more: Any) -> Model:
        """A network for which class 1 is what is red."""
        return Model(Detector().eval(), **{"bounds": (0.0, 1.0), "mean": (0.2, 0.2, 0.2), **more})

    def images(self, n: int = 3) -> Tensor:
        """Grey noise with a red block in the upper left."""
        x = (
            0.2
            + 0.1
            * torch.rand(n, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(3)).expand(-1, 3, -1, -1).clone()
        )
        x[:, 0, : SIZE // 2, : SIZE // 2] += 0.6
        return x

    def perfect(self, n: int = 3) -> Tensor:
        """Maps that put the object first, every pixel with a value of its own."""
        maps = 1e-3 * torch.rand(n, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(4))
        maps[:, :, : SIZE // 2, : SIZE // 2] += 1
        return maps

    def random(self, n: int = 3) -> Tensor:
        """Maps that know nothing."""
        return torch.rand(n, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(5))

    def annotations(self, n: int = 3) -> dict[str, Any]:
        """Where the object is."""
        mask = torch.zeros(n, SIZE, SIZE, dtype=torch.bool)
        mask[:, : SIZE // 2, : SIZE // 2] = True
        return {"mask": mask}

    def method(self, model: Model | None = None) -> Attributor:
        """A method for `MethodMetric`."""
        return methods.create("input_x_gradient", model or self.model())

    def units(self, metric: UnitMetric, **more: Any) -> Tensor:
        """Scores of a method by a metric that has an example of its own."""
        model, given = metric.example(**more)
        found: Tensor = metric.score(self.method(model), *given)
        return found

    def score(self, maps: Tensor, model: Model | None = None, **more: Any) -> Tensor:
        """Scores of maps for class 1; a metric that runs methods scores one, and the maps only say how many images."""
        made, images = self.make(**more), self.images(len(maps))
        if isinstance(made, UnitMetric):
            return self.units(made)
        if isinstance(made, MethodMetric):
            return made.score(self.method(model), images, target=1)
        assert isinstance(made, MapMetric)
        return made.score(model or self.model(), images, maps, target=1, annotations=self.annotations(len(maps)))


def check_shape(case: Case) -> None:
    """One float64 number per image or unit, within the range that is declared."""
    scores = case.score(case.perfect())
    if issubclass(case.cls, UnitMetric):
        assert scores.ndim == 1, f"scores of shape {tuple(scores.shape)} are not one for each of {case.cls.unit}"
        assert len(scores), f"there are no scores of {case.cls.unit}"
    else:
        assert scores.shape == (3,), f"3 images gave scores of shape {tuple(scores.shape)}"
    assert scores.dtype == torch.float64, f"scores are {scores.dtype}, not float64"
    assert not scores.isnan().any(), f"scores of good maps are undefined: {scores.tolist()}"
    low, high = case.cls.range
    assert bool(((scores >= low) & (scores <= high)).all()), f"scores {scores.tolist()} leave the range [{low}, {high}]"


def check_repeatable(case: Case) -> None:
    """Asked twice, it says the same, and the global generator is as before."""
    model = case.model()
    state = torch.get_rng_state()
    first, second = case.score(case.random(), model), case.score(case.random(), model)
    assert torch.equal(first, second), f"{first.tolist()}, and the second time {second.tolist()}"
    assert torch.equal(torch.get_rng_state(), state), "it drew from the global generator"


def check_direction(case: Case) -> None:
    """A perfect map is better than a random one, and that no worse than a perverse one, which may be undefined."""
    if not issubclass(case.cls, MapMetric) or not case.cls.faithful:
        return
    sign = 1 if case.cls.higher_is_better else -1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a map that speaks against the object may have nothing that a metric counts
        perverse = sign * case.score(-case.perfect()).mean()
    perfect, chance = (sign * case.score(m).mean() for m in (case.perfect(), case.random()))
    ordered = perfect > chance and not perverse > chance
    assert ordered, f"perfect {perfect:.3f}, random {chance:.3f}, perverse {perverse:.3f}"


def check_scale(case: Case) -> None:
    """What is said to rank takes the order alone: an increasing function of the map changes nothing."""
    if not issubclass(case.cls, MapMetric) or not case.cls.ranks:
        return
    maps = case.random().double()
    assert torch.allclose(case.score(maps), case.score((3 * maps).exp()), atol=1e-6), "exp(map) has another score"


def check_batch_equals_singles(case: Case) -> None:
    """A batch gives what its images give one by one, at any batch size."""
    made = case.make()
    if isinstance(made, UnitMetric):
        worst = float((case.units(made, batch_size=64) - case.units(made, batch_size=1)).abs().max())
        assert worst < 1e-5, f"they differ by {worst:.1e}"
        return
    maps, images, notes = case.random(), case.images(), case.annotations()["mask"]
    together = case.score(maps, case.model(batch_size=64))
    model = case.model(batch_size=1)
    alone = []
    for i in range(3):
        one = slice(i, i + 1)
        if isinstance(made, MethodMetric):
            alone.append(made.score(case.method(model), images[one], target=1))
        elif isinstance(made, MapMetric):
            alone.append(made.score(model, images[one], maps[one], target=1, annotations={"mask": notes[one]}))
    worst = float((together - torch.cat(alone)).abs().max())
    assert worst < 1e-5, f"they differ by {worst:.1e}"


def check_undefined(case: Case) -> None:
    """A constant map is NaN with a warning, never a number; or it has a score, where the metric says so."""
    if not issubclass(case.cls, MapMetric):
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scores = case.score(torch.full((2, 1, SIZE, SIZE), 0.5))
    if case.cls.constant == "scored":
        assert not scores.isnan().any(), "a constant map has no score"
        return
    assert all(math.isnan(s) for s in scores.tolist()), f"constant maps got {scores.tolist()}"
    assert any("2 of 2" in str(w.message) for w in caught), "nobody was told how many maps are undefined"


def check_bad_input(case: Case) -> None:
    """Maps that are not finite or do not fit are refused."""
    if not issubclass(case.cls, MapMetric):
        try:
            rerun: Any = case.make()
            given = rerun.example()[1] if isinstance(rerun, UnitMetric) else (case.images(),)
            rerun.score(torch.nn.Identity(), *given)
        except TypeError:
            return
        raise AssertionError("a network was taken for a method")
    made, good = case.make(), case.random()
    assert isinstance(made, MapMetric)
    for bad in (good * float("nan"), good / 0, good[:2], good[..., :-1], (good * 9).long()):
        try:
            made.score(case.model(), case.images(), bad, target=1, annotations=case.annotations())
        except (ValueError, TypeError):
            continue
        raise AssertionError(f"maps {tuple(bad.shape)} {bad.dtype} were accepted")


def check_cost(case: Case) -> None:
    """What is spent is what `cost` says, and for each explanation what the method says, or no more where they are bounds."""
    made = case.make()
    if isinstance(made, UnitMetric):
        return  # its example is as large as it pleases: what it spends is for its own tests
    model = case.model()
    maps = case.random()
    with model.ledger(3) as ledger:
        case.score(maps, model)
    forwards = [made.cost((3, SIZE, SIZE))] * 3
    backwards = [0] * 3
    if isinstance(made, MethodMetric):
        own = type(case.method()).cost((3, SIZE, SIZE), **case.method().params)
        forwards = [f + (made.explanations + 1) * own.forwards for f in forwards]  # and the maps themselves
        backwards = [(made.explanations + 1) * own.backwards] * 3
    if made.at_most:
        forwards = torch.minimum(ledger.forwards, torch.tensor(forwards)).tolist()
        backwards = torch.minimum(ledger.backwards, torch.tensor(backwards)).tolist()
    assert ledger.forwards.tolist() == forwards, f"{ledger.forwards.tolist()} forwards, {forwards} promised"
    assert ledger.backwards.tolist() == backwards, f"{ledger.backwards.tolist()} backwards, {backwards} promised"


def check_shared(case: Case) -> None:
    """Asked together with another map, it gives the same and costs no more."""
    made = case.make()
    if not isinstance(made, MapMetric):
        return
    model, images = case.model(), case.images()
    alone = case.score(case.random(), model)
    todo = Evaluations(model, model.resolve(images, 1), mask=made.annotated(case.annotations(), images))
    channels = slice(None) if made.keeps_channels else 0
    finish = [made.prepare(todo, images, m[:, channels]) for m in (case.random(), case.perfect())]
    with model.ledger(3) as ledger:
        todo.run()
    assert torch.allclose(finish[0]().scores, alone, atol=1e-6), "its scores change in company"
    assert int(ledger.forwards.max()) <= 2 * made.cost((3, SIZE, SIZE)), "it costs more in company"


def check_round_trip(case: Case) -> None:
    """`params`, `repr`, equality and pickle."""
    made = case.make()
    assert case.cls(**made.params) == made, "its params do not make it again"
    assert pickle.loads(pickle.dumps(made)) == made, "a pickled copy differs"  # noqa: S301  our own bytes
    assert made.name in repr(made), "its repr does not name it"


CHECKS: dict[str, Callable[[Case], None]] = {
    name.removeprefix("check_"): function for name, function in list(globals().items()) if name.startswith("check_")
}


def checks(metric: str | type[Metric], **options: Any) -> Iterator[tuple[str, Callable[[], None]]]:
    """The conformance checks of one metric, by name, for `pytest.mark.parametrize`."""
    cls = REGISTRY.find(metric) if isinstance(metric, str) else metric
    case = Case(cls, options)
    for name, function in CHECKS.items():
        yield name, lambda function=function: function(case)  # type: ignore[misc]


def check(metric: str | type[Metric], **options: Any) -> list[str]:
    """Run the whole conformance suite on one metric.

    Args:
        metric: A registered name, or a registered class.
        options: Its options.

    Returns:
        The names of the checks that it passed.

    Raises:
        AssertionError: It broke some; the message names each and says how.

    Example:
        >>> "direction" in check("deletion")
        True
    """
    return run_all(str(metric), checks(metric, **options))
