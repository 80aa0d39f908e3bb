"""Subset selection on photographs: searches and their rivals under every baseline, and on what the network got wrong."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from attriscope import metrics
from attriscope.cli.models import Loaded
from attriscope.metrics.statistics import interval

BASELINES = ("black", "mean", "blur")
ALL = {"baseline": BASELINES}
GUIDED = {"search": "guided", "preset": "lima", "confidence": 0.0}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "random": ("random", {}),
    "occlusion": ("occlusion", {}),
    "rise": ("rise", {}),
    "sobol": ("sobol", {}),
    "hsic": ("hsic", {}),
    "submodular on mean": ("submodular", {}),
    "lima on mean": ("lima", {}),
    "lima on blur": ("lima", {"baseline": "blur"}),
    "lima on mean, 5 to 20": ("lima", {"consistency": 5.0, "collaboration": 20.0}),
    "guided on mean": ("submodular", GUIDED),
    "guided on all three": ("submodular", {**GUIDED, **ALL}),
}
CLAIMS = (  # the paired tests that are printed, of all that p is corrected for
    ("lima on mean", "hsic"),
    ("lima on mean", "rise"),
    ("lima on blur", "rise"),
    ("lima on mean", "submodular on mean"),
    ("lima on mean", "lima on mean, 5 to 20"),
    ("guided on mean", "lima on mean"),
    ("guided on all three", "lima on mean"),
    ("guided on all three", "rise"),
)
CURVES = ("insertion", "deletion")
HIGHEST = "average_highest_confidence"

__all__ = ["run"]


def run(
    loaded: Loaded, files: Sequence[Path], labels: Sequence[int], wrong: Sequence[bool], out: Path, *, jobs: int
) -> str:
    """Explain the true class of every photograph by every method, score the maps, and print tables.

    Args:
        loaded: The model.
        files: Photographs, and
        labels: their true classes.
        wrong: Which of them the network calls something else.
        out: The folder of the study; what is in it already is not done again.
        jobs: Processes.
    """
    study = metrics.compare(
        loaded.model,
        list(files),
        labels,
        attributors=METHODS,
        metrics=[*CURVES, HIGHEST],
        baselines=BASELINES,
        out=out,
        jobs=jobs,
        preparation=loaded.preparation,
        classes=loaded.classes,
    )
    some = [i for i, bad in enumerate(wrong) if bad]
    highest = [m for m in study.metrics if m.startswith(HIGHEST)]
    tables = [_pairs(study, f"{c} ({b})") for c in CURVES for b in BASELINES]
    return "\n\n".join([_means(study, some), *tables, *(_apart(study, m, some) for m in highest)])


def _means(study: metrics.Study, some: Sequence[int]) -> str:
    """Costs, and means with 95% intervals: of curves over all images, of the highest confidence over some."""
    cost = study.costs.groupby("method")[["forwards", "backwards", "seconds"]].mean()
    rows = {}
    for method in study.methods:
        evaluations = cost.loc[method, ["forwards", "backwards"]].sum()
        row = {"evaluations": f"{evaluations:.0f}", "seconds": f"{cost.loc[method, 'seconds']:.1f}"}
        for metric in study.metrics:
            values = _scores(study, method, metric, some if metric.startswith(HIGHEST) else None).dropna().to_numpy()
            low, high = interval(values[:, None])
            row[metric] = f"{values.mean():.3f} [{float(low[0]):.3f}, {float(high[0]):.3f}]"
        rows[method] = row
    table = pd.DataFrame(rows)
    return f"{len(study.names)} images; {HIGHEST} on the {len(some)} that are called something else\n\n{table.T.to_string()}"


def _scores(study: metrics.Study, method: str, metric: str, some: Sequence[int] | None) -> "pd.Series[float]":
    """Scores by image."""
    rows = study.scores[(study.scores["method"] == method) & (study.scores["metric"] == metric)]
    scores = rows.set_index("image")["score"]
    return scores if some is None else scores[scores.index.isin(some)]


def _pairs(study: metrics.Study, metric: str) -> str:
    """The paired tests of `CLAIMS` under one metric."""
    found = study.pairs(metric)
    asked = [{a, b} in map(set, CLAIMS) for a, b in zip(found["a"], found["b"], strict=True)]
    shown = found.loc[asked, ["a", "b", "difference", "low", "high", "p_holm", "better"]]
    return f"{metric}: a is better\n\n" + shown.to_string(index=False, float_format="{:.3f}".format)


def _apart(study: metrics.Study, metric: str, some: Sequence[int]) -> str:
    """The differences of `CLAIMS` on some images, with intervals."""
    rows = []
    for a, b in CLAIMS:
        difference = (_scores(study, a, metric, some) - _scores(study, b, metric, some)).dropna().to_numpy()
        low, high = interval(difference[:, None])
        rows.append({"a": a, "b": b, "a - b": difference.mean(), "low": float(low[0]), "high": float(high[0])})
    table = pd.DataFrame(rows)
    return f"{metric}, on the {len(some)}\n\n" + table.to_string(index=False, float_format="{:.3f}".format)
