"""Networks that torch does not run: ONNX files, and torch networks that are exported for passes without gradients."""

import contextlib
import logging
import pickle
import re
import sys
import warnings

import numpy as np
import pytest
import torch
from attriscope.attribution import _backends, available, create
from attriscope.attribution.model import Model
from torch import nn

pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

# float32 sums of at most a few hundred terms of order 1, added up in another order
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
FLOAT = onnx.TensorProto.FLOAT


def needs(backend):
    if backend.startswith("openvino"):
        pytest.importorskip("openvino")


def compiled(model):
    return isinstance(model._engines[0], _backends.Compiled)


@pytest.fixture
def graph(tmp_path):
    """Write an ONNX file made by hand: inputs and outputs by name with their axes, and nodes."""

    def write(nodes, inputs, outputs, constants=None, *, kind=FLOAT, name="net.onnx", **more):
        made = onnx.helper.make_graph(
            nodes, "net",
            [onnx.helper.make_tensor_value_info(n, kind, axes) for n, axes in inputs.items()],
            [onnx.helper.make_tensor_value_info(n, kind, axes) for n, axes in outputs.items()],
            [onnx.numpy_helper.from_array(np.asarray(v), n) for n, v in (constants or {}).items()],
        )  # fmt: skip
        model = onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
        onnx.save(model, tmp_path / name, **more)
        return tmp_path / name

    return write


def node(kind, inputs, *outputs, **attributes):
    return onnx.helper.make_node(kind, list(inputs), list(outputs), **attributes)


@pytest.fixture
def linear_file(graph):
    """`linear_file(weight)`: the flattened image times a (F, C) matrix."""

    def write(weight, *, batch="n", shape=(3, 8, 8), dtype=np.float32, **more):
        kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        nodes = [node("Flatten", ["x"], "flat"), node("MatMul", ["flat", "w"], "y")]
        axes = {"x": [batch, *shape]}, {"y": [batch, weight.shape[1]]}
        return graph(nodes, *axes, {"w": weight.numpy().astype(dtype)}, kind=kind, **more)

    return write


@pytest.fixture
def weight():
    return torch.randn(192, 5, generator=torch.Generator().manual_seed(3)) / 14


@pytest.fixture(scope="module")
def cnn_file(networks, tmp_path_factory):
    """A convolutional network as torch's exporter writes it, and the network."""
    network = networks.cnn()
    path = tmp_path_factory.mktemp("onnx") / "cnn.onnx"
    path.write_bytes(_backends.export(network, torch.rand(1, 3, 8, 8)))
    return path, network


# -- ONNX files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_text", [True, False])
@pytest.mark.parametrize("n", [1, 3, 7])
def test_a_file_gives_what_its_network_gives(cnn_file, images, n, as_text):
    path, network = cnn_file
    model = Model(str(path) if as_text else path, mean=(0.4,) * 3, std=(0.2,) * 3)
    x = images(n)
    wanted = network((x - 0.4) / 0.2).detach()
    torch.testing.assert_close(model.outputs(x), wanted, **CLOSE)
    torch.testing.assert_close(model.scores(x, 2, output="probability"), wanted.softmax(1)[:, 2], **CLOSE)
    assert not isinstance(model.network, nn.Module)
    assert model.forwards == 2 * n


@pytest.mark.parametrize(
    ("name", "options"), [("rise", {"masks": 40, "grid": 3}), ("occlusion", {"window": 3, "stride": 2})]
)
def test_black_box_methods_give_the_same_map_on_the_file(cnn_file, images, name, options):
    path, network = cnn_file
    x = images(2)
    maps = create(name, Model(path), **options).attribute(x, 1)
    assert maps.abs().max() > 0.01
    torch.testing.assert_close(maps, create(name, Model(network), **options).attribute(x, 1), **CLOSE)
    torch.testing.assert_close(create(name, str(path), **options).attribute(x, 1), maps, **CLOSE)


