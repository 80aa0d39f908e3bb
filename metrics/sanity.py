"""What randomized networks say of methods, with what must stand beside it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from attriscope.attribution.attributor import REGISTRY as METHODS

from . import statistics
from .study import Study

RANDOMIZED = ("model_randomization", "smooth_mprt")
STEADY = 0.5  # a method less alike than this to itself, run again, cannot be asked
LITTLE, MOST = 0.1, 0.5  # of its likeness to itself: a method that loses less does not change, one that loses more does
ALIKE = 0.3  # two random networks' maps that are more alike than this are worth a word

__all__ = ["SanityReport", "sanity_report"]


@dataclass(frozen=True)
class SanityReport:
    """Randomization and faithfulness of every method, side by side, and what follows.

    Attributes:
        table: One row per method, in the study's order: `similarity` to the trained network's map over all random stages,
            with `low` and `high`; `ceiling`, `floor`, `survival`, `spread` and `undefined` as in `model_randomization`;
            `change`, the share of the ceiling that is lost, with `change_low` and `change_high`; `srg` with
            `srg_low` and `srg_high`, NaN where the study has none; and `control`, whether it is one.
        conclusions: A sentence for each method.
        metric: The randomization's label in the study.
    """

    table: pd.DataFrame
    conclusions: dict[str, str]
    metric: str

    def __str__(self) -> str:
        wide = max(map(len, self.conclusions))
        lines = [f"{method:<{wide}}  {sentence}" for method, sentence in self.conclusions.items()]
        return "\n".join([*lines, "", CAUTION])


CAUTION = (
    "A method that passes depends on the weights; that does not make its maps right, and no method is better than another "
    "for changing more: below random layers the strengths of channels survive, and maps that use them must stay partly alike."
)


def sanity_report(
    study: Study, *, metric: str | None = None, faithfulness: str | None = None, controls: Sequence[str] | None = None
) -> SanityReport:
    """Say what a study's randomization can and cannot conclude of each method.

    A method depends on the weights if its maps of random networks lose, by the interval over images, at least half of its
    ceiling (how alike it is to itself, run again with another seed); it does not if they lose less than a tenth. The floor,
    how alike its maps of two random networks are, is not taken off: guided backprop's are alike by .5, which is no merit.
    A method that is not alike to itself, or whose maps of random networks are all undefined, cannot be asked. Since noise
    that no seed holds changes as well, what passes is looked at by SRG too, which noise has at 0.

    Args:
        study: Of `metrics.compare`, with `"model_randomization"` or `"smooth_mprt"` among its metrics, and `"srg"` too.
        metric: The label of the first; `None`: the only one that there is.
        faithfulness: The label of the second; `None`: the only SRG, if there is one.
        controls: Labels of methods that look at no model; `None`: those of the family `control`.

    Raises:
        ValueError: The study has no such metric, or several and none is named.

    Example:
        >>> import torch
        >>> from attriscope import metrics
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(16, 2))
        >>> study = metrics.compare(
        ...     network, torch.rand(4, 3, 4, 4), 0, attributors=["edge"], metrics=[metrics.create("model_randomization")]
        ... )
        >>> print(metrics.sanity_report(study).conclusions["edge"])
        does not change when the weights are drawn anew, as a control should not: it shows the image.
    """
    label, srg = _label(study, metric, RANDOMIZED), _label(study, faithfulness, ("srg",))
    if label is None:
        raise ValueError("this study has no 'model_randomization': add it to metrics=, and 'srg' beside it")
    rows, conclusions = {}, {}
    for method, described in study.methods.items():
        control = method in controls if controls is not None else _is_control(described)
        row = {**_randomized(study, method, label), **_faithful(study, method, srg), "control": control}
        rows[method] = row
        conclusions[method] = _conclusion(row, srg=srg is not None)
    return SanityReport(pd.DataFrame.from_dict(rows, orient="index"), conclusions, label)


def _label(study: Study, given: str | None, names: Sequence[str]) -> str | None:
    """The metric that was given, or the one of these names."""
    found = [label for label, facts in study.metrics.items() if facts["name"] in names]
    if given is None and len(found) > 1:
        raise ValueError(f"this study has {' and '.join(map(repr, found))}: say which, with metric= or faithfulness=")
    if given is not None and given not in found:
        raise ValueError(f"{given!r} is not one of this study's: {', '.join(map(repr, found)) or 'it has none'}")
    return found[0] if given is None and found else given


def _is_control(described: dict[str, Any]) -> bool:
    name = described.get("name")
    return name in METHODS.names() and METHODS.find(name).facts.family == "control"


def _table(study: Study, method: str, metric: str) -> pd.DataFrame:
    return study.scores[(study.scores["method"] == method) & (study.scores["metric"] == metric)]


def _randomized(study: Study, method: str, label: str) -> dict[str, float]:
    """Means, and the share of the ceiling that is lost, with the interval of a ratio whose lower part is held fixed."""
    own = _table(study, method, label)
    row = {"similarity": own["score"].mean()}
    row["low"], row["high"] = _interval(own["score"])
    row |= {name: own[name].mean() for name in ("ceiling", "floor", "survival", "spread", "undefined")}
    left = own["ceiling"] - own["score"]
    row["change"] = left.mean() / row["ceiling"]
    # what each image leaves more or less than the mean share, as for a ratio of two means
    low, high = _interval(left - row["change"] * own["ceiling"])
    row["change_low"], row["change_high"] = (row["change"] + end / row["ceiling"] for end in (low, high))
    return row


def _faithful(study: Study, method: str, label: str | None) -> dict[str, float]:
    if label is None:
        return dict.fromkeys(("srg", "srg_low", "srg_high"), np.nan)
    scores = _table(study, method, label)["score"]
    low, high = _interval(scores)
    return {"srg": scores.mean(), "srg_low": low, "srg_high": high}


def _interval(scores: pd.Series) -> tuple[float, float]:
    """Over the images for which a score is defined."""
    known = scores.dropna().to_numpy()
    if not len(known):
        return np.nan, np.nan
    low, high = statistics.interval(known)
    return float(low), float(high)


def _conclusion(row: dict[str, Any], *, srg: bool) -> str:
    """What follows for a method, in a sentence."""
    if np.isnan(row["similarity"]):
        return "cannot be asked: none of its maps of random networks has a similarity."
    if row["ceiling"] < STEADY:
        return f"cannot be asked: run again with another seed, it is not alike to itself ({row['ceiling']:.2f})."
    return _judged(row, srg=srg) + _left_out(row)


def _judged(row: dict[str, Any], *, srg: bool) -> str:
    if row["change_high"] < LITTLE:
        why = (
            "as a control should not: it shows the image."
            if row["control"]
            else "so it does not show what was learned."
        )
        return f"does not change when the weights are drawn anew, {why}"
    alike = f" Maps of two random networks are alike by {row['floor']:.2f}." if row["floor"] > ALIKE else ""
    change = (
        f"{row['change']:.0%} [{row['change_low']:.0%}, {row['change_high']:.0%}] of its likeness to itself is lost"
    )
    if not row["change_low"] >= MOST:
        return f"depends on the weights in part: {change}. What stays is not what was learned.{alike}"
    if not srg:
        return f"depends on the weights: {change}. The study has no SRG, by which noise would be told.{alike}"
    value = f"SRG {row['srg']:.3f} [{row['srg_low']:.3f}, {row['srg_high']:.3f}]"
    if row["srg_low"] > 0:
        return f"depends on the weights: {change}. Noise would too, but its {value} is above 0.{alike}"
    return f"depends on the weights: {change}. So does noise, and its {value} is not above 0: nothing speaks for it.{alike}"


def _left_out(row: dict[str, Any]) -> str:
    count = row["undefined"]
    return f" {count:.1f} maps of random networks for each image are undefined and left out." if count else ""
