"""The figures of `attriscope compare`."""

from typing import ClassVar

import pandas as pd
import pytest
from attriscope import visualization
from attriscope.cli import compare


class Many:
    """A study of more methods than a figure has columns."""

    methods: ClassVar = {f"m{i}": {} for i in range(compare.COLUMNS + 3)}
    curves: ClassVar = {("m0", "insertion"): None}

    def leaderboard(self):
        return pd.DataFrame({"rank": 1.0}, index=list(self.methods)[::-1])


@pytest.mark.parametrize("few", [True, False])
def test_figures_show_the_best_methods_where_there_are_many(monkeypatch, tmp_path, few, capsys):
    drawn = {}
    monkeypatch.setattr(visualization, "side_by_side", lambda study, **more: drawn.update(side=more["methods"]))
    monkeypatch.setattr(visualization, "curves", lambda study, **more: drawn.update(curves=more["methods"]))
    monkeypatch.setattr(compare, "save_figure", lambda figure, path: None)
    monkeypatch.setattr(compare, "_drawn_over", lambda study, setup: {})
    study = Many()
    if few:
        study.methods = {"m0": {}}
    assert compare.write_study(study, None, tmp_path) == ["compare.png", "curves.png"]
    best = None if few else list(Many.methods)[:2:-1]
    assert drawn == {"side": best, "curves": best}
    assert ("best of" in capsys.readouterr().err) is not few