def test_a_file_has_no_gradients_and_no_layers(cnn_file, images):
    path, _ = cnn_file
    model = Model(path)
    assert available(model=model) == [
        n for n in available() if not {"gradient", "layer", "attention"} & create_needs(n)
    ]
    with pytest.raises(ValueError, match="needs gradients"):
        create("saliency", model)
    with pytest.raises(ValueError, match="needs no gradients"):
        model.gradients(images(), 0)
    with pytest.raises(ValueError, match=r"needs an nn\.Module"):
        model.layers(images())


def create_needs(name):
    from attriscope.attribution import describe

    return set(describe(name)["needs"])


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_a_fixed_batch_axis(linear_file, weight, images, batch, n):
    x = images(n)
    got = Model(linear_file(weight, batch=batch)).outputs(x)
    torch.testing.assert_close(got, x.flatten(1) @ weight, **CLOSE)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_the_file_s_own_precision(linear_file, weight, images, dtype):
    x = images()
    got = Model(linear_file(weight, dtype=dtype)).outputs(x)
    assert got.numpy().dtype == dtype
    # half precision has 11 bits: 5e-4 of each of the terms, which are below 1
    torch.testing.assert_close(got.float(), x.flatten(1) @ weight, rtol=1e-2, atol=1e-2)


def test_of_several_outputs_the_first_has_the_scores(graph, images):
    path = graph(
        [
            node("ReduceMean", ["x"], "low", axes=[2, 3], keepdims=0),
            node("ReduceMax", ["x"], "logits", axes=[2, 3], keepdims=0),
        ],
        {"x": ["n", 3, 8, 8]}, {"low": ["n", 3], "logits": ["n", 3]},
    )  # fmt: skip
    x = images()
    torch.testing.assert_close(Model(path).outputs(x), x.mean((2, 3)), **CLOSE)
    torch.testing.assert_close(Model(path, adapter="logits").outputs(x), x.amax((2, 3)), **CLOSE)
    assert set(Model(path, adapter="raw").outputs(x)) == {"low", "logits"}


@pytest.mark.parametrize("batch", ["n", 2])
def test_further_inputs_come_from_forward(graph, images, batch):
    path = graph(
        [node("ReduceMean", ["x"], "means", axes=[2, 3], keepdims=0), node("Add", ["means", "extra"], "y")],
        {"extra": [batch, 3], "x": [batch, 3, 8, 8]}, {"y": [batch, 3]},
    )  # fmt: skip
    x = images(5)
    extra = torch.arange(15.0).reshape(5, 3)
    model = Model(path, forward={"extra": extra}, batch_size=4)
    torch.testing.assert_close(model.outputs(x), x.mean((2, 3)) + extra, **CLOSE)
    with pytest.raises(ValueError, match="left are extra, x"):
        Model(path)
    with pytest.raises(ValueError, match="no input 'more': it has extra, x"):
        Model(path, forward={"more": extra})


