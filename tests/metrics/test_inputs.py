import csv
import json
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from attriscope import metrics
from attriscope.attribution import Model, targets
from attriscope.metrics.inputs import source
from attriscope.metrics.metric import as_mask
from attriscope.metrics.photographs import Preparation
from PIL import Image
from torch import nn
from torch.utils import data

SMALL = Preparation((8, 8), 8, "bilinear")


@pytest.fixture
def model():
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4))
    return Model(network.eval())


@pytest.fixture
def photos(tmp_path):
    """Five photographs, each of one brightness, and their labels.csv."""
    for i, name in enumerate(("ant", "bee", "cat", "dog", "eel")):
        Image.new("RGB", (20 + i, 30), (i * 50,) * 3).save(tmp_path / f"{name}.png")
    write(
        tmp_path,
        [
            ("ant.png", 3, "formica"),
            ("bee.png", 0, "apis"),
            ("cat.png", 1, ""),
            ("dog.png", 2, "canis"),
            ("eel.png", 3, ""),
        ],
    )
    return tmp_path


def write(folder, rows, head=("file", "class_index", "class_name")):
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([head, *rows])


def blocks(found, size=2):
    return list(found.blocks(size))


def brightness(found):
    return [round(float(i.mean()) * 255) for b in blocks(found) for i in b.images]


def names(found):
    return [n for b in blocks(found) for n in b.names]


class Listed(data.Dataset):
    """A map-style dataset over any items; an exception among them is raised."""

    def __init__(self, items, **more):
        self.items = items
        self.__dict__.update(more)
        self.read = []

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        self.read.append(i)
        if isinstance(self.items[i], Exception):
            raise self.items[i]
        return self.items[i]


def images(n=5, size=4):
    return torch.linspace(0, 1, n).view(n, 1, 1, 1).expand(n, 3, size, size).contiguous()


def pil(level, size=(20, 30)):
    return Image.new("RGB", size, (level,) * 3)


# -- blocks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 5, 9])
def test_a_tensor_is_cut_and_not_copied(model, size):
    x = torch.rand(5, 3, 4, 4)
    found = blocks(source(x, model, target=[0, 1, 2, 3, 0]), size)
    assert torch.equal(torch.cat([b.images for b in found]), x)
    assert [len(b) for b in found][:-1] == [size] * (len(found) - 1)
    assert [b.start for b in found] == list(range(0, 5, size))
    assert [t for b in found for t in b.target] == [0, 1, 2, 3, 0]
    assert torch.cat([b.rows for b in found]).tolist() == list(range(5))
    assert all(x.data_ptr() <= b.images.data_ptr() < x.data_ptr() + x.nbytes for b in found)


def test_a_dataset_is_read_as_it_is_needed(model):
    dataset = Listed(list(images(7)))
    stream = source(dataset, model).blocks(2)
    assert dataset.read == []
    next(stream)
    assert dataset.read == [0, 1]
    next(stream)
    assert dataset.read == [0, 1, 2, 3]


@pytest.mark.parametrize("limit", [1, 3, 5, 9])
def test_a_limit_takes_the_first_and_reads_no_more(model, photos, limit):
    first = min(limit, 5)
    endless = (i for i in images(5))
    for inputs in (
        images(),
        photos,
        Listed(list(images())),
        data.DataLoader(list(images()), batch_size=2),
        list(images()),
        endless,
    ):
        found = source(inputs, model, limit=limit, preparation=SMALL)
        assert found.count in {first, None}
        assert len(names(found)) == first
    assert len(list(endless)) == 5 - first


def test_a_block_can_go_to_another_process(model, photos):
    block = blocks(source(photos, model, preparation=SMALL, target="label"))[0]
    again = pickle.loads(pickle.dumps(block))
    assert again.names == block.names
    assert torch.equal(again.images, block.images)


# -- kinds of inputs ---------------------------------------------------------------------------------------------------


