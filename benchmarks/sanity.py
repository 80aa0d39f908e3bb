"""Randomization checks on photographs: what depends on the weights, and what a cascade looks like."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attriscope import attribution, metrics, visualization
from attriscope.cli.models import Loaded
from attriscope.metrics.photographs import decode
from torch import Tensor

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "gradient": ("gradient", {}),
    "smooth_grad": ("smooth_grad", {"samples": 10}),
    "input_x_gradient": ("input_x_gradient", {}),
    "guided_backprop": ("guided_backprop", {}),
    "grad_cam": ("grad_cam", {}),
    "guided_grad_cam": ("guided_grad_cam", {}),
    "layer_cam": ("layer_cam", {}),
}
CONTROLS = ("edge", "input", "random")
RANDOMIZATION = "model_randomization"
JUDGES = (RANDOMIZATION, "efficient_mprt", "random_logit", "srg")

__all__ = ["run"]


def run(loaded: Loaded, files: Sequence[Path], labels: Sequence[int], out: Path, *, jobs: int, shown: int) -> str:
    """Randomize, compare, report, and draw the cascade and the curves into `out`.

    Args:
        loaded: The model.
        files: Photographs that it gets right, and
        labels: their classes, which are explained.
        out: The folder of the study; what is in it already is not done again.
        jobs: Processes.
        shown: Which photograph the cascade shows.
    """
    study = metrics.compare(
        loaded.model,
        list(files),
        list(labels),
        attributors={**METHODS, **{name: (name, {}) for name in CONTROLS}},
        metrics=JUDGES,
        out=out,
        jobs=jobs,
        preparation=loaded.preparation,
        classes=loaded.classes,
    )
    report = metrics.sanity_report(study)
    image = loaded.preparation.apply(decode(files[shown]))
    stages = _cascade(loaded, image, labels[shown], study.label(shown), out / "cascade.png")
    _curves(study, stages, out / "curves.png")
    others = study.summary().loc[["efficient_mprt", "random_logit"], ["mean", "low", "high", "undefined"]]
    tables = [t.to_string(float_format="{:.3f}".format) for t in (report.table, others)]
    return "\n\n".join([f"{len(study)} images", *tables, str(report)])


def _cascade(loaded: Loaded, image: Tensor, label: int, called: str, path: Path) -> list[str]:
    """Draw one photograph's maps by random networks; the names of the stages come back."""
    judge = metrics.ModelRandomization()
    maps, alike, stages = {}, {}, []
    for name, (method, options) in {**METHODS, "edge": ("edge", {})}.items():
        made = attribution.create(method, loaded.model, **options)
        stages, found = judge.maps_by_stage(made, image[None], [label])
        maps[name] = found[0]
        alike[name] = metrics.similarity(found[0, :1].expand_as(found[0, 1:]), found[0, 1:])
    visualization.cascade(image, maps, stages=stages, similarities=alike, label=called).savefig(path)
    return stages


def _curves(study: metrics.Study, stages: Sequence[str], path: Path) -> None:
    """Draw the similarities of all photographs against the stages."""
    rows = study.scores[study.scores["metric"] == RANDOMIZATION]
    ends = {end: {m: each[end].to_numpy() for m, each in rows.groupby("method")} for end in ("ceiling", "floor")}
    curves = {method: study.curves[method, RANDOMIZATION][1] for method in study.methods}
    figure = visualization.similarity_curves(curves, stages=stages, controls=CONTROLS, **ends)
    figure.savefig(path)
