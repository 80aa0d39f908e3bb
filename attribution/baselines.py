"""What stands in for a removed pixel, by name, in image space."""

from collections.abc import Callable
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor
from torch.nn import functional

from .model import Model
from .randomness import uniforms

Name = Literal["zero", "black", "white", "mean", "blur", "noise", "region_mean"]
Baseline: TypeAlias = Name | float | Tensor | Callable[[Tensor], Tensor]
Baselines: TypeAlias = Baseline | tuple[Baseline, ...]

__all__ = ["Baseline", "Baselines", "Name", "each", "gaussian_blur", "make", "make_each", "region_mean"]


def make(
    baseline: Baseline, images: Tensor, model: Model, *, seed: int = 0, draw: int = 0, labels: Tensor | None = None
) -> Tensor:
    """The baseline as a tensor that broadcasts against `images`.

    Args:
        baseline: `"zero"` (the number 0), `"black"` and `"white"` (the model's bounds), `"mean"` (the model's mean: what
            papers call zero, after normalisation), `"blur"` (a Gaussian of a twentieth of the shorter side, edges
            repeated), `"noise"` (uniform within the bounds, without bounds standard normal around the mean; the same for
            every image), `"region_mean"` (each region's own mean, for methods that have regions; in tables and tokens the
            mean), a number, a tensor that broadcasts to `(N, C, H, W)`, or a callable `images -> tensor`.
        images: `(N, C, H, W)`, `(N, F)` or `(N, T, D)`.
        model: Knows bounds and mean.
        seed: For `"noise"`, and
        draw: which image of noise of that seed.
        labels: For `"region_mean"`: the regions, `(N, H, W)`.

    Returns:
        `(N or 1, C, H or 1, W or 1)`, of the images' dtype and device.

    Raises:
        ValueError: An unknown name, a shape that does not fit, `"black"` or `"white"` of a model without bounds.

    Example:
        >>> images = torch.rand(2, 3, 8, 8)
        >>> make("white", images, Model(torch.nn.Flatten())).shape
        torch.Size([1, 3, 1, 1])
    """
    if isinstance(baseline, str):
        if baseline == "region_mean" and images.ndim == 4:
            value = region_mean(images, labels)
        else:  # a column is its own mean
            value = _named("mean" if baseline == "region_mean" else baseline, images, model, seed, draw)
    elif isinstance(baseline, Tensor):
        value = baseline
    elif callable(baseline):
        value = baseline(images)
        if not isinstance(value, Tensor):
            raise ValueError(f"the baseline callable returned {type(value).__name__}: it must return a tensor")
    else:
        value = torch.full((1,) * images.ndim, float(baseline), dtype=torch.float64)
    value = value.detach().to(images.device, images.dtype)
    if value.ndim == images.ndim - 1:
        value = value[None]
    try:
        fits = torch.broadcast_shapes(value.shape, images.shape) == images.shape and value.ndim == images.ndim
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(
            f"a baseline of shape {tuple(value.shape)} does not stand beside inputs of shape {tuple(images.shape)}: "
            "pass one of the inputs' shape, one image, or one value per channel as (1, C, 1, 1)"
        )
    if not bool(value.isfinite().all()):
        raise ValueError("the baseline holds NaN or infinite values")
    return value.expand(-1, images.shape[1], *value.shape[2:]) if value.ndim == 4 else value


def each(baseline: Any) -> tuple[Baseline, ...]:
    """One baseline, or several in a tuple or list, as a tuple of those that `make` takes.

    Raises:
        ValueError: There is none, or an unknown name.
        TypeError: Something that is no baseline.

    Example:
        >>> each("black"), each(["black", 0.5])
        (('black',), ('black', 0.5))
    """
    found = tuple(baseline) if isinstance(baseline, tuple | list) else (baseline,)
    if not found:
        raise ValueError("there is no baseline in an empty sequence: name at least one")
    for one in found:
        if isinstance(one, str) and one not in get_args(Name):
            raise ValueError(f"baseline {one!r}: choose one of {', '.join(get_args(Name))}, or a number")
        if isinstance(one, bool) or not (isinstance(one, str | int | float | Tensor) or callable(one)):
            raise TypeError(f"baseline {one!r}: expected a name, a number, a tensor or a callable")
    return found


