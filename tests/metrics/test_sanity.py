"""What a report of randomization concludes, on studies whose numbers are known."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from attriscope import attribution, metrics
from torch import nn

DETAILS = ("ceiling", "floor", "survival", "spread", "undefined")


def study(rows, *, n=12, srg=0.2, controls=(), names=("model_randomization",)):
    """A study by hand: every method's similarity, ceiling and floor, the same for each image but for a little."""
    little = np.linspace(-0.01, 0.01, n)
    found = []
    for method, (similarity, ceiling, floor, undefined) in rows.items():
        for i in range(n):
            values = (ceiling, floor, 0.3, 0.02, undefined)
            found += [
                {"image": i, "method": method, "metric": m, "score": similarity + little[i]}
                | dict(zip(DETAILS, values, strict=True))
                for m in names
            ]
            if srg is not None:
                found.append({"image": i, "method": method, "metric": "srg", "score": srg + little[i]})
    labels = [*names, *(["srg"] if srg is not None else [])]
    return SimpleNamespace(
        scores=pd.DataFrame(found),
        methods={m: {"name": "edge" if m in controls else "gradient"} for m in rows},
        metrics={label: {"name": label.partition(" ")[0]} for label in labels},
    )


def said(similarity, ceiling, floor, undefined=0.0, **more):
    return metrics.sanity_report(study({"m": (similarity, ceiling, floor, undefined)}, **more)).conclusions["m"]


def test_conclusions():
    assert said(0.0, 1.0, 0.0) == (
        "depends on the weights: 100% [100%, 100%] of its likeness to itself is lost. Noise would too, but its SRG 0.200 "
        "[0.196, 0.203] is above 0."
    )
    assert "not above 0: nothing speaks for it" in said(0.0, 1.0, 0.0, srg=0.0)
    assert "no SRG" in said(0.0, 1.0, 0.0, srg=None)
    assert said(0.6, 1.0, 0.54) == (
        "depends on the weights in part: 40% [40%, 40%] of its likeness to itself is lost. What stays is not what was "
        "learned. Maps of two random networks are alike by 0.54."
    )
    assert "so it does not show what was learned" in said(0.97, 1.0, 0.0)
    assert "as a control should not" in said(1.0, 1.0, 1.0, controls=["m"])
    assert said(0.0, 0.1, 0.0).startswith("cannot be asked: run again with another seed")
    assert said(np.nan, 1.0, np.nan).startswith("cannot be asked: none of its maps")
    assert said(0.0, 1.0, 0.0, 1.5).endswith("1.5 maps of random networks for each image are undefined and left out.")


def test_a_high_floor_is_no_merit():
    """Maps that any network has: were the floor taken off, all of them would have changed as far as they can."""
    assert said(0.7, 1.0, 0.7).startswith("depends on the weights in part: 30%")
    assert said(0.3, 1.0, np.nan).startswith("depends on the weights: 70%")


def test_the_change_is_a_ratio_of_means_with_an_interval():
    table = metrics.sanity_report(study({"m": (0.5, 0.9, 0.1, 0)})).table.loc["m"]
    assert table["change"] == pytest.approx((0.9 - 0.5) / 0.9)
    # a similarity's interval over the ceiling
    assert table["change_high"] - table["change_low"] == pytest.approx((table["high"] - table["low"]) / 0.9, rel=1e-6)
    assert table["change_low"] < table["change"] < table["change_high"]
    assert (table["srg"], table["undefined"], table["control"]) == (pytest.approx(0.2), 0, False)


def test_what_a_study_must_have():
    with pytest.raises(ValueError, match="no 'model_randomization'"):
        metrics.sanity_report(study({"m": (0, 1, 0, 0)}, names=()))
    two = study({"m": (0, 1, 0, 0)}, names=("model_randomization", "smooth_mprt"))
    with pytest.raises(ValueError, match="say which"):
        metrics.sanity_report(two)
    assert metrics.sanity_report(two, metric="smooth_mprt").metric == "smooth_mprt"
    with pytest.raises(ValueError, match="'srg' is not one"):
        metrics.sanity_report(two, metric="srg")


def test_the_text_names_every_method_and_warns_against_ranks():
    text = str(metrics.sanity_report(study({"a": (0, 1, 0, 0), "long name": (1, 1, 1, 0)})))
    first, second, *_ = text.splitlines()
    assert first.startswith("a          depends")
    assert second.startswith("long name  does not change")
    assert "no method is better than another" in text


def test_a_study_of_a_network():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, 3))
    found = metrics.compare(
        attribution.Model(network),
        torch.rand(6, 3, 8, 8),
        0,
        attributors=["gradient", "edge", "input", "random"],
        metrics=[metrics.create("model_randomization", seeds=2), metrics.create("srg", steps=8)],
    )
    report = metrics.sanity_report(found)
    assert report.table["control"].tolist() == [False, True, True, True]
    assert report.conclusions["gradient"].startswith("depends on the weights")
    assert report.conclusions["edge"] == report.conclusions["input"]
    assert report.conclusions["random"].startswith("cannot be asked")
