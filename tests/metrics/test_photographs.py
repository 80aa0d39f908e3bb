import io
from pathlib import Path

import numpy as np
import pytest
import torch
from attriscope.metrics.photographs import Gallery, Preparation, decode, find, names, read
from PIL import Image

RED = (200, 40, 10)


def save(tmp_path, image, name="a.png", **options):
    path = tmp_path / name
    image.save(path, **options)
    return path


def test_colour_is_read_as_it_is(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    assert np.array_equal(decode(save(tmp_path, Image.fromarray(pixels))), pixels)


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "YCbCr", "LA", "RGBA", "I;16"])
def test_every_mode_gives_three_channels_of_the_same_brightness(tmp_path, mode):
    grey = Image.new("L", (6, 4), 255)
    image = Image.fromarray(np.full((4, 6), 65535, np.uint16)) if mode == "I;16" else grey.convert("RGB").convert(mode)
    path = save(tmp_path, image, "a.tif" if mode in {"CMYK", "YCbCr"} else "a.png")
    pixels = decode(path)
    assert pixels.shape == (4, 6, 3)
    assert pixels.min() >= (254 if pixels.dtype == np.uint8 else 1)


def test_a_palette_keeps_its_colours(tmp_path):
    assert tuple(decode(save(tmp_path, Image.new("RGB", (4, 4), RED).quantize(4)))[0, 0]) == RED


def test_sixteen_bits_are_scaled_and_not_cut_off(tmp_path):
    values = np.array([[0, 1, 255, 256], [32768, 65534, 65535, 1000]], np.uint16)
    pixels = decode(save(tmp_path, Image.fromarray(values)))
    assert pixels.dtype == np.float32
    assert np.allclose(pixels[..., 1], values / 65535, atol=1e-7)
    photograph = read([tmp_path / "a.png"], Preparation((2, 2), 2))[0]
    assert photograph.input.shape == (3, 2, 2)
    assert np.allclose(photograph.pixels()[..., 0], values / 65535, atol=1e-7)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_parts_lie_over_white(tmp_path, mode):
    image = Image.new("RGBA", (4, 2), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 2, 2))
    if mode == "P":
        image = Image.new("P", (4, 2), 1)
        image.putpalette([0, 0, 0, 9, 9, 9])
        image.paste(0, (0, 0, 2, 2))
        path = save(tmp_path, image, transparency=1)
    else:
        path = save(tmp_path, image.convert(mode))
    pixels = decode(path)
    assert pixels[0, 0].tolist() == [0, 0, 0]
    assert pixels[0, 3].tolist() == [255, 255, 255]


def test_half_transparent_is_half_white(tmp_path):
    assert abs(int(decode(save(tmp_path, Image.new("RGBA", (2, 2), (0, 0, 0, 128))))[0, 0, 0]) - 127) <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_stand_upright(tmp_path, orientation):
    upright = np.zeros((30, 20, 3), np.uint8)
    upright[:8, :6] = 255  # a corner
    # what a camera stores so that this orientation turns it upright
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.transpose(1, 0, 2),
        6: np.rot90(upright), 7: np.rot90(upright.transpose(1, 0, 2), 2), 8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = decode(save(tmp_path, Image.fromarray(np.ascontiguousarray(stored)), exif=exif))
    assert np.array_equal(pixels, upright)


def test_damaged_metadata_do_not_matter(tmp_path):
    path = save(tmp_path, Image.new("RGB", (4, 4), RED), "a.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\xff\x01\x12")
    assert decode(path).shape == (4, 4, 3)


def test_floats_must_be_a_brightness(tmp_path):
    fine = save(tmp_path, Image.fromarray(np.full((3, 3), 0.25, np.float32)), "fine.tif")
    assert np.allclose(decode(fine), 0.25)
    for name, value, said in (("nan.tif", np.nan, "NaN"), ("large.tif", 300.0, "black and white are not known")):
        with pytest.raises(ValueError, match=said):
            decode(save(tmp_path, Image.fromarray(np.full((3, 3), value, np.float32)), name))


def test_bad_files_are_named(tmp_path):
    (tmp_path / "text.jpg").write_text("I am no image")
    (tmp_path / "empty.png").write_bytes(b"")
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(buffer, "JPEG")
    (tmp_path / "half.jpg").write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    (tmp_path / "none").mkdir()
    for name in ("text.jpg", "empty.png", "missing.jpg", "none"):
        with pytest.raises((OSError, ValueError), match=name):
            find([tmp_path / name])
    assert len(find([tmp_path / "half.jpg"])) == 1  # its beginning is an image's
    with pytest.raises(OSError, match=r"half\.jpg"):
        read([tmp_path / "half.jpg"], Preparation((8, 8), 8))