def test_a_folder_with_labels(model, photos):
    found = source(photos, model, target="label", preparation=SMALL)
    assert found.count == 5
    assert names(found) == ["ant", "bee", "cat", "dog", "eel"]
    assert brightness(found) == [0, 50, 100, 150, 200]
    assert torch.cat([b.target for b in blocks(found)]).tolist() == [3, 0, 1, 2, 3]
    assert found.classes == {3: "formica", 0: "apis", 2: "canis"}
    assert {k: p.name for k, p in found.files.items()}["cat"] == "cat.png"
    assert [p.name for p in found.paths] == ["ant.png", "bee.png", "cat.png", "dog.png", "eel.png"]


def test_labels_that_are_not_asked_for_do_not_matter(model, photos):
    write(photos, [("ant.png", "many", "x")])
    assert [b.target for b in blocks(source(photos, model, preparation=SMALL))] == [None] * 3
    (photos / "labels.csv").write_bytes(b"\xff\xfe\x00")
    assert [b.target for b in blocks(source(photos, model, preparation=SMALL, target=1))] == [1] * 3
    items = [(i, "no number") for i in images()]
    assert [b.target for b in blocks(source(items, model))] == [None] * 3


def test_photographs_come_in_the_models_bounds(photos):
    byte = Model(nn.Flatten(), bounds=(0.0, 255.0))
    assert [round(float(b.images.max())) for b in source(photos, byte, preparation=SMALL).blocks(1)] == [
        0,
        50,
        100,
        150,
        200,
    ]
    plain = source([pil(255)], nn.Flatten(), preparation=SMALL)
    assert float(blocks(plain)[0].images.max()) == 1.0


def test_a_preparation_is_what_the_photographs_get(model, photos):
    assert blocks(source(photos, model))[0].images.shape == (2, 3, 224, 224)
    assert blocks(source(photos, model, preparation=Preparation((6, 9), 12)))[0].images.shape == (2, 3, 6, 9)


def items_of_every_kind(photos):
    tensors, pils = list(images(5, 8)), [pil(i * 50) for i in range(5)]
    levels = [0, 64, 128, 191, 255]
    yield "tensor", tensors, levels, False
    yield "tensor, label", list(zip(tensors, [3, 0, 1, 2, 3], strict=True)), levels, True
    yield "tensor, label tensor", list(zip(tensors, torch.tensor([3, 0, 1, 2, 3]), strict=True)), levels, True
    yield "tensor, numpy label", list(zip(tensors, np.array([3, 0, 1, 2, 3]), strict=True)), levels, True
    yield "pil", pils, [0, 50, 100, 150, 200], False
    yield "pil, label", list(zip(pils, [3, 0, 1, 2, 3], strict=True)), [0, 50, 100, 150, 200], True
    for image in ("image", "img", "pixel_values"):
        for label in ("label", "labels"):
            yield (
                f"{image}, {label}",
                [{image: p, label: y, "id": "x"} for p, y in zip(pils, [3, 0, 1, 2, 3], strict=True)],
                [0, 50, 100, 150, 200],
                True,
            )
    yield "path", sorted(photos.glob("*.png")), [0, 50, 100, 150, 200], False
    yield (
        "path, label",
        list(zip(map(str, sorted(photos.glob("*.png"))), [3, 0, 1, 2, 3], strict=True)),
        [0, 50, 100, 150, 200],
        True,
    )


def test_items_of_every_kind_come_out_the_same_from_every_container(model, photos):
    for kind, items, levels, labelled in items_of_every_kind(photos):
        loader = data.DataLoader(Listed(items), batch_size=3, collate_fn=list)
        for container in (items, Listed(items), iter(items), loader, data.DataLoader(Listed(items), batch_size=None)):
            found = source(
                container, model, preparation=SMALL, target="label" if labelled and kind[:4] != "path" else None
            )
            got = blocks(found)
            assert [round(float(i.mean()) * 255) for b in got for i in b.images] == levels, (kind, container)
            if labelled and kind[:4] != "path":
                assert torch.cat([b.target for b in got]).tolist() == [3, 0, 1, 2, 3], (kind, container)


