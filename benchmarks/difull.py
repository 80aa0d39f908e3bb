"""Grids of photographs: what methods light that cannot have mattered, at the same layers, beside what the paper found."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from attriscope import attribution, metrics, visualization
from attriscope.attribution._parameters import canonical
from attriscope.attribution.model import Model
from attriscope.cli.models import Loaded
from attriscope.metrics.photographs import decode
from attriscope.metrics.statistics import interval
from safetensors import safe_open
from safetensors.torch import save_file
from tqdm import tqdm

GRID, COUNT = 2, 12
BINS = (0, 10, 35, 65, 90, 100)  # percent: of twelve maps the paper's bins would have none at the ends
LAYERS = ("input", "middle", "final")
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "gradient": ("gradient", {"channels": "abs_sum"}),
    "guided_backprop": ("guided_backprop", {"channels": "abs_sum"}),
    "input_x_gradient": ("input_x_gradient", {}),
    "integrated_gradients": ("integrated_gradients", {"steps": 20}),
    "grad_cam": ("grad_cam", {}),
    "grad_cam_pp": ("grad_cam_pp", {}),
    "ablation_cam": ("ablation_cam", {}),
    "score_cam": ("score_cam", {}),
    "layer_cam": ("layer_cam", {}),
    "occlusion": ("occlusion", {"window": 32, "stride": 16}),
    "rise": ("rise", {"masks": 1000}),
    "random": ("random", {}),
}
DEAR = ("occlusion", "rise", "score_cam", "ablation_cam")  # run where the question is sharpest: on DiFull
GAMES = ("difull", "dipart", "grid_pointing_game")
CENTRED = ("rise",)
SMOOTHED, KERNELS = ("integrated_gradients", "input_x_gradient"), (0, 9, 17, 33, 65, 129)
PAPER = {  # Rao et al. 2022, sections 5.1 and 5.2, on VGG11 and ResNet18
    "gradient": "perfect by construction",
    "guided_backprop": "perfect",
    "input_x_gradient": "perfect",
    "integrated_gradients": "perfect",
    "grad_cam": "lights other cells",
    "grad_cam_pp": "lights other cells",
    "ablation_cam": "lights other cells",
    "score_cam": "lights other cells",
    "layer_cam": "perfect at the input, near it elsewhere",
    "occlusion": "near perfect",
    "rise": "poor",
}

__all__ = ["run"]


def run(loaded: Loaded, files: Sequence[Path], labels: Sequence[int], out: Path) -> str:
    """Explain grids of photographs at three layers, score the maps, print tables, and draw the figures into `out`.

    Args:
        loaded: The model.
        files: Photographs that it gets right, and
        labels: their classes.
        out: A folder; maps that are in it already are not made again.
    """
    images = torch.stack([loaded.preparation.apply(decode(f)) for f in files])
    out.mkdir(parents=True, exist_ok=True)
    count = min(COUNT, len(files) // GRID**2)
    grids = metrics.DiFull(grid=GRID, count=count).build(loaded.model, images, list(labels))
    found: dict[tuple[str, str, str], metrics.HeadMaps] = {}
    wanted = [
        (game, layer, m) for game in GAMES for layer in LAYERS for m in METHODS if game == "difull" or m not in DEAR
    ]
    refused = {}
    for game, layer, method in tqdm(wanted, desc="grids"):
        try:
            found[game, layer, method] = _maps(loaded.model, grids, (game, layer, method), out)
        except ValueError as error:  # a method that does not run there
            refused[game, layer, method] = str(error)
    _draw(found, out)
    heads = len(found["difull", "input", "gradient"].scores)
    said = (
        f"{len(grids)} grids of {GRID} x {GRID} photographs, each with a probability of {grids.confidence:.2f} or more"
    )
    parts = [f"{said}; DiFull and DiPart ask {heads} heads, the pointing game {2 * heads}; chance {1 / GRID**2:g}"]
    parts += [f"{game}\n{_table(game, found)}" for game in GAMES]
    parts += [f"DiFull, enlarged as the official code does\n{_official(found)}", f"smoothed maps\n{_kernels(found)}"]
    parts += [f"{game}, {layer}: {method} left out: {why}" for (game, layer, method), why in refused.items()]
    return "\n\n".join(parts)


def _maps(model: Model, grids: metrics.Grids, which: tuple[str, str, str], out: Path) -> metrics.HeadMaps:
    """One method's maps, from the folder if they are there and are of these grids."""
    game, layer, method = which
    metric = metrics.create(game, grid=GRID, layer=layer)
    assert isinstance(metric, metrics.DiFull | metrics.DiPart | metrics.GridPointingGame)
    name, options = METHODS[method]
    made = attribution.create(name, model, **options)
    asked = json.dumps([model.fingerprint, canonical(grids.images), grids.labels.tolist(), repr(made), repr(metric)])
    path = out / f"{game}-{layer}-{method}.safetensors"
    names = [f.name for f in fields(metrics.HeadMaps) if f.name not in {"grid", "layer", "images"}]
    if path.exists():
        with safe_open(path, "pt") as file:
            facts = file.metadata()
            if facts["asked"] == asked:
                kept = {n: file.get_tensor(n) for n in names}
                return metrics.HeadMaps(**kept, grid=GRID, layer=facts["layer"], images=grids.images)
    found = metric.maps(made, grids)
    kept = {n: getattr(found, n).contiguous() for n in names}
    save_file(kept, path.with_suffix(".part"), metadata={"asked": asked, "layer": found.layer})
    path.with_suffix(".part").rename(path)
    return found


