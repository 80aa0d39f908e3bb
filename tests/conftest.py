"""What every test needs before anything is imported."""

import contextlib
import importlib.metadata

import torch

# Beside the CPU build of torch, torchvision comes without its compiled operators and would not import: it only needs two of
# their schemas, which must be kept alive. Its models run; its box operators do not.
with contextlib.suppress(importlib.metadata.PackageNotFoundError):
    importlib.metadata.version("torchvision")
    if not hasattr(torch.ops.torchvision, "nms"):
        _TORCHVISION = torch.library.Library("torchvision", "DEF")
        _TORCHVISION.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _TORCHVISION.define(
            "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        )
