"""What every metric must keep, as checks that anybody can run on their own: `metrics.check("insertion")`."""

import math
import pickle
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from attriscope.attribution.conformance import Detector, run_all
from attriscope.attribution.masking import Evaluations
from attriscope.attribution.model import Model
from torch import Tensor

from .metric import REGISTRY, Metric

SIZE = 16

__all__ = ["CHECKS", "Case", "check", "checks"]


class Case:
    """One metric on images whose object is known.

    Args:
        cls: The class.
        options: Its options.
    """

    def __init__(self, cls: type[Metric], options: dict[str, Any]) -> None:
        self.cls, self.options = cls, options

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

    def score(self, maps: Tensor, model: Model | None = None, **more: Any) -> Tensor:
        """Scores of maps for class 1."""
        return self.make(**more).score(model or self.model(), self.images(len(maps)), maps, target=1)


def check_shape(case: Case) -> None:
    """One float64 number per image, within the range that is declared."""
    scores = case.score(case.perfect())
    assert scores.shape == (3,), f"3 images gave scores of shape {tuple(scores.shape)}"
    assert scores.dtype == torch.float64, f"scores are {scores.dtype}, not float64"
    low, high = case.cls.range
    assert bool(((scores >= low) & (scores <= high)).all()), f"scores {scores.tolist()} leave the range [{low}, {high}]"


def check_direction(case: Case) -> None:
    """A perfect map is better than a random one, and that better than a perverse one."""
    sign = 1 if case.cls.higher_is_better else -1
    perfect, chance, perverse = (sign * case.score(m).mean() for m in (case.perfect(), case.random(), -case.perfect()))
    assert perfect > chance > perverse, f"perfect {perfect:.3f}, random {chance:.3f}, perverse {perverse:.3f}"


def check_batch_equals_singles(case: Case) -> None:
    """A batch gives what its images give one by one, at any batch size."""
    maps, images = case.random(), case.images()
    together = case.score(maps, case.model(batch_size=64))
    alone = torch.cat(
        [case.make().score(case.model(batch_size=1), images[i : i + 1], maps[i : i + 1], target=1) for i in range(3)]
    )
    worst = float((together - alone).abs().max())
    assert worst < 1e-5, f"they differ by {worst:.1e}"


def check_undefined(case: Case) -> None:
    """A constant map is NaN with a warning, never a number."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scores = case.score(torch.full((2, 1, SIZE, SIZE), 0.5))
    assert all(math.isnan(s) for s in scores.tolist()), f"constant maps got {scores.tolist()}"
    assert any("2 of 2" in str(w.message) for w in caught), "nobody was told how many maps are undefined"


def check_bad_input(case: Case) -> None:
    """Maps that are not finite or do not fit are refused."""
    good = case.random()
    for bad in (good * float("nan"), good / 0, good[:2], good[..., :-1], (good * 9).long()):
        try:
            case.make().score(case.model(), case.images(), bad, target=1)
        except (ValueError, TypeError):
            continue
        raise AssertionError(f"maps {tuple(bad.shape)} {bad.dtype} were accepted")


def check_cost(case: Case) -> None:
    """What is spent is what `cost` says."""
    model = case.model()
    with model.ledger(3) as ledger:
        case.score(case.random(), model)
    expected = case.make().cost((3, SIZE, SIZE))
    assert ledger.forwards.tolist() == [expected] * 3, f"{ledger.forwards.tolist()} forwards, {expected} promised"


def check_shared(case: Case) -> None:
    """Asked together with another map, it gives the same and costs no more."""
    model, images = case.model(), case.images()
    alone = case.score(case.random(), model)
    todo = Evaluations(model, model.resolve(images, 1))
    finish = [case.make().prepare(todo, images, m[:, 0]) for m in (case.random(), case.perfect())]
    with model.ledger(3) as ledger:
        todo.run()
    assert torch.allclose(finish[0]().scores, alone, atol=1e-6), "its scores change in company"
    assert int(ledger.forwards.max()) <= 2 * case.make().cost((3, SIZE, SIZE)), "it costs more in company"


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