def test_bad_files(tmp_path, linear_file, graph, weight, images):
    axes = {"x": ["n", 3, 8, 8]}, {"y": ["n", 3, 8, 8]}
    bytes_file = graph([node("Identity", ["x"], "y")], *axes, kind=onnx.TensorProto.UINT8, name="bytes.onnx")
    with pytest.raises(FileNotFoundError, match=r"there is no file .*no\.onnx"):
        Model(tmp_path / "no.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"PK\x03\x04 this is a zip")
    with pytest.raises(ValueError, match=r"bad\.onnx is no ONNX file that onnxruntime can read: [^\n]*$"):
        Model(str(tmp_path / "bad.onnx"))
    with pytest.raises(ValueError, match=r"'resnet50': pass an nn\.Module, a callable, or the path of an \.onnx file"):
        Model("resnet50")
    with pytest.raises(ValueError, match=r"takes \(any, 192\), 2 axes, and kind='image' has 4: .*'table' 2"):
        Model(linear_file(weight, shape=(192,)))
    with pytest.raises(ValueError, match=r"takes \(any, 3, 8, 8\), and the inputs are \(1, 3, 9, 9\)"):
        Model(linear_file(weight)).outputs(images(height=9, width=9))
    with pytest.raises(ValueError, match=r"takes tensor\(uint8\): export it with an input of floating point"):
        Model(bytes_file)


def test_a_table(linear_file, weight):
    x = torch.rand(4, 192, generator=torch.Generator().manual_seed(0))
    model = Model(linear_file(weight, shape=(192,)), kind="table")
    torch.testing.assert_close(model.outputs(x), x @ weight, **CLOSE)


def test_onnxruntime_is_missing(cnn_file, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r"needs onnxruntime, .*pip install 'attriscope\[onnx\]'"):
        Model(cnn_file[0])


def test_the_fingerprint_is_that_of_the_bytes(linear_file, weight):
    first = Model(linear_file(weight)).fingerprint
    assert Model(linear_file(weight, name="copy.onnx")).fingerprint == first
    assert Model(linear_file(weight), mean=0.5).fingerprint != first
    assert Model(linear_file(weight + 1e-3)).fingerprint != first


def test_weights_in_a_file_beside(linear_file, weight, images, tmp_path):
    """As torch writes files: the graph's own bytes do not change when the weights do."""
    apart = {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 0}
    path = linear_file(weight, **apart)
    first, graph = Model(path), path.read_bytes()
    x = images()
    torch.testing.assert_close(first.outputs(x), x.flatten(1) @ weight, **CLOSE)
    torch.testing.assert_close(pickle.loads(pickle.dumps(first)).outputs(x), x.flatten(1) @ weight, **CLOSE)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"keeps its weights in .*weights\.bin, which is not there"):
        Model(path)
    second = Model(linear_file(weight * 2, **apart))
    assert path.read_bytes() == graph
    assert second.fingerprint != first.fingerprint


def test_a_pickle_holds_the_file(linear_file, weight, images):
    path = linear_file(weight)
    model, x = Model(path, mean=0.5, std=0.2), images()
    state, wanted, named = pickle.dumps(model), model.outputs(x), model.fingerprint
    path.unlink()
    again = pickle.loads(state)
    torch.testing.assert_close(again.outputs(x), wanted, rtol=0, atol=0)
    assert again.fingerprint == named
    assert again.differentiable is False


def test_errors_of_onnxruntime(cnn_file, images):
    """Its own have no class in common with Python's; where memory runs out the batch is halved."""
    path, network = cnn_file
    model, x = Model(path, batch_size=4), images(7)
    session, sizes = model.network._session("cpu"), []

    class Fail(Exception):  # noqa: N818  as onnxruntime calls it
        pass

    class Small:
        def run(self, names, arrays):
            sizes.append(len(arrays["input"]))
            if sizes[-1] > 2:
                raise Fail("Failed to allocate memory for requested buffer of size 12")
            if len(sizes) > 20:
                raise Fail("Non-zero status\ncode")
            return session.run(names, arrays)

    model.network._sessions["cpu"] = Small()
    torch.testing.assert_close(model.outputs(x), network(x).detach(), **CLOSE)
    assert sizes[2:] == [4, 2, 2, 2, 1]
    with pytest.raises(RuntimeError, match=r"cnn\.onnx fails on inputs of shape \(2, 3, 8, 8\): Non-zero status code$"):
        for _ in range(9):
            model.outputs(x)


def test_outputs_are_not_overwritten(cnn_file, images):
    file = Model(cnn_file[0]).network
    first = file(images())
    kept = first.clone()
    file(images(seed=1))
    assert torch.equal(first, kept)


