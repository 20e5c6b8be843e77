"""Shared parts of the tests: small pictures and a small detector that needs no weights."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from aigidetect import Calibration, Detector, Threshold, Tiles

POINTS = (Threshold(0.01, 0.9, 0.05, 100, 100, 0.0, 0.03), Threshold(0.05, 0.7, 0.2, 100, 100, 0.02, 0.09))


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--slow"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="slow; run with --slow"))


def array(h=70, w=90, seed=0):
    """(H, W, 3) uint8 with low and high frequencies, another one for every seed."""
    rng = np.random.default_rng(seed)
    smooth = rng.integers(0, 200, size=(max(1, h // 8), max(1, w // 8), 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(smooth).resize((w, h), Image.Resampling.BICUBIC))
    return (image + rng.integers(0, 50, size=(h, w, 3))).clip(0, 255).astype(np.uint8)


def encoded(pixels, suffix, **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}[suffix], **options)
    return buffer.getvalue()


class Toy(nn.Module):
    """A convolutional network whose logit depends on every pixel of its own view only."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.net = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3))
        self.fc = nn.Linear(4, 1)

    def forward(self, x):
        return self.fc(self.net(x).mean(dim=(2, 3)))


@pytest.fixture
def detector():
    calibration = Calibration(temperature=0.05, thresholds=POINTS)
    return Detector(Toy(), Tiles(size=32, max_tiles=4), calibration, name="toy@1", device="cpu")


@pytest.fixture
def folder(tmp_path):
    """Three good pictures, and one broken, in sorted order a, b, c, d; c is broken."""
    root = tmp_path / "folder"
    (root / "sub").mkdir(parents=True)
    (root / "a.jpg").write_bytes(encoded(array(seed=1), "jpg"))
    (root / "b.png").write_bytes(encoded(array(40, 50, seed=2), "png"))
    (root / "c.png").write_bytes(encoded(array(seed=3), "png")[:-800])
    (root / "sub" / "d.webp").write_bytes(encoded(array(20, 20, seed=4), "webp"))
    return root


@pytest.fixture
def small_models(monkeypatch):
    """The architecture `small` beside those of the package, one thread, and no launcher."""
    from aigidetect import models

    from .fit_case import SMALL_MODELS

    monkeypatch.setattr(models, "__path__", [*models.__path__, SMALL_MODELS])
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def traced_graphs(monkeypatch):
    """Names of the detectors whose graph was made."""
    from aigidetect import exporting

    from .backend_case import graph_of

    made = []

    def graph(detector, views, half):
        made.append(detector.name)
        return graph_of(detector.network)

    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is needed to make a graph")
    monkeypatch.setattr(exporting, "_graph", graph)
    return made


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The folder of a small labelled data set; modules with other needs have a fixture of this name of their own."""
    from .fit_case import write_data

    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def samples(data):
    from aigidetect.training.datasets import read_index

    return read_index(data)
