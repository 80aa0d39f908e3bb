"""Networks that torch does not run: ONNX files, and torch networks exported once for passes without gradients.

An `OnnxFile` is a callable like any other, so a Model of one serves every method that needs no gradients. A `Compiled`
stands in for a torch network's forward pass alone; whether it is used is not decided here: the Model compares it with
torch first.
"""

import contextlib
import functools
import hashlib
import importlib.util
import io
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from . import _lean

Backend = Literal["torch", "onnx", "openvino", "openvino-bf16"]
# what each needs, and the extra that brings it
PACKAGES: dict[Backend, tuple[tuple[str, ...], str]] = {
    "torch": ((), ""),
    "onnx": (("onnxruntime", "onnx", "onnxscript"), "onnx"),
    "openvino": (("openvino", "onnx", "onnxscript"), "openvino"),
    "openvino-bf16": (("openvino", "onnx", "onnxscript"), "openvino"),
}
# Of the largest output. bfloat16 has 8 bits of mantissa: an EfficientNet's logits were off by 0.1 on a photograph, where
# the largest is 9, and by 0.5 on noise, where it is 6.
TOLERANCES: dict[Backend, float] = {"openvino-bf16": 0.15}
TYPES = {
    "tensor(float)": torch.float32,
    "tensor(float16)": torch.float16,
    "tensor(double)": torch.float64,
    "tensor(int64)": torch.int64,
    "tensor(int32)": torch.int32,
    "tensor(uint8)": torch.uint8,
    "tensor(int8)": torch.int8,
    "tensor(bool)": torch.bool,
}
NUMBERS = ("float32", "float16", "float64", "int64", "int32", "uint8", "int8", "bool")  # outputs that become tensors
# a key of TensorProto.external_data as protobuf writes it: field 1, 8 bytes, "location"; field 2 is a path
LOCATION = re.compile(rb"\x0a\x08location\x12")

__all__ = ["Backend", "Compiled", "OnnxFile", "check", "opened"]


def check(backend: str, network: Any) -> None:
    """Refuse a backend that there is not, that cannot run this network, or whose packages are not installed.

    Raises:
        ValueError: No such backend.
        TypeError: It exports an `nn.Module`, and this is none.
        ImportError: A package is missing; the message says what to install.
    """
    if backend not in PACKAGES:
        raise ValueError(f"backend={backend!r}: choose one of {tuple(PACKAGES)}")
    if isinstance(network, OnnxFile):
        if backend not in {"torch", "onnx"}:
            raise ValueError(f"backend={backend!r} is for a torch network: an ONNX file runs in onnxruntime")
        return
    if backend != "torch" and not isinstance(network, nn.Module):
        raise TypeError(f"backend={backend!r} exports an nn.Module, and the network is a {type(network).__name__}")
    packages, extra = PACKAGES[backend]
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise ImportError(
                f"backend={backend!r} needs {package}, which is not installed: pip install 'attriscope[{extra}]'",
                name=package,
            )


def opened(network: Any, forward: Iterable[str]) -> Any:
    """The network itself, or what a path names."""
    return OnnxFile(network, forward) if isinstance(network, str | os.PathLike) else network


# -- ONNX files --------------------------------------------------------------------------------------------------------