def test_a_folder_is_all_images_in_it(tmp_path):
    for name in ("b.png", "a.JPG", ".hidden.png"):
        Image.new("RGB", (2, 2)).save(tmp_path / name, "PNG")
    (tmp_path / "labels.csv").write_text("file,class_index\n")
    (tmp_path / "folder.png").mkdir()
    assert [p.name for p in find([tmp_path])] == ["a.JPG", "b.png"]
    again = [tmp_path / "b.png", tmp_path, tmp_path / "folder.png" / ".." / "b.png"]
    assert [p.name for p in find(again)] == ["b.png", "a.JPG"]  # given twice, taken once


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["x/cat.jpg"], ["cat"]),
        (["x/cat.jpg", "y/cat.jpg"], ["x_cat", "y_cat"]),
        (["x/cat.jpg", "x/cat.png", "x/dog.png"], ["cat_jpg", "cat_png", "dog"]),
        (["x/cat.jpg", "y/CAT.jpg"], ["x_cat", "y_CAT"]),
        (["u/x/cat.jpg", "v/x/cat.jpg"], ["u_x_cat_jpg", "v_x_cat_jpg"]),
        (["x/cat.jpg", "y/cat.jpg", "y/cat.png"], ["x_cat_jpg", "y_cat_jpg", "y_cat_png"]),
        (["x/cat.jpg", "y/cat.jpg", "z/x_cat.jpg"], ["x_cat_jpg", "y_cat", "z_x_cat_jpg"]),
    ],
)
def test_names_tell_files_apart(paths, expected):
    found = names([Path("/tmp") / p for p in paths])  # noqa: S108  nothing is read
    assert len({n.lower() for n in found}) == len(paths)
    assert found == expected


@pytest.mark.parametrize("size", [(400, 300), (300, 400), (256, 256), (1, 1), (3000, 7), (17, 1000), (225, 224)])
@pytest.mark.parametrize("resize", [224, 256, (224, 224), (256, 256)])
def test_the_box_is_what_the_crop_shows(size, resize):
    preparation = Preparation((224, 224), resize)
    left, top, right, bottom = preparation.box(*size)
    assert 0 <= left < right <= size[0]
    assert 0 <= top < bottom <= size[1]
    # a ramp resized and cropped begins and ends where the box does
    if min(size) < 100 or max(size) > 1000:
        return
    for axis, (low, high) in enumerate(((left, right), (top, bottom))):
        ramp = np.arange(size[axis], dtype=np.float32) + 0.5
        plane = np.broadcast_to(ramp[None, :] if axis == 0 else ramp[:, None], (size[1], size[0])) / size[axis]
        image = preparation.apply(np.repeat(plane[..., None], 3, 2).astype(np.float32))[0] * size[axis]
        line = image.mean(axis)
        step = (high - low) / 224
        assert abs(float(line[20]) - (low + 20.5 * step)) < 0.05
        assert abs(float(line[-21]) - (high - 20.5 * step)) < 0.05


def test_a_panorama_is_prepared_like_the_middle_of_it():
    rng = np.random.default_rng(0)
    wide = rng.integers(0, 256, (20, 4000, 3), np.uint8)
    image = Preparation((224, 224), 256).apply(wide)  # 51200 pixels wide as a whole
    middle = Preparation((224, 224), 256).apply(np.ascontiguousarray(wide[:, 1900:2100]))
    assert torch.allclose(image, middle, atol=0.02)


def test_odd_preparations():
    assert Preparation((32, 16), 40).apply(np.zeros((50, 60, 3), np.uint8)).shape == (3, 32, 16)
    assert Preparation((64, 64), 32).apply(np.zeros((50, 60, 3), np.uint8)).shape == (3, 64, 64)  # never less than the crop
    grey = Preparation((8, 8), 8, channels=1).apply(np.full((9, 9, 3), 128, np.uint8))
    assert grey.shape == (1, 8, 8)
    assert torch.allclose(grey, torch.tensor(128 / 255), atol=1e-6)


def test_the_resize_is_pillows_own(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (300, 451, 3), np.uint8)
    expected = np.array(Image.fromarray(pixels).resize((384, 256), Image.Resampling.BICUBIC))[16:240, 80:304] / 255
    assert torch.equal(Preparation((224, 224), 256).apply(pixels), torch.from_numpy(expected).float().permute(2, 0, 1))


def test_figures_get_smaller_photographs(tmp_path):
    Image.new("RGB", (2400, 1000), RED).save(tmp_path / "a.png")
    photographs = read([tmp_path / "a.png"], Preparation((10, 10), 10))
    gallery = Gallery(photographs)
    assert gallery[0].shape == (500, 1200, 3)
    assert gallery[0].dtype == np.float32
    assert np.allclose(photographs[0].reduced(), (350, 0, 850, 500), atol=0.01)
    assert photographs[0].pixels().shape == (1000, 2400, 3)
    with pytest.raises(IndexError):
        gallery[1]


@pytest.mark.parametrize("size", [16, (16,), "16", None, (16, 16, 3), (16.0, 16.0)])
def test_a_size_that_is_not_height_and_width_is_refused_at_once(size):
    with pytest.raises(TypeError, match="give height and width" + (r", as \(16, 16\)" if size == 16 else "")):
        Preparation(size=size)
    with pytest.raises(ValueError, match="at least 1 pixel"):
        Preparation(size=(0, 16))