def test_a_loaders_batches_are_cut_again(model):
    x, y = torch.rand(7, 3, 4, 4), torch.tensor([0, 1, 2, 3, 2, 1, 0])
    for dataset, loader in (
        (data.TensorDataset(x, y), {"batch_size": 3}),
        (data.TensorDataset(x, y), {"batch_size": 7, "num_workers": 0}),
        (Listed([{"pixel_values": a, "labels": b} for a, b in zip(x, y, strict=True)]), {"batch_size": 2}),
        (Listed([{"image": a, "label": int(b)} for a, b in zip(x, y, strict=True)]), {"batch_size": 4}),
        (
            data.TensorDataset(x, y),
            {"batch_size": 2, "collate_fn": lambda rows: ([r[0] for r in rows], [int(r[1]) for r in rows])},
        ),
    ):
        found = source(data.DataLoader(dataset, **loader), model, target="label")
        got = blocks(found, 2)
        assert found.count == 7
        assert [len(b) for b in got] == [2, 2, 2, 1]
        assert torch.equal(torch.cat([b.images for b in got]), x)
        assert torch.cat([b.target for b in got]).tolist() == y.tolist()
    assert source(data.DataLoader(data.TensorDataset(x), batch_size=3, drop_last=True), model).count == 6


def test_a_loader_that_shuffles_is_refused(model):
    items = list(images())
    for more in (
        {"shuffle": True},
        {"sampler": data.SubsetRandomSampler([0, 1])},
        {"sampler": data.WeightedRandomSampler([1.0] * 5, 5)},
    ):
        with pytest.raises(ValueError, match="shuffle=False"):
            source(data.DataLoader(items, **more), model)
    batches = data.BatchSampler(data.RandomSampler(items), 2, drop_last=False)
    with pytest.raises(ValueError, match="shuffle=False"):
        source(data.DataLoader(items, batch_sampler=batches), model)
    assert len(names(source(data.DataLoader(items, sampler=[4, 0, 2]), model))) == 3


def test_reading_leaves_the_generators_alone(model):
    torch.manual_seed(0)
    state = torch.get_rng_state()
    blocks(source(data.DataLoader(list(images()), batch_size=2), model, target=0))
    assert torch.equal(torch.get_rng_state(), state)


def test_an_iterable_dataset(model):
    class Stream(data.IterableDataset):
        def __iter__(self):
            return iter([(i, k % 4) for k, i in enumerate(images())])

    for inputs in (Stream(), data.DataLoader(Stream(), batch_size=2)):
        found = source(inputs, model, target="label")
        assert found.count is None
        for _ in range(2):  # it can be read again
            assert torch.cat([b.target for b in blocks(found)]).tolist() == [0, 1, 2, 3, 0]


def test_an_iterator_is_read_once(model):
    found = source(iter(images()), model)
    assert found.count is None
    assert len(names(found)) == 5
    with pytest.raises(ValueError, match="read already"):
        blocks(found)


def hugging_face(n=5):
    features = {"image": object(), "label": SimpleNamespace(names=["ant", "bee", "cat", "dog"])}
    rows = [{"image": pil(i * 50), "label": (i + 3) % 4} for i in range(n)]
    return SimpleNamespace(rows=rows, features=features)


class HuggingFace:
    """What a Dataset of Hugging Face looks like; asked for a slice it gives a dict of lists."""

    def __init__(self, rows, features):
        self.rows, self.features = rows, features

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        if isinstance(i, slice):
            return {k: [r[k] for r in self.rows[i]] for k in self.rows[0]}
        if not isinstance(i, int):
            raise TypeError(i)
        return self.rows[i]

    def __iter__(self):
        yield from self.rows


class Streaming:
    def __init__(self, rows, features):
        self.rows, self.features = rows, features

    def __iter__(self):
        yield from self.rows


@pytest.mark.parametrize("kind", [HuggingFace, Streaming])
def test_a_hugging_face_dataset(model, kind):
    found = source(kind(**vars(hugging_face())), model, target="label", preparation=SMALL)
    assert found.count == (5 if kind is HuggingFace else None)
    assert brightness(found) == [0, 50, 100, 150, 200]
    assert torch.cat([b.target for b in blocks(found)]).tolist() == [3, 0, 1, 2, 3]
    assert found.classes == {0: "ant", 1: "bee", 2: "cat", 3: "dog"}


