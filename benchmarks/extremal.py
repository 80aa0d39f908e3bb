"""Extremal perturbations on photographs: short searches against full ones, and their map against RISE's."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import joblib
import pandas as pd
import torch
from attriscope import attribution, metrics
from attriscope.attribution import baselines
from attriscope.cli.models import Loaded
from attriscope.metrics.photographs import decode
from attriscope.metrics.statistics import interval
from safetensors.torch import load_file, save_file
from torch import Tensor

METHOD = "extremal_perturbation"
FULL = "all steps, each area by itself"
SEARCHES: dict[str, dict[str, Any]] = {METHOD: {}, FULL: {"continuation": False, "tolerance": 0.0}}
RISE = {"masks": 4000}
SMOOTH = 20.0  # pixels of 224: the paper's 9% of the side, where it looks for a map's highest point
SMOOTHED = f"{METHOD}, smooth={SMOOTH:g}"
BASELINES = ("blur", "mean", "black")
KEPT = ("masks", "rewards", "regularisers", "steps", "whole", "hidden")

__all__ = ["run"]


def run(loaded: Loaded, files: Sequence[Path], labels: Sequence[int], out: Path, *, jobs: int, full: int | None) -> str:
    """Search, score and compare; what is in `out` already is not done again.

    Args:
        loaded: The model.
        files: Photographs that it gets right.
        labels: Their classes.
        out: The folder of the study.
        jobs: Processes.
        full: How many of the images are searched in full as well; `None`: all.
    """
    many = {METHOD: len(files), FULL: len(files) if full is None else full}
    found = {
        name: _search(
            loaded, files[: many[name]], labels[: many[name]], out / f"search {i}", options=options, jobs=jobs
        )
        for i, (name, options) in enumerate(SEARCHES.items())
    }
    study = metrics.compare(
        loaded.model,
        list(files),
        "label",
        attributors={
            "rise": ("rise", RISE),
            SMOOTHED: attribution.from_maps(
                baselines.gaussian_blur(_maps(found[METHOD]), SMOOTH), loaded.model, name=SMOOTHED
            ),
            **{
                name: attribution.from_maps(_maps(each), loaded.model, name=name)
                for name, each in found.items()
                if len(each) == len(files)
            },
        },
        metrics=["insertion", "deletion"],
        baselines=BASELINES,
        out=out / "study",
        jobs=jobs,
        preparation=loaded.preparation,
        classes=loaded.classes,
    )
    return "\n\n".join([_searches(found), _scores(study), _pairs(study)])


def _maps(found: list[dict[str, Tensor]]) -> Tensor:
    """The sums of masks, `(N, 1, H, W)`."""
    return torch.stack([one["masks"].sum(0) for one in found])[:, None]


def _search(
    loaded: Loaded, files: Sequence[Path], labels: Sequence[int], out: Path, *, options: dict[str, Any], jobs: int
) -> list[dict[str, Tensor]]:
    """What the search found for each image; one file for each."""
    out.mkdir(parents=True, exist_ok=True)
    todo = [(f, y) for f, y in zip(files, labels, strict=True) if not (out / f"{f.stem}.safetensors").exists()]
    parts = [todo[i :: max(jobs, 1)] for i in range(max(jobs, 1))]
    joblib.Parallel(n_jobs=jobs)(joblib.delayed(_some)(loaded, part, out, options) for part in parts if part)
    return [load_file(out / f"{f.stem}.safetensors") for f in files]


def _some(loaded: Loaded, part: Sequence[tuple[Path, int]], out: Path, options: dict[str, Any]) -> None:
    """Search for some images and write what was found, four images at a time."""
    made = attribution.create(METHOD, loaded.model, **options)
    for start in range(0, len(part), 4):
        some = part[start : start + 4]
        images = torch.stack([loaded.preparation.apply(decode(f)) for f, _ in some])
        found = made.explain(images, [y for _, y in some])
        for row, (file, _) in enumerate(some):
            kept = {key: found.details[key][row].clone().contiguous() for key in KEPT}
            spent = torch.stack([found.forwards[row], found.backwards[row]])
            temporary = out / f"{file.stem}.part"
            save_file({**kept, "spent": spent}, temporary)
            temporary.rename(out / f"{file.stem}.safetensors")


def _searches(found: dict[str, list[dict[str, Tensor]]]) -> str:
    """What each search costs, keeps and covers, and the difference on the images that have both."""
    areas = attribution.create(METHOD, torch.nn.Identity()).params["areas"]
    rows, kept = [], {}
    for name, each in found.items():
        if not each:
            continue
        table = {key: torch.stack([one[key] for one in each]).double() for key in KEPT}
        kept[name] = (table["rewards"] - table["hidden"][:, None]) / (table["whole"] - table["hidden"])[:, None]
        means = {
            "kept": kept[name],
            "logit": table["rewards"],
            "area": table["masks"].mean((2, 3)),
            "steps": table["steps"],
        }
        spent = torch.stack([one["spent"] for one in each]).double().mean(0)
        cost = f"{len(each)} images, {float(spent[0]):.0f} f + {float(spent[1]):.0f} b each"
        for k, area in enumerate(areas):
            rows.append(
                {"search": name, "asked": area, **{n: float(v[:, k].mean()) for n, v in means.items()}, "cost": cost}
            )
    shown = pd.DataFrame(rows).to_string(index=False, float_format="{:.3f}".format)
    text = f"kept: the part of the way from the hidden image's logit to the whole one's\n\n{shown}"
    if len(kept) < len(found):
        return text
    short, full = found.values()
    n = min(len(short), len(full))
    share = torch.stack([a["spent"][1] / b["spent"][1] for a, b in zip(short[:n], full[:n], strict=True)]).mean()
    difference = (kept[METHOD][:n] - kept[FULL][:n]).numpy()
    low, high = interval(difference)
    apart = [f"{m:+.3f} [{a:+.3f}, {b:+.3f}]" for m, a, b in zip(difference.mean(0), low, high, strict=True)]
    return f"{text}\n\nthe first less the second, by area, on {n} images at {float(share):.0%} of the cost: {', '.join(apart)}"


def _scores(study: metrics.Study) -> str:
    """Mean scores with intervals."""
    table = study.summary().reset_index()
    table["score"] = [
        f"{r.mean_:.3f} [{r.low:.3f}, {r.high:.3f}]" for r in table.rename(columns={"mean": "mean_"}).itertuples()
    ]
    wide = table.pivot_table(index="metric", columns="method", values="score", aggfunc="first")
    return f"{len(study.names)} images\n\n" + wide.to_string()


def _pairs(study: metrics.Study) -> str:
    """Paired tests under every metric."""
    found = pd.concat([study.pairs(m).assign(metric=m) for m in study.metrics])
    shown = found[["metric", "a", "b", "difference", "low", "high", "p_holm", "better"]]
    return shown.to_string(index=False, float_format="{:.3f}".format)