def _said(scores: torch.Tensor, grids: torch.Tensor) -> str:
    """The mean with its interval over grids, and how many are undefined."""
    known = ~scores.isnan()
    if not known.any():
        return "undefined"
    low, high = interval(scores[known].numpy(), clusters=grids[known].numpy())
    left = int((~known).sum())
    mean = float(scores[known].mean())
    bounds = "" if float(low) == float(high) else f" [{float(low):.2f}, {float(high):.2f}]"
    return f"{mean:.3f}{bounds}" + (f" ({left} undefined)" if left else "")


def _table(game: str, found: Mapping[tuple[str, str, str], metrics.HeadMaps]) -> str:
    """Methods against layers."""
    rows = {}
    for method in METHODS:
        own = {layer: found[game, layer, method] for layer in LAYERS if (game, layer, method) in found}
        if own:
            rows[method] = {layer: _said(one.scores, one.grids) for layer, one in own.items()}
            if method in CENTRED:
                rows[f"{method}, centred"] = {
                    layer: _said(metrics.cell_share(one.maps, one.cells, grid=GRID, center=True), one.grids)
                    for layer, one in own.items()
                }
    table = pd.DataFrame(rows).T.reindex(columns=list(LAYERS)).fillna("does not run")
    if game == "difull":
        table["the paper, on DiFull"] = [PAPER.get(m, "") for m in table.index]
    return table.to_string()


def _official(found: Mapping[tuple[str, str, str], metrics.HeadMaps]) -> str:
    """Inner layers under the official scoring, beside what a map that fills its cell would get."""
    rows: dict[str, dict[str, str]] = {}
    for layer in LAYERS[1:]:
        for method in METHODS:
            one = found.get(("difull", layer, method))
            if one is None:
                continue
            size = (one.images.shape[2], one.images.shape[3])
            how: dict[str, Any] = {"grid": GRID, "scoring": "official_bilinear", "size": size}
            rows.setdefault(method, {})[layer] = _said(metrics.cell_share(one.maps, one.cells, **how), one.grids)
            places = (one.maps.shape[1], one.maps.shape[2])
            cap = metrics.attainable(places, one.cells[:1], **how)
            rows.setdefault("a map that fills its cell", {}).setdefault(layer, f"{float(cap):.3f}")
    return pd.DataFrame(rows).T.to_string()


def _kernels(found: Mapping[tuple[str, str, str], metrics.HeadMaps]) -> str:
    """Scores at the input against the kernel, beside the cap that smoothing itself puts on DiFull."""
    rows: dict[str, dict[int, str]] = {}
    one = found["difull", "input", SMOOTHED[0]]
    for kernel in KERNELS:
        for game in GAMES:
            for method in SMOOTHED:
                if (game, "input", method) not in found:
                    continue
                own = found[game, "input", method]
                scores = metrics.cell_share(own.maps, own.cells, grid=GRID, kernel=kernel)
                rows.setdefault(f"{game}, {method}", {})[kernel] = f"{float(np.nanmean(scores.numpy())):.3f}"
        places = (one.maps.shape[1], one.maps.shape[2])
        cap = metrics.attainable(places, one.cells[:1], grid=GRID, kernel=kernel)
        rows.setdefault("a map that fills its cell", {})[kernel] = f"{float(cap):.3f}"
    return pd.DataFrame(rows).T.to_string()


def _draw(found: Mapping[tuple[str, str, str], metrics.HeadMaps], out: Path) -> None:
    """The aggregates and the scores' distributions of DiFull."""
    own = {layer: {m: one for (g, at, m), one in found.items() if (g, at) == ("difull", layer)} for layer in LAYERS}
    visualization.aggregate(own, edges=BINS).savefig(out / "aggregate.png")
    visualization.score_distribution(own).savefig(out / "scores.png")