def test_names_of_a_datasets_labels_are_not_the_models_where_they_cannot_be():
    found = source(HuggingFace(**vars(hugging_face())), nn.Flatten(), preparation=SMALL)
    blocks(found)
    assert found.classes == {}
    subset = data.Subset(Listed(list(images()), classes=["a", "b", "c", "d"]), [0, 1])
    assert source(subset, nn.Flatten(), target="label").classes == {0: "a", 1: "b", 2: "c", 3: "d"}


def test_what_is_no_input_is_told(model, tmp_path):
    for inputs, error, said in (
        (np.zeros((2, 3, 4, 4)), TypeError, "from_numpy"),
        ({"train": [], "test": []}, TypeError, "one split"),
        (3, TypeError, "a folder, a list of files"),
        ([], ValueError, "empty"),
        (torch.zeros(0, 3, 4, 4), ValueError, "empty"),
        (tmp_path, ValueError, "no images in it"),
        (tmp_path / "none.png", OSError, "there is no file"),
        ([tmp_path / "none.png"], OSError, "there is no file"),
        (torch.zeros(3, 4, 4), ValueError, "batch axis"),
    ):
        with pytest.raises(error, match=said):
            source(inputs, model)
    for items, error, said in (
        ([object()], TypeError, "image 000 is a object"),
        ([np.zeros((4, 4, 3))], TypeError, "turn it into a tensor"),
        ([{"picture": 1}], TypeError, "item 0 has 'picture', and no image"),
        ([torch.zeros(1, 3, 4, 4)], ValueError, r"image 000 has shape \(1, 3, 4, 4\)"),
        (iter([]), ValueError, "empty"),
    ):
        with pytest.raises(error, match=said):
            blocks(source(items, model))
    with pytest.raises(ValueError, match="block=0"):
        source(images(), model).blocks(0)
    for limit in (0, -1, True, 2.5):
        with pytest.raises(ValueError, match="limit"):
            source(images(), model, limit=limit)
    with pytest.raises(ValueError, match="takes images"):
        source(torch.zeros(2, 3), Model(nn.Linear(3, 2), kind="table"))


# -- images that are wrong ---------------------------------------------------------------------------------------------


def test_whole_numbers_and_nan_and_bounds_are_named(model):
    good = images(3)
    for bad, error, said in (
        ((good[0] * 255).to(torch.uint8), TypeError, r"image 002 is torch.uint8: convert .* / 255"),
        (torch.full((3, 4, 4), torch.nan), ValueError, "image 002: .*NaN"),
        (torch.full((3, 4, 4), 9.0), ValueError, "image 002: .*bounds"),
        (torch.zeros(3, 5, 4), ValueError, "image 002 is 3 x 5 x 4, and 000 is 3 x 4 x 4"),
        (torch.zeros(1, 4, 4), ValueError, "image 002 is 1 x 4 x 4"),
    ):
        for size in (1, 2, 3):
            with pytest.raises(error, match=said):
                blocks(source([good[0], good[1], bad], model), size)
    with pytest.raises(TypeError, match="uint8"):
        source((images() * 255).to(torch.uint8), model)
    with pytest.raises(ValueError, match="NaN"):
        source(torch.full((2, 3, 4, 4), torch.nan), model)


