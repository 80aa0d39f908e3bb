"""What every test needs before anything is imported."""

import sys

import pytest
import torch

# Beside the CPU build of torch, torchvision comes without its compiled operators and does not import. It only wants two of
# their schemas, kept alive: then its models run, its box operators do not.
try:
    import torchvision  # noqa: F401
except ImportError:
    pass
except RuntimeError:
    for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    _SCHEMAS = torch.library.Library("torchvision", "DEF")
    _SCHEMAS.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _SCHEMAS.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


@pytest.fixture
def control():
    """A method of the family "control", registered for one test."""
    from attriscope.attribution import attributor
    from attriscope.attribution.registry import Facts

    class Blind(attributor.Attributor):
        """Knows nothing."""

        def compute(self, inputs, target):
            return attributor.Computed(inputs, {})

    attributor.REGISTRY.add(Blind, Facts("blind_for_a_test", "control", ""))
    yield "blind_for_a_test"
    attributor.REGISTRY.remove("blind_for_a_test")