def make_each(
    baseline: Any, images: Tensor, model: Model, *, seed: int = 0, labels: Tensor | None = None
) -> list[Tensor]:
    """Every one of one or several baselines as `make` makes it; a second "noise" is another draw.

    Example:
        >>> [one.flatten().tolist() for one in make_each((0.0, 0.5), torch.rand(2, 1), Model(torch.nn.Flatten()))]
        [[0.0], [0.5]]
    """
    named = each(baseline)
    draws = [sum(isinstance(o, str) and o == "noise" for o in named[:i]) for i in range(len(named))]
    return [
        make(one, images, model, seed=seed, draw=draw, labels=labels) for one, draw in zip(named, draws, strict=True)
    ]


def _named(name: str, images: Tensor, model: Model, seed: int, draw: int) -> Tensor:
    if name == "zero":
        return torch.zeros((1,) * images.ndim)
    if name in {"black", "white"}:
        if model.bounds is None:
            raise ValueError(
                f"baseline={name!r} needs to know the images' bounds: pass Model(..., bounds=(low, high)), or "
                "another baseline such as 'mean' or a number"
            )
        return torch.full((1,) * images.ndim, model.bounds[0 if name == "black" else 1])
    if name == "mean":
        return model.pixels(model.mean)
    if name == "blur":
        if images.ndim != 4:
            raise ValueError("baseline='blur' is for images, (N, C, H, W)")
        return gaussian_blur(images, min(images.shape[2:]) / 20)
    if name == "noise":
        drawn = uniforms(seed, 1, images[0].numel(), stream=1_000_001 + draw).reshape(1, *images.shape[1:])
        if model.bounds is not None:
            return drawn * (model.bounds[1] - model.bounds[0]) + model.bounds[0]
        normal = torch.erfinv((2 * drawn - 1).clamp(-1 + 1e-6, 1 - 1e-6)) * 2**0.5
        return normal * model.pixels(model.std if model.std is not None else 1.0) + model.pixels(model.mean)
    raise ValueError(f"baseline={name!r}: choose one of {get_args(Name)}, a number, a tensor or a callable")


def region_mean(images: Tensor, labels: Tensor | None) -> Tensor:
    """Every pixel replaced by the mean of its region, channel by channel.

    Args:
        images: `(N, C, H, W)`.
        labels: `(N, H, W)`.

    Raises:
        ValueError: There are no regions.

    Example:
        >>> region_mean(torch.tensor([[[[1.0, 3.0, 5.0]]]]), torch.tensor([[[0, 0, 1]]])).tolist()
        [[[[2.0, 2.0, 5.0]]]]
    """
    if labels is None:
        raise ValueError("baseline='region_mean' is for methods that have regions: take 'mean' or 'blur' here")
    flat, values = labels.flatten(1), images.flatten(2)
    values = values if values.dtype == torch.float64 else values.float()  # half precision cannot count to 2049
    index, number = flat[:, None].expand(values.shape), int(flat.max()) + 1
    total = values.new_zeros(*values.shape[:2], number).scatter_add_(2, index, values)
    area = values.new_zeros(len(flat), number).scatter_add_(1, flat, torch.ones_like(flat, dtype=values.dtype))
    return (total / area.clamp_min(1)[:, None]).gather(2, index).to(images.dtype).reshape(images.shape)


def gaussian_blur(images: Tensor, sigma: float) -> Tensor:
    """Blur `(N, C, H, W)` with a Gaussian of `sigma` pixels, cut at 4 sigma, the edge pixels repeated.

    Example:
        >>> flat = torch.full((1, 1, 9, 9), 0.5)
        >>> bool(torch.allclose(gaussian_blur(flat, 2.0), flat))
        True
    """
    if sigma <= 0:
        return images
    out = images
    for axis in (2, 3):
        radius = max(1, int(4 * sigma + 0.5))
        offsets = torch.arange(-radius, radius + 1, dtype=images.dtype, device=images.device)
        kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
        kernel = kernel / kernel.sum()
        pad = (0, 0, radius, radius) if axis == 2 else (radius, radius, 0, 0)
        shape = (-1, 1) if axis == 2 else (1, -1)
        weight = kernel.reshape(1, 1, *shape).expand(images.shape[1], 1, *kernel.reshape(shape).shape)
        out = functional.conv2d(functional.pad(out, pad, mode="replicate"), weight, groups=images.shape[1])
    return out