def test_a_damaged_photograph_is_left_out_and_named(model, photos):
    (photos / "bee.png").write_bytes((photos / "bee.png").read_bytes()[:60])
    (photos / "dog.png").write_text("I am no image")
    Image.fromarray(np.full((4, 4), np.nan, np.float32)).save(photos / "fly.tif")
    write(
        photos, [(f"{n}.png", k) for k, n in enumerate(("ant", "bee", "cat", "dog"))] + [("eel.png", 0), ("fly.tif", 0)]
    )
    found = source(photos, model, target="label", names=list("abcdef"), preparation=SMALL)
    got = blocks(found)
    assert [b.names for b in got] == [["a", "c"], ["e"]]  # blocks are filled
    assert [b.start for b in got] == [0, 2]
    assert [b.rows.tolist() for b in got] == [[0, 2], [4]]
    assert [b.target.tolist() for b in got] == [[0, 2], [0]]
    assert set(found.skipped) == {"b", "d", "f"}
    assert "bee.png cannot be read" in found.skipped["b"]
    assert "dog.png is not an image" in found.skipped["d"]
    assert "NaN" in found.skipped["f"]
    assert found.count == 6
    got = blocks(source(photos, model, target=torch.tensor([3, 2, 1, 0, 3, 0]), preparation=SMALL))
    assert [b.target.tolist() for b in got] == [[3, 1], [3]]


def test_a_damaged_item_of_a_dataset_is_left_out_and_named(model):
    truncated = OSError("image file is truncated (3 bytes not processed)")
    items = [images()[0], truncated, SyntaxError("broken PNG file"), images()[1]]
    found = source(Listed(items), model, target=[0, 1, 2, 3])
    assert [(b.names, b.target) for b in blocks(found)] == [(["000", "003"], [0, 3])]
    assert found.skipped == {"001": "image file is truncated (3 bytes not processed)", "002": "broken PNG file"}
    with pytest.raises(ValueError, match="none of the 2 images could be read; 000: image file is truncated"):
        blocks(source(Listed([truncated, truncated]), model))
    with pytest.raises(ValueError, match="failed after 0 images"):
        blocks(source(data.DataLoader(Listed(items), batch_size=2), model))
    with pytest.raises(KeyError):  # a fault of the dataset itself is not hidden
        blocks(source(Listed([KeyError("column")]), model))


# -- names -------------------------------------------------------------------------------------------------------------


def test_names(model, photos, tmp_path):
    assert names(source(images(2), model)) == ["000", "001"]
    assert names(source(images(4), model, names=["a", "A", "b", "a"])) == ["a", "A_2", "b", "a_3"]
    (photos / "in").mkdir()
    pil(3).save(photos / "in" / "ant.png")
    folder = photos.name
    assert names(source([photos / "ant.png", photos / "in"], model)) == [f"{folder}_ant", "in_ant"]
    opened = [Image.open(photos / "ant.png"), Image.open(photos / "in" / "ant.png"), pil(0)]
    assert names(source(opened, model, preparation=SMALL)) == ["ant", "ant_2", "002"]
    rows = [{"image": pil(0), "file_name": "x/wasp.jpg"}, {"image": pil(0), "name": "fly"}]
    assert names(source(rows, model, preparation=SMALL)) == ["wasp", "fly"]
    with pytest.raises(ValueError, match="3 names for 5 images"):
        source(images(), model, names=list("abc"))
    with pytest.raises(ValueError, match="3 names, and more images"):
        blocks(source(iter(images()), model, names=list("abc")))


def test_names_do_not_depend_on_what_can_be_read_today(model):
    items = [{"image": pil(0), "name": "a"}, {"image": pil(0), "name": "a"}, {"image": pil(0), "name": "a"}]
    whole = names(source(items, model, preparation=SMALL))
    assert whole == ["a", "a_2", "a_3"]
    assert names(source(items, model, limit=2, preparation=SMALL)) == whole[:2]


# -- targets -----------------------------------------------------------------------------------------------------------


def test_a_look_at_the_targets_is_nobodys_cost(model):
    blocks(source(images(), model, target=[0] * 5))
    assert model.forwards == 0


def resolved(found, model):
    """The classes as a study would take them."""
    return [t for b in blocks(found) for t in model.resolve(b.images, b.target).value().tolist()]


def test_every_form_of_target_means_the_same_as_for_a_whole_tensor(model):
    x = torch.rand(5, 3, 4, 4)
    for target in (
        None,
        2,
        torch.tensor(2),
        [3, 0, 1, 2, 3],
        (3, 0, 1, 2, 3),
        torch.tensor([3, 0, 1, 2, 3]),
        np.array([3, 0, 1, 2, 3]),
    ):
        whole = model.resolve(x, target).value().tolist()
        assert resolved(source(x, model, target=target), model) == whole
        assert resolved(source(list(x), model, target=target), model) == whole
    frozen = model.resolve(x, None)
    assert resolved(source(x, model, target=frozen), model) == frozen.value().tolist()