class OnnxFile:
    """An ONNX file as a callable `Tensor -> Tensor` over onnxruntime; autograd cannot see through it.

    It holds the file's bytes, so that a pickle holds the network; weights that lie in a file beside it stay there. A file
    whose batch axis has a fixed size is run in batches of that size, the last one filled up.

    Args:
        path: A file whose name ends in `.onnx`.
        given: The names of the inputs that are passed by keyword.

    Attributes:
        shape: The input's axes, the batch first: a number where it is fixed, `None` where it is not.
        outputs: Their names. Several come as a dictionary.
        classes: The last axis of the first output, where it is fixed.
        digest: Of the file's bytes, and of the weights beside it.

    Raises:
        FileNotFoundError: There is no such file, or the weights that belong to it are missing.
        ImportError: onnxruntime is not installed.
        ValueError: It is no ONNX file, or has inputs that nothing was passed for.
    """

    differentiable = False

    def __init__(self, path: str | os.PathLike[str], given: Iterable[str] = ()) -> None:
        self.path = Path(path)
        self.given = tuple(given)
        if self.path.suffix.lower() != ".onnx":
            raise ValueError(
                f"network={os.fspath(path)!r}: pass an nn.Module, a callable, or the path of an .onnx file"
            )
        if not self.path.is_file():
            raise FileNotFoundError(f"there is no file {self.path}")
        self._open(self.path.read_bytes())

    def _open(self, data: bytes) -> None:
        self._bytes = data
        digest = hashlib.sha256(data)
        named = [self.path.parent / name for name in _locations(data)]
        beside = [file for file in named if file.is_file()]
        for file in beside:
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        self.digest = digest.hexdigest()
        self._beside = bool(beside)
        self._sessions: dict[str, Any] = {}
        try:
            session = self._session("cpu")
        except ValueError as error:
            lost = next((file for file in named if file not in beside), None)
            if lost is None:
                raise
            raise FileNotFoundError(
                f"{self.path} keeps its weights in {lost}, which is not there: copy both"
            ) from error
        self._signature(session)

    def _signature(self, session: Any) -> None:
        """Which input is the images', and what each takes."""
        inputs = {i.name: i for i in session.get_inputs()}
        unknown = [n for n in self.given if n not in inputs]
        if unknown:
            raise ValueError(f"{self.path} has no input {unknown[0]!r}: it has {', '.join(inputs)}")
        left = [n for n in inputs if n not in self.given]
        if len(left) != 1:
            which = ", ".join(left) if left else "no other"
            raise ValueError(
                f"{self.path} has the inputs {', '.join(inputs)}: pass all but the images' as Model(..., "
                f"forward={{name: tensor}}); left are {which}"
            )
        self.input = left[0]
        self.types = {n: TYPES.get(i.type) for n, i in inputs.items()}
        strange = next((n for n, t in self.types.items() if t is None), None)
        if strange is not None:
            raise ValueError(
                f"{self.path}: its input {strange!r} is {inputs[strange].type}, which no torch tensor becomes"
            )
        kind = self.types[self.input]
        if kind is not None and not kind.is_floating_point:
            raise ValueError(f"{self.path} takes {inputs[self.input].type}: export it with an input of floating point")
        self.axes = {n: _axes(i) for n, i in inputs.items()}
        self.shape = self.axes[self.input]
        self.outputs = [o.name for o in session.get_outputs()]
        self.classes = (_axes(session.get_outputs()[0]) or (None,))[-1]

    def _session(self, device: str) -> Any:
        """One for the CPU, and one for CUDA if that is asked for."""
        if device not in self._sessions:
            self._sessions[device] = _session(str(self.path) if self._beside else self._bytes, self.path, device)
        return self._sessions[device]

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "given": self.given, "bytes": self._bytes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.path, self.given = state["path"], state["given"]
        self._open(state["bytes"])

    def __repr__(self) -> str:
        return f"OnnxFile({str(self.path)!r})"

    def fits(self, rank: int, kind: str) -> None:
        """Refuse a file whose input has another rank than the model's kind."""
        if self.shape is not None and len(self.shape) != rank:
            raise ValueError(
                f"{self.path} takes {_sizes(self.shape)}, {len(self.shape)} axes, and kind={kind!r} has {rank}: "
                "pass Model(kind=...) that fits, 'image' 4, 'tokens' 3, 'table' 2"
            )

    def __call__(self, x: Tensor, **more: Tensor) -> Any:
        """The output for a batch, on its device; a dictionary by name if there are several."""
        if self.shape is not None and not _agree(self.shape, x):
            raise ValueError(f"{self.path} takes {_sizes(self.shape)}, and the inputs are {_sizes(x.shape)}")
        feeds = {self.input: x, **{n: torch.as_tensor(more[n]) for n in self.given}}
        size = self.shape[0] if self.shape is not None else None
        parts = [self._run(feeds, slice(at, at + (size or len(x))), size) for at in range(0, len(x), size or len(x))]
        found = {}
        for name in self.outputs:
            values = [p[name] for p in parts]
            whole = len(parts) > 1 and isinstance(values[0], Tensor) and values[0].ndim > 0
            found[name] = torch.cat(values) if whole else values[0]
        return found if len(found) > 1 else found[self.outputs[0]]

    def _run(self, feeds: Mapping[str, Tensor], part: slice, size: int | None) -> dict[str, Any]:
        """Some images, as many as the file takes at a time."""
        x = feeds[self.input]
        rows = len(x[part])
        arrays = {}
        for name, tensor in feeds.items():
            axes = self.axes[name]
            value = tensor
            if size is not None and axes and axes[0] == size and value.ndim and len(value) == len(x):
                value = value[part]
                value = torch.cat([value, value[-1:].expand(size - rows, *value.shape[1:])]) if rows < size else value
            # a view wherever torch's tensor is what onnxruntime takes
            arrays[name] = value.detach().to("cpu", self.types[name]).contiguous().numpy()
        outs = _run(self._session("cuda" if x.is_cuda else "cpu"), arrays, str(self.path))
        tensors = {
            n: torch.as_tensor(o, device=x.device) if getattr(o, "dtype", None) in NUMBERS else o
            for n, o in zip(self.outputs, outs, strict=True)
        }
        if size is None:
            return tensors
        return {n: t[:rows] if isinstance(t, Tensor) and t.ndim and len(t) == size else t for n, t in tensors.items()}


