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
    return "\n\n".join([_means(study, wrong), *(_pairs(study, f"{c} ({b})") for c in CURVES for b in BASELINES)])


def _means(study: metrics.Study, wrong: Sequence[bool]) -> str:
    """Costs, and means with 95% intervals: of curves over all images, of the highest confidence over wrong predictions."""
    cost = study.costs.groupby("method")[["forwards", "backwards", "seconds"]].mean()
    some = [i for i, bad in enumerate(wrong) if bad]
    rows = {}
    for method in study.methods:
        row = {"evaluations": f"{cost.loc[method, ['forwards', 'backwards']].sum():.0f}"}
        for metric in study.metrics:
            scores = study.scores[(study.scores["method"] == method) & (study.scores["metric"] == metric)]
            if metric.startswith(HIGHEST):
                scores = scores[scores["image"].isin(some)]
            values = scores["score"].dropna().to_numpy()
            low, high = interval(values[:, None])
            row[metric] = f"{values.mean():.3f} [{float(low[0]):.3f}, {float(high[0]):.3f}]"
        rows[method] = row
    table = pd.DataFrame(rows).T
    return f"{len(study.names)} images; {HIGHEST} on the {len(some)} that are called something else\n\n{table.to_string()}"


def _pairs(study: metrics.Study, metric: str) -> str:
    """Paired tests under one metric."""
    found = study.pairs(metric)
    shown = found[["a", "b", "difference", "low", "high", "p_holm", "better"]]
    return f"{metric}\n\n" + shown.to_string(index=False, float_format="{:.3f}".format)
