"""The one way a map becomes colours: used in notebooks here, and by every figure in `visualization`."""

import base64
import html as escape
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from .explanation import Explanation

CLIP = 99.0  # percentile of |map| that gets the full colour
MAGNITUDES = ("abs_sum", "max_abs", "l2")  # reductions of channels that forget the sign


def limit(maps: Tensor, percentile: float = CLIP) -> float:
    """The value that gets the full colour: a percentile of |map|, so that a few pixels do not pale the rest."""
    values = maps.detach().abs().float().flatten()
    found = float(np.percentile(values.cpu().numpy(), percentile))
    return found or float(values.max()) or 1.0


def shown(maps: Tensor, method: str, params: Mapping[str, Any] | None = None) -> tuple[Tensor, str]:
    """Maps `(N, H, W)` as they are drawn, and what their colours mean.

    A map with a constant of no meaning is drawn as what differs from its mean; all others as they are, so that 0 is
    where a map says nothing. With `params`, the method's hyper-parameters, a signed method whose channels were reduced to
    magnitudes is told from others.
    """
    from .attributor import REGISTRY, TAGS

    try:
        tags = REGISTRY.facts(method).tags
    except ValueError:  # maps from elsewhere
        tags = {**TAGS, "signed": bool((maps < 0).any())}
    if tags["offset"]:
        return maps - maps.mean((-2, -1), keepdim=True), "above and below its mean"
    magnitudes = (params or {}).get("channels") in MAGNITUDES
    signed = bool((maps < 0).any()) or (tags["signed"] and not magnitudes)
    return maps, "for and against" if signed else "importance, unsigned"


def colours(one: Tensor, top: float) -> np.ndarray[Any, Any]:
    """One map `(H, W)` as `(H, W, 4)` RGBA in [0, 1]: red speaks for the target, blue against, and 0 is transparent."""
    import matplotlib as mpl

    scaled = (one.detach().float().cpu() / top).clamp(-1, 1).numpy()
    # from the middle of each half: whiter colours would leave a dark line where the sign changes, which is in no map
    rgba = mpl.colormaps["RdBu_r"](0.5 + np.sign(scaled) * (0.27 + 0.18 * np.abs(scaled)))
    rgba[..., 3] = np.abs(scaled) * 0.85
    return np.asarray(rgba)


def photograph(image: Tensor, bounds: tuple[float, float] | None) -> np.ndarray[Any, Any]:
    """An image `(C, H, W)` as `(H, W, 3)` in [0, 1]; anything but one or three channels is shown by its mean."""
    x = image.detach().float().cpu()
    low, high = bounds if bounds is not None else (float(x.min()), float(x.max()))
    x = ((x - low) / max(high - low, 1e-12)).clamp(0, 1)
    x = x if x.shape[0] == 3 else x.mean(0, keepdim=True).expand(3, -1, -1)
    return np.asarray(x.permute(1, 2, 0).numpy())


def overlay(image: Tensor, one: Tensor, top: float, bounds: tuple[float, float] | None) -> np.ndarray[Any, Any]:
    """A map over its image in grey, `(H, W, 3)` in [0, 1]."""
    grey = photograph(image, bounds) @ np.array([0.299, 0.587, 0.114])
    grey = 0.35 + 0.6 * grey[..., None]  # lighter than the photograph, so that colours show on black too
    rgba = colours(one, top)
    return np.asarray(grey * (1 - rgba[..., 3:]) + rgba[..., :3] * rgba[..., 3:])


def png(pixels: np.ndarray[Any, Any]) -> bytes:
    """Pixels `(H, W, 3)` in [0, 1] as a PNG file."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray((pixels * 255).round().astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def html(found: "Explanation", most: int = 8) -> str:
    """The first images of an explanation, each with its target and score."""
    if found.maps.ndim != 4:
        return f"<pre>{escape.escape(repr(found))}</pre>"
    cells = []
    drawn, meaning = shown(found.maps.sum(1), found.method, found.params)
    for i in range(min(len(found), most)):
        one = drawn[i]
        image = torch.zeros(3, *one.shape) if found.inputs is None else found.inputs[i]
        if one.shape != image.shape[1:]:  # native resolution was asked for
            one = torch.nn.functional.interpolate(one[None, None], tuple(image.shape[1:]), mode="nearest-exact")[0, 0]
        data = base64.b64encode(png(overlay(image, one, limit(one), None))).decode()
        target = "" if found.target is None else f"target {found.target[i].tolist()}, "
        cells.append(
            f'<figure style="display:inline-block;margin:4px"><img width="160" src="data:image/png;base64,{data}" alt="map">'
            f"<figcaption>{target}{escape.escape(found.output)} {float(found.scores[i]):.3g}</figcaption></figure>"
        )
    more = f"<p>and {len(found) - most} more</p>" if len(found) > most else ""
    cost = f"{int(found.forwards.max())} forwards, {int(found.backwards.max())} backwards per image"
    return (
        f"<div><b>{escape.escape(found.method)}</b> ({cost}); red and blue: {meaning}<br>{''.join(cells)}{more}</div>"
    )
