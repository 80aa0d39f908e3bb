"""Tiny studies, and what a figure says and shows."""

import copy
from collections.abc import Callable

import matplotlib as mpl
import numpy as np
import pytest
import torch
from attriscope import metrics
from attriscope.attribution import from_maps
from matplotlib.axis import Tick
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from torch import Tensor, nn


@pytest.fixture(autouse=True)
def _nothing_global():
    """No figure touches pyplot or the settings."""
    from matplotlib import pyplot as plt

    mpl.rcParams["font.size"] = 17  # somebody's own
    before = dict(mpl.rcParams)
    yield
    assert dict(mpl.rcParams) == before
    assert plt.get_fignums() == []
    mpl.rcdefaults()


@pytest.fixture(scope="session")
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 6, 4)).eval()


@pytest.fixture(scope="session")
def images() -> Tensor:
    return torch.rand(3, 3, 8, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def study(made) -> metrics.Study:
    """A test may change its own."""
    return copy.deepcopy(made)


@pytest.fixture(scope="session")
def made(network, images) -> metrics.Study:
    ramp = torch.linspace(-1, 1, 48).reshape(1, 8, 6)
    return metrics.compare(
        network, images, [0, 1, 2],
        attributors={
            "ramp": from_maps(torch.cat([ramp, 3 * ramp, 10 * ramp]), network),
            "flat": from_maps(torch.zeros(3, 8, 6), network),
            "saliency": "saliency",
            "ig": ("integrated_gradients", {"steps": 4}),
        },
        names=["one.png", "two.png", "three.png"], classes=["ant", "bee", "cat", "dog"], progress=False,
    )


@pytest.fixture
def words() -> Callable[[Figure], str]:
    """All that a figure says; a wrapped text is one again."""
    return lambda figure: " ".join(t.get_text() for t in figure.findobj(Text) if t.get_text())


@pytest.fixture
def pixels() -> "Callable[[Figure, str], np.ndarray]":
    """The pixels of the axes with a label."""
    return lambda figure, label: np.asarray(next(a for a in figure.axes if a.get_label() == label).images[0].get_array())


@pytest.fixture
def check_layout() -> Callable[[Figure], None]:
    """Nothing is cut and no text lies on another."""

    def check(figure: Figure) -> None:
        renderer = FigureCanvasAgg(figure).get_renderer()
        figure.draw(renderer)
        shown = [k for a in figure.axes if a.axison for axis in (a.xaxis, a.yaxis) for k in axis._update_ticks()]
        drawn = {id(text) for tick in shown for text in (tick.label1, tick.label2)}
        ticks = {id(text) for tick in figure.findobj(Tick) for text in (tick.label1, tick.label2)}
        texts = [t for t in figure.findobj(Text) if t.get_text().strip() and (id(t) in drawn or id(t) not in ticks)]
        boxes = np.array([t.get_window_extent(renderer).extents for t in texts])
        width, height = figure.canvas.get_width_height()
        for text, box in zip(texts, boxes, strict=True):
            assert box.min() >= 0, f"{text} is cut at the left or below"
            assert max(box[2] - width, box[3] - height) <= 0, f"{text} is cut at the right or above"
        for k, (left, low, right, high) in enumerate(boxes):
            wide = np.minimum(right, boxes[k + 1 :, 2]) - np.maximum(left, boxes[k + 1 :, 0])
            tall = np.minimum(high, boxes[k + 1 :, 3]) - np.maximum(low, boxes[k + 1 :, 1])
            hit = np.flatnonzero((wide > 1) & (tall > 3))  # the space that letters like g leave free may be shared
            assert not len(hit), f"{texts[k].get_text()!r} lies on {texts[k + 1 + hit[0]].get_text()!r}"

    return check