# -- torch networks, compiled ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
@pytest.mark.parametrize("name", ["cnn", "resnet", "efficientnet", "vit"])
def test_a_compiled_network_gives_what_torch_gives(networks, images, name, backend, untouched):
    needs(backend)
    network = getattr(networks, name)()
    network.train()
    state = untouched(network)
    model = Model(network, mean=(0.4,) * 3, std=(0.2,) * 3, backend=backend, batch_size=16)
    plain = Model(network, mean=(0.4,) * 3, std=(0.2,) * 3, fast=False)
    for n in (1, 3, 7):
        x = images(n, height=16, width=16, seed=n)
        torch.testing.assert_close(model.outputs(x), plain.outputs(x), **CLOSE)
    assert compiled(model)
    state.check()


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_gradients_and_layers_are_torch_s(networks, images, backend):
    needs(backend)
    network, x = networks.cnn(), images()
    model, plain = Model(network, backend=backend), Model(network)
    for got, wanted in zip(model.gradients(x, 1), plain.gradients(x, 1), strict=True):
        torch.testing.assert_close(got, wanted, **CLOSE)
    assert compiled(model)
    torch.testing.assert_close(model.activations(x, "3"), plain.activations(x, "3"), **CLOSE)
    trunk, head = model.split("3")
    torch.testing.assert_close(head.outputs(trunk.outputs(x)), plain.outputs(x), **CLOSE)
    assert trunk.backend == head.backend == "torch"
    assert available(model=model) == available(model=plain)


def test_outputs_of_a_compiled_network_are_not_overwritten(networks, images):
    pytest.importorskip("openvino")
    model = Model(networks.cnn(), backend="openvino")
    model.outputs(images())
    first = model._engines[0](images())
    kept = first.clone()
    model._engines[0](images(seed=1))
    assert torch.equal(first, kept)


def test_every_shape_is_exported_and_right(networks, images):
    network = networks.cnn()
    model = Model(network, backend="onnx")
    for size in (8, 12, 8):
        x = images(height=size)
        torch.testing.assert_close(model.outputs(x), network(x).detach(), **CLOSE)
    assert len(model._engines[0]._runs) == 2


def test_a_network_trained_further_is_exported_anew(networks, images):
    network, x = networks.cnn(), images()
    model = Model(network, backend="onnx")
    model.outputs(x)
    with torch.no_grad():
        network[0].weight.mul_(-2)
    torch.testing.assert_close(model.outputs(x), network(x).detach(), **CLOSE)
    assert compiled(model)


@pytest.mark.parametrize("adapter", [None, "logits", "raw", 0])
def test_adapters(networks, images, adapter):
    made = {
        None: lambda m, x: {"aux": m.fc(x.flatten(1)) * 0, "out": m.fc(x.flatten(1))},
        "logits": lambda m, x: {"aux": m.fc(x.flatten(1)) * 0, "logits": m.fc(x.flatten(1))},
        "raw": lambda m, x: m.fc(x.flatten(1)),
        0: lambda m, x: (m.fc(x.flatten(1)), x),
    }[adapter]
    network, x = networks.lively(networks.Of(made, fc=nn.Linear(192, 4))), images()
    model = Model(network, adapter=adapter, backend="onnx")
    torch.testing.assert_close(model.outputs(x), network.fc(x.flatten(1)).detach(), **CLOSE)
    assert compiled(model)


def test_arguments_that_are_no_tensors_are_exported(images):
    class Scaled(nn.Module):
        def forward(self, x, factor=1.0):
            return x.mean((2, 3)) * factor

    x = images()
    model = Model(Scaled(), forward={"factor": 3.0}, backend="onnx")
    torch.testing.assert_close(model.outputs(x), x.mean((2, 3)) * 3, **CLOSE)
    assert compiled(model)