def _session(source: str | bytes, path: Path | None, device: str) -> Any:
    """An onnxruntime session that leaves the processor to torch while it waits."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(
            "an ONNX file needs onnxruntime, which is not installed: pip install 'attriscope[onnx]'", name="onnxruntime"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors: they are raised as well
    providers = ["CPUExecutionProvider"]
    if device == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        providers.insert(0, "CUDAExecutionProvider")
    try:
        return onnxruntime.InferenceSession(source, options, providers=providers)
    except Exception as error:
        if path is None:
            raise
        line = " ".join(str(error).split())
        raise ValueError(f"{path} is no ONNX file that onnxruntime can read: {line}") from error


def _run(session: Any, arrays: dict[str, Any], name: str) -> list[Any]:
    """All outputs of a session.

    Raises:
        MemoryError: There is not enough: fewer images may fit.
        RuntimeError: Anything else that onnxruntime, whose errors have no class in common, says.
    """
    try:
        outs: list[Any] = session.run(None, arrays)
    except Exception as error:
        line = " ".join(str(error).split())
        kind = MemoryError if "allocate memory" in line else RuntimeError
        shapes = ", ".join(_sizes(a.shape) for a in arrays.values())
        raise kind(f"{name} fails on inputs of shape {shapes}: {line}") from error
    return outs


def _axes(value: Any) -> tuple[int | None, ...] | None:
    """An input's or output's axes: numbers where they are fixed; `None` in all where not even the rank is known."""
    if not value.shape:
        return None
    return tuple(a if isinstance(a, int) and a > 0 else None for a in value.shape)


def _agree(axes: tuple[int | None, ...], x: Tensor) -> bool:
    """Whether a tensor is what the axes say, the batch aside."""
    return x.ndim == len(axes) and all(a in {None, n} for a, n in zip(axes[1:], x.shape[1:], strict=True))


def _sizes(axes: Iterable[int | None]) -> str:
    return "(" + ", ".join("any" if a is None else str(a) for a in axes) + ")"


def _locations(data: bytes) -> list[str]:
    """The files beside it that an ONNX file keeps weights in."""
    found = set()
    for match in LOCATION.finditer(data):
        at = match.end()
        size = data[at : at + 2]  # a varint; no path is longer than two bytes of it say
        if len(size) == 2:
            length, at = (size[0], at + 1) if size[0] < 128 else (size[0] - 128 + 128 * size[1], at + 2)
            found.add(data[at : at + length].decode("utf-8", "replace"))
    return sorted(found)


# -- torch networks, compiled ------------------------------------------------------------------------------------------


class Compiled:
    """A torch network exported for one shape of input after another, with a free batch axis; torch for all others.

    Args:
        model: The Model, with its network's private copy, adapter and further arguments.
        plain: What torch runs, for inputs that `build` never saw.
        pick: `(output, adapter) -> scores`, the Model's own.
    """

    def __init__(self, model: Any, plain: Callable[..., Any], pick: Callable[[Any, Any], Any]) -> None:
        self.backend: Backend = model.backend
        self.plain = plain
        self.adapter: str | int | None = model.adapter
        self.network = _Picked(model._twin, model.adapter, model.forward, pick).eval()
        self._runs: dict[Any, Callable[[Tensor], Tensor]] = {}

    def __call__(self, x: Tensor, **more: Any) -> Any:
        """What the network returns, as far as the adapter looks."""
        run = self._runs.get(_key(x))
        if run is None:
            return self.plain(x, **more)
        out = run(x)
        return out if self.adapter in {None, "raw"} else {self.adapter: out}

    def build(self, x: Tensor, **more: Any) -> Any:
        """Compile for inputs of this shape, and run these."""
        if _key(x) not in self._runs:
            data = export(self.network, x)
            self._runs[_key(x)] = _onnx(data, x) if self.backend == "onnx" else _openvino(data, self.backend)
        return self(x, **more)


def _key(x: Tensor) -> Any:
    return tuple(x.shape[1:]), x.dtype, x.device


class _Picked(nn.Module):
    """A network whose output is the tensor of scores."""

    def __init__(
        self, network: nn.Module, adapter: str | int | None, arguments: dict[str, Any], pick: Callable[[Any, Any], Any]
    ) -> None:
        super().__init__()
        self.network, self.adapter, self.arguments, self.pick = network, adapter, arguments, pick

    def forward(self, x: Tensor) -> Any:
        """The scores of a batch."""
        return self.pick(self.network(x, **self.arguments), self.adapter)


def export(network: nn.Module, x: Tensor) -> bytes:
    """A network as an ONNX file's bytes, for any number of inputs of this shape.

    Args:
        network: In evaluation mode.
        x: An example.
    """
    x = x.detach()
    x = torch.cat([x, x]) if len(x) < 2 else x  # some versions of torch take an axis of one for a constant
    with _silence(), torch.no_grad():
        program: Any = torch.onnx.export(
            network,
            (x,),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
            external_data=False,
            verbose=False,
        )
        data: bytes = program.model_proto.SerializeToString()
    return data


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep exporters from warning and from filling the log and the terminal: one sentence elsewhere tells what failed."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _onnx(data: bytes, x: Tensor) -> Callable[[Tensor], Tensor]:
    session = _session(data, None, x.device.type)
    name = session.get_inputs()[0].name

    def run(x: Tensor) -> Tensor:
        # numpy sees torch's memory, and onnxruntime numpy's: nothing is copied on the CPU
        (out,) = _run(session, {name: x.detach().cpu().contiguous().numpy()}, "the exported network")
        return torch.from_numpy(out).to(x.device)

    return run


@functools.cache
def _core() -> Any:
    import openvino

    return openvino.Core()


def _openvino(data: bytes, backend: Backend) -> Callable[[Tensor], Tensor]:
    # The reader of ONNX, not `convert_model`: that one also takes torch modules, but reports its use over the network.
    core = _core()
    compiled = core.compile_model(
        core.read_model(data),
        "CPU",
        {
            # by itself it takes bfloat16 wherever the processor has it
            "INFERENCE_PRECISION_HINT": "bf16" if backend == "openvino-bf16" else "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
        },
    )
    request = compiled.create_infer_request()

    def run(x: Tensor) -> Tensor:
        found = request.infer([x.detach().contiguous().numpy()], share_inputs=True)  # outputs are copied unless shared
        return torch.from_numpy(found[0])

    return run


def unfit(backend: Backend, model: Any, output: Any) -> str | None:
    """Why a Model's network is not even tried with a backend; `None` if it is.

    Args:
        backend: What would run it.
        model: The Model, which has run the network.
        output: What that gave, adapted.
    """
    adapter, twin = model.adapter, model._twin
    if twin is None:
        return "the network cannot be copied"
    if not isinstance(output, Tensor):
        return "its output is no single tensor"
    if any(getattr(m, kind) for m in twin.modules() for kind in _lean.HOOKS):
        return "the network has hooks, which must be called"
    if adapter is not None and not isinstance(adapter, str | int):
        return "its adapter is a callable; give a key or an index"
    if any(isinstance(v, Tensor) for v in model.forward.values()):
        return "tensors in forward= are not exported"
    if output.dtype != torch.float32:
        return f"its outputs are {output.dtype}, and only float32 is exported"
    if output.device.type != "cpu" and (backend != "onnx" or "CUDAExecutionProvider" not in _providers()):
        return f"it does not run on {output.device.type}"
    return None


def _providers() -> list[str]:
    import onnxruntime

    found: list[str] = onnxruntime.get_available_providers()
    return found


def reason(error: BaseException) -> str:
    """What began it, in one line: exporters wrap an error in pages."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines[0].split())[:200]}" if lines else type(error).__name__
