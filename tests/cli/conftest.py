import itertools
import sys

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

NETS = """
import time
import torch
from torch import nn
from attriscope.attribution import Model

def bright():  # the mean of all pixels, and minus it: input_x_gradient is the image
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2))
    with torch.no_grad():
        network[1].weight.copy_(torch.tensor([1.0, -1.0])[:, None].expand(2, 3 * 32 * 32) / 1000)
        network[1].bias.copy_(torch.tensor([0.1, 0.0]))
    return network

def conv():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    return Model(network, mean=(0.5,) * 3, std=(0.5,) * 3)

def byte_model():  # pixels from 0 to 255
    return Model(bright(), bounds=(0.0, 255.0))

def grey():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())

def flat():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 3))

class Slow(nn.Module):
    def forward(self, x):
        time.sleep(0.02)
        return x.mean((2, 3))

def slow():
    return Slow()

def dense():
    return nn.Conv2d(3, 2, 1)

def broken():
    raise RuntimeError("no weights today")

def not_a_number():
    network = bright()
    with torch.no_grad():
        network[1].weight.fill_(float("nan"))
    return network

number = 3
"""
counter = itertools.count()


@pytest.fixture
def nets(tmp_path, monkeypatch):
    """The name of a module with networks, importable from here; its name is new each time."""
    name = f"nets_{next(counter)}"
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / f"{name}.py").write_text(NETS)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "code"), *sys.path])
    yield name
    sys.modules.pop(name, None)


@pytest.fixture
def photo(tmp_path):
    """Write a photograph with a white square in it: name, size, the square's (left, top, right, bottom)."""

    def write(name="photo.png", size=(48, 40), square=(10, 10, 20, 20), **options):
        pixels = np.zeros((size[1], size[0], 3), np.uint8)
        left, top, right, bottom = square
        pixels[top:bottom, left:right] = 255
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, **options)
        return path

    return write


@pytest.fixture
def run():
    """Run the command line in this process: (exit code, stdout, stderr)."""
    from attriscope.cli.app import app

    def call(*words):
        result = CliRunner().invoke(app, [str(w) for w in words], catch_exceptions=False)
        return result.exit_code, result.stdout, result.stderr

    return call


@pytest.fixture
def fails(run):
    """Run what must end with exit code 2, one sentence on stderr and nothing else; the sentence."""

    def call(*words, out=None):
        code, stdout, stderr = run(*words)
        assert code == 2, (code, stdout, stderr)
        assert stdout == ""
        lines = stderr.splitlines()
        assert len(lines) == 1, lines
        assert lines[0].startswith("attriscope: ")
        assert "Traceback" not in stderr
        if out is not None:
            assert not out.exists() or not [p for p in out.rglob("*") if p.is_file()]
        return lines[0].removeprefix("attriscope: ")

    return call