def test_a_network_keeps_nothing_from_being_exported(networks, images):
    """It makes a table on its first call: one that was made while it was exported would hold no numbers."""

    class Tabled(nn.Module):
        def __init__(self):
            super().__init__()
            self.tables = {}

        def forward(self, x):
            if "a" not in self.tables:
                self.tables["a"] = torch.linspace(0, 1, 8)
            return (x * self.tables["a"]).mean((2, 3))

    exported = Tabled().eval()
    with contextlib.suppress(Exception):  # whether it can be exported or not
        _backends.export(exported, images())
    assert exported.tables == {}
    network, x = networks.cached(), images()
    model = Model(network, backend="onnx")
    model.outputs(x)
    assert compiled(model)
    _, gradients = model.gradients(x, 0)
    assert gradients.isfinite().all()
    assert network.table is None


def test_double_precision_is_torch_s(networks, images, recwarn):
    network, x = networks.cnn().double(), images(dtype=torch.float64)
    model = Model(network, backend="onnx")
    torch.testing.assert_close(model.outputs(x), network(x).detach(), rtol=1e-12, atol=1e-12)
    assert not recwarn.list


def told(model, x, why, wanted):
    """What is not used is said once, and torch's own numbers come out."""
    with pytest.warns(RuntimeWarning, match=rf"^backend='{model.backend}' is not used, torch is: {why}") as said:
        got = model.outputs(x)
    assert len(said) == 1
    assert "\n" not in str(said[0].message)
    torch.testing.assert_close(got, wanted.detach(), rtol=1e-5, atol=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.outputs(x)
        model.outputs(x[..., :6, :6])
    assert not compiled(model)


def test_a_wrong_export_is_found_out(networks, images, monkeypatch):
    right = _backends.export
    other = networks.lively(networks.cnn(), seed=1)
    monkeypatch.setattr(_backends, "export", lambda network, x: right(other, x))
    network, x = networks.cnn(), images()
    told(Model(network, backend="onnx"), x, r"it differs from torch by [0-9.e+-]+ of the largest output", network(x))


def test_a_frozen_batch_is_found_out(networks, images, monkeypatch):
    network, x = networks.cnn(), images(5)

    def frozen(made, example):
        import io

        stream = io.BytesIO()
        with _backends._silence():
            torch.onnx.export(made.eval(), (torch.cat([example, example])[:2],), external_data=False).save(stream)
        return stream.getvalue()

    monkeypatch.setattr(_backends, "export", frozen)
    told(Model(network, backend="onnx"), x, ".*Got invalid dimensions", network(x))


def test_a_batch_that_changes_the_output_is_found_out(networks, images, monkeypatch):
    network, x = networks.cnn(), images(5)
    monkeypatch.setattr(_backends, "_onnx", lambda _data, _x: lambda x: network(x).detach() * (2 if len(x) > 2 else 1))
    told(Model(network, backend="onnx"), x, "it differs from torch", network(x))


def test_what_cannot_be_exported_is_run_by_torch(networks, images, capfd):
    class Heard(logging.Handler):
        def emit(self, record):
            heard.append(record.getMessage())

    network, x, heard, log = networks.branching(), images(), [], Heard(logging.WARNING)
    loggers = [logging.getLogger(n) for n in ("torch", "torch.onnx", "torch.fx.experimental.symbolic_shapes")]
    for logger in loggers:
        logger.addHandler(log)
    try:
        told(Model(network, backend="onnx"), x, "GuardOnDataDependentSymNode: Could not guard", network(x))
    finally:
        for logger in loggers:
            logger.removeHandler(log)
    assert capfd.readouterr() == ("", "")  # exporters print pages, and log more
    assert heard == []
    assert logging.root.manager.disable == logging.NOTSET


def test_what_is_not_even_tried(networks, images):
    x = images()
    hooked = networks.cnn()
    hooked[0].register_forward_hook(lambda *_: None)
    model = Model(hooked, backend="onnx")
    told(model, x, "the network has hooks", hooked(x))
    with torch.no_grad():
        hooked[0].weight.mul_(2)
    model.outputs(x)  # looked at anew, and not told again
    network = networks.locked()
    told(Model(network, backend="onnx"), x, "the network cannot be copied", network(x))
    network = networks.cnn()
    told(Model(network, adapter=lambda out: out * 1.0, backend="onnx"), x, "its adapter is a callable", network(x))
    network, mask = networks.optional(), torch.ones(1, 1, 1, 1)
    told(Model(network, forward={"mask": mask}, backend="onnx"), x, "tensors in forward= are not", network(x))


def test_outputs_that_are_no_tensor(images):
    class Boxes(nn.Module):
        def forward(self, x):
            return {"boxes": x.mean((2, 3)), "scores": [x.sum()]}

    model = Model(Boxes(), adapter="raw", backend="onnx")
    with pytest.warns(RuntimeWarning, match="no single tensor"):
        scores = model.scores(images(), lambda out: out["boxes"][:, 0])
    torch.testing.assert_close(scores, images().mean((2, 3))[:, 0], **CLOSE)


def test_bfloat16_is_asked_for_by_name(networks, images):
    needs("openvino")
    network, x = networks.resnet(), images(height=32, width=32)
    model = Model(network, backend="openvino-bf16")
    # 8 bits of mantissa and ten layers: a few times 2^-8 of the largest
    assert (model.outputs(x) - network(x)).abs().max() < 0.15 * network(x).abs().max()
    assert compiled(model)
    plain, exact = Model(network), Model(network, backend="openvino")
    assert exact.fingerprint == plain.fingerprint != model.fingerprint


def test_rise_on_a_compiled_network(networks, images):
    network, x = networks.cnn(), images(2)
    model = Model(network, backend="onnx")
    rise = create("rise", model, masks=120, grid=3)
    torch.testing.assert_close(rise.attribute(x, 1), rise.with_model(Model(network)).attribute(x, 1), **CLOSE)
    assert model._paces["forward"].best  # the batch size is measured with it
    assert compiled(model)


def test_a_pickled_model_keeps_its_backend(networks, images):
    network, x = networks.cnn(), images()
    model = Model(network, backend="onnx")
    wanted = model.outputs(x)
    again = pickle.loads(pickle.dumps(model))
    assert again.backend == "onnx"
    torch.testing.assert_close(again.outputs(x), wanted, **CLOSE)
    assert compiled(again)


def test_a_backend_can_be_set_later(networks, images):
    network, x = networks.cnn(), images()
    model = Model(network)
    wanted = model.outputs(x)
    model.backend = "onnx"
    torch.testing.assert_close(model.outputs(x), wanted, **CLOSE)
    assert compiled(model)
    with pytest.raises(ValueError, match="choose one of"):
        model.backend = "tensorrt"


@pytest.mark.parametrize(
    ("backend", "package", "extra"),
    [
        ("onnx", "onnxruntime", "onnx"),
        ("openvino", "openvino", "openvino"),
        ("openvino-bf16", "onnxscript", "openvino"),
    ],
)
def test_a_missing_package_is_named(networks, monkeypatch, backend, package, extra):
    monkeypatch.setitem(sys.modules, package, None)
    if package != "openvino":
        needs(backend)
    said = re.escape(f"backend={backend!r} needs {package}, which is not installed: pip install 'attriscope[{extra}]'")
    with pytest.raises(ImportError, match=said):
        Model(networks.cnn(), backend=backend)


def test_backends_that_make_no_sense(cnn_file):
    with pytest.raises(ValueError, match="backend='tensorrt': choose one of"):
        Model(nn.Flatten(), backend="tensorrt")
    with pytest.raises(TypeError, match=r"exports an nn\.Module, and the network is a function"):
        Model(lambda x: x, backend="onnx")
    with pytest.raises(ValueError, match="an ONNX file runs in onnxruntime"):
        Model(cnn_file[0], backend="openvino")
    assert Model(cnn_file[0], backend="onnx").backend == "onnx"