def test_targets_of_dense_outputs():
    dense = Model(nn.Conv2d(3, 2, 1))
    x = torch.rand(3, 3, 4, 4)
    fresh = source(x, Model(nn.Conv2d(3, 2, 1)), target=(1, 2, 3))  # three numbers for three images: the outputs decide
    assert [b.target for b in blocks(fresh)] == [(1, 2, 3)] * 2
    each = [(0, 1, 1), (1, 2, 2), (0, 3, 3)]
    for inputs in (x, list(x), iter(x)):
        assert [t for b in source(inputs, dense, target=each).blocks(2) for t in b.target] == each
    assert [b.target for b in source(iter(x), dense, target=(1, 2, 3)).blocks(2)] == [(1, 2, 3)] * 2


def test_callables_are_cut_where_they_can_be(model):
    x = torch.rand(5, 3, 4, 4)
    one = targets.label([0, 1, 2, 3, 0])
    outputs = model.outputs(x)
    got = torch.cat([b.target(model.outputs(b.images)) for b in source(Listed(list(x)), model, target=one).blocks(2)])
    assert torch.allclose(got, one(outputs), atol=1e-6)  # another batch size rounds differently

    def plain(out):
        return out[:, 0]

    assert [b.target for b in source(x, model, target=plain).blocks(3)] == [plain, plain]


def test_targets_that_are_wrong_are_told_before_anything_is_run(model, photos):
    x = images()
    for target, said in (
        ([0, 1], "2 targets for 5 images"),
        (torch.tensor([0, 1]), "2 targets for 5 images"),
        ("labels", "'label'"),
        ("label", "a tensor has no labels"),
    ):
        with pytest.raises(ValueError, match=said):
            source(x, model, target=target)
    for inputs in (x, list(x), iter(x)):
        for target, said in (
            ([0, 0, 0, 0, 9], "target 9 is out of range"),
            (7, "out of range"),
            (torch.rand(5), "long"),
        ):
            with pytest.raises(ValueError, match=said):
                next(source(inputs, model, target=target).blocks(1))
    with pytest.raises(ValueError, match="has no label; items must be"):
        blocks(source(list(x), model, target="label"))
    with pytest.raises(ValueError, match="'dog', no class number"):
        blocks(source([(x[0], "dog")], model, target="label"))
    with pytest.raises(ValueError, match="label of image 001 is 9, and the model has 4"):
        blocks(source([(x[0], 0), (x[1], 9)], model, target="label"), 1)
    write(photos, [(f"{n}.png", 7 if n == "eel" else 0) for n in ("ant", "bee", "cat", "dog", "eel")])
    with pytest.raises(ValueError, match="target 7 is out of range"):
        next(source(photos, model, target="label", preparation=SMALL).blocks(1))
    with pytest.raises(ValueError, match="1 targets, and more images"):
        blocks(source(iter(x), model, target=[0]), 1)


def test_labels_csv_is_told_what_is_wrong_with_it(model, photos):
    write(photos, [("ant.png", 0)])
    assert resolved(source([photos / "ant.png"], model, target="label", preparation=SMALL), model) == [0]
    with pytest.raises(ValueError, match=r"labels.csv does not list bee.png"):
        source(photos, model, target="label")
    assert len(names(source(photos, model, target="label", limit=1, preparation=SMALL))) == 1
    write(photos, [("ant.png", "x")])
    with pytest.raises(ValueError, match="'x', no number"):
        source(photos, model, target="label")
    write(photos, [("ant.png", 0)], ("name", "class"))
    with pytest.raises(ValueError, match="columns file and class_index"):
        source(photos, model, target="label")
    (photos / "labels.csv").unlink()
    with pytest.raises(ValueError, match=r"no labels.csv beside"):
        source(photos, model, target="label")


# -- annotations -------------------------------------------------------------------------------------------------------


def test_annotations_for_all_images_are_cut_like_them(model):
    x = torch.rand(5, 3, 8, 8)
    mask = torch.rand(5, 8, 8) > 0.5
    boxes = [[(i, 0, i + 2, 3)] for i in range(5)]
    for inputs in (x, Listed(list(x))):
        assert torch.equal(
            torch.cat([b.annotations["mask"] for b in source(inputs, model, annotations={"mask": mask}).blocks(2)]),
            mask,
        )
        got = [b.annotations["boxes"] for b in source(inputs, model, annotations={"boxes": boxes}).blocks(2)]
        assert [o for b in got for o in b] == boxes
    with pytest.raises(ValueError, match=r"2 annotations\['boxes'\] for 5 images"):
        source(x, model, annotations={"boxes": boxes[:2]})
    assert [b.annotations for b in source(x, model).blocks(5)] == [None]


@pytest.mark.parametrize("size", [(40, 30), (30, 40), (52, 24), (32, 32)])
@pytest.mark.parametrize("kind", ["boxes", "mask", "file"])
def test_a_box_lies_where_the_photograph_shows_it(model, tmp_path, size, kind):
    """A white rectangle is drawn in the photograph; its box, mapped through the crop, holds the white pixels."""
    box = (12, 6, 22, 17)
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[box[1] : box[3], box[0] : box[2]] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels[..., 0]).save(tmp_path / "mask.gif")
    entry = {
        "boxes": {"boxes": [box]},
        "mask": {"mask": pixels[..., 0] > 0},
        "file": {"mask": str(tmp_path / "mask.gif")},
    }[kind]
    block = next(
        source(
            [tmp_path / "a.png"], model, annotations={"a.png": entry}, preparation=Preparation((32, 32), 40, "nearest")
        ).blocks(1)
    )
    white = block.images[0, 0] > 0.5
    marked = as_mask(block.annotations, block.images)[0]
    # a rounded edge may be a pixel off on each side of the rectangle
    assert int((white ^ marked).sum()) <= 2 * int(white.any(0).sum() + white.any(1).sum())
    assert int((white & marked).sum()) > 0.75 * int(white.sum())


def test_boxes_outside_the_crop_are_dropped(model, tmp_path):
    Image.new("RGB", (64, 16)).save(tmp_path / "a.png")
    given = {"a.png": {"boxes": [[0, 0, 4, 4], [20, 2, 28, 6]]}}
    block = next(
        source([tmp_path / "a.png"], model, annotations=given, preparation=Preparation((16, 16), 16)).blocks(1)
    )
    assert block.annotations == {"boxes": [[[0.0, 2.0, 4.0, 6.0]]]}  # the crop begins at column 24


def test_a_photograph_that_is_squashed_takes_its_boxes_along(model, tmp_path):
    Image.new("RGB", (40, 10)).save(tmp_path / "a.png")
    given = {"a.png": {"boxes": [[10, 5, 20, 10]]}}
    found = source([tmp_path / "a.png"], model, annotations=given, preparation=Preparation((20, 8), (20, 8)))
    assert next(found.blocks(1)).annotations == {"boxes": [[[2.0, 10.0, 4.0, 20.0]]]}


def test_annotations_by_name(model, photos, tmp_path):
    given = {n: {"boxes": [[0, 0, 5, 5]]} for n in ("ant.png", "bee.png", "cat.png", "dog", "eel.png")}
    given["bee.png"] = {"boxes": []}
    got = blocks(source(photos, model, annotations=json.loads(json.dumps(given)), preparation=SMALL))
    assert got[0].annotations["boxes"][1] == []
    given["ant.png"] = {"mask": np.ones((30, 20), bool)}
    got = blocks(source(photos, model, annotations=given, preparation=SMALL))
    assert got[0].annotations["mask"].flatten(1).sum(1).tolist() == [64, 0]
    assert "boxes" in got[1].annotations
    x = torch.rand(2, 3, 8, 8)  # of tensors, in their own pixels
    block = next(
        source(
            list(x),
            model,
            names=["a", "b"],
            annotations={"a": {"boxes": [[1, 2, 3, 4]]}, "b": {"mask": torch.ones(8, 8)}},
        ).blocks(2)
    )
    assert block.annotations["mask"].flatten(1).sum(1).tolist() == [4, 64]
    assert bool(block.annotations["mask"][0, 2:4, 1:3].all())
    for bad, said in (
        ({"ant.png": {"boxes": []}}, "nothing of 4 of 5 images, such as bee.png"),
        ({**given, "eel.png": {"boxes": [[5, 0, 5, 5]]}}, "eel.png: a box is empty"),
        ({**given, "eel.png": {"boxes": [[5, 0]]}}, "eel.png: boxes must be"),
        ({**given, "eel.png": {"boxes": 5}}, "eel.png: boxes must be"),
        ({**given, "eel.png": [1, 2, 3, 4]}, "annotations of eel.png: give"),
        ([1, 2], "annotations must be"),
    ):
        with pytest.raises(ValueError, match=said):
            source(photos, model, annotations=bad, preparation=SMALL)
    with pytest.raises(ValueError, match=r"mask of image ant has shape \(3, 3\), and the image is 30 x 20"):
        blocks(source(photos, model, annotations={**given, "ant.png": {"mask": np.ones((3, 3))}}, preparation=SMALL))


# -- numbers of numpy, and tuples --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "found"),
    [
        (np.int64(1), 1), (np.array(1), 1), (np.uint8(2), 2), (np.array([0, 1, 2]), [[0, 1], [2]]),
        ([np.int64(0), 1, np.int32(2)], [[0, 1], [2]]), ((np.int64(0), 1, 2), [[0, 1], [2]]),
        (np.array([0, 1, 2], np.uint8), [[0, 1], [2]]),
    ],
)  # fmt: skip
def test_numbers_of_numpy_are_numbers(model, target, found):
    got = [b.target for b in source(images(3), model, target=target).blocks(2)]
    assert got == ([found] * 2 if isinstance(found, int) else found)
    assert all(type(t) is int for one in got for t in (one if isinstance(one, list) else [one]))


def test_numbers_of_numpy_explain_the_same_cells(model):
    one, two = (metrics.compare(model, images(2), t, attributors=["saliency"], metrics=[], progress=False)
                for t in (1, np.int64(1)))  # fmt: skip
    assert one.target.tolist() == two.target.tolist() == [1, 1]
    assert torch.equal(one.maps["saliency"], two.maps["saliency"])


def test_an_array_of_fractions_is_refused(model):
    with pytest.raises(ValueError, match="is no target"):
        list(source(images(3), model, target=np.array([0.5, 1, 2])).blocks(2))


@pytest.mark.parametrize("container", [tuple, list])
@pytest.mark.parametrize("count", [3, 6])
def test_a_tuple_is_one_for_each_image_that_is_read_or_of_all(model, container, count):
    target = container([0, 1, 2, 0, 1, 2][:count])
    assert [b.target for b in source(images(6), model, target=target, limit=3).blocks(2)] == [[0, 1], [2]]
    model.outputs(images(2))  # now it is known that the outputs are classes
    assert [b.target for b in source(images(6), model, target=target, limit=3).blocks(2)] == [[0, 1], [2]]
    if count == 3:
        assert [b.target for b in source(iter(images(6)), model, target=target, limit=3).blocks(2)] == [[0, 1], [2]]


def test_a_tuple_that_is_an_entry_of_the_outputs_stays_one():
    dense = Model(nn.Conv2d(3, 2, 1))
    found = source(images(6), dense, target=(1, 2, 3), limit=3)
    assert [b.target for b in found.blocks(2)] == [(1, 2, 3)] * 2
    with pytest.raises(ValueError, match="needs an index of 3 numbers"):
        list(source(images(6), dense, target=(1, 2), limit=2).blocks(2))


def test_a_tuple_of_another_length_is_refused(model):
    with pytest.raises(ValueError, match="index of 1 numbers, not 4"):
        list(source(images(6), model, target=(0, 1, 2, 0), limit=3).blocks(2))
