"""What is done for speed changes no score: folded batch norms, planes cut channel by channel, the stream as a whole."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import transforms

from aigidetect import Calibration, Detector, Tiles, load_detector
from aigidetect.images import load_image
from aigidetect.layers.folding import fold_batch_norms
from aigidetect.models.cvt import ConvProjection
from aigidetect.models.npr_resnet import VARIANTS, build

from .conftest import array, encoded

ROOT = Path(__file__).parent.parent


def with_statistics(network):
    """Batch norms as after training: none of their numbers is that of the start."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.uniform_(0.5, 1.5, generator=generator)
            for tensor in (module.bias.data, module.running_mean):
                tensor.uniform_(-0.5, 0.5, generator=generator)
    return network.eval()


def norms(network):
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@pytest.fixture(scope="module", params=VARIANTS)
def network(request):
    torch.manual_seed(1)
    return with_statistics(build(**VARIANTS[request.param]))


@torch.inference_mode()
def test_a_folded_network_gives_the_same_logits_without_batch_norms(network):
    x = torch.randn(3, 3, 40, 48, generator=torch.Generator().manual_seed(2))
    folded = fold_batch_norms(network)
    assert norms(network) == 24 and norms(folded) == 0
    torch.testing.assert_close(folded(x), network(x), atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_the_projection_of_the_cvt_is_folded_as_well():
    projection = with_statistics(ConvProjection(8, 2))
    folded, grid, first = fold_batch_norms(projection), torch.randn(2, 8, 6, 6), torch.randn(2, 1, 8)
    assert norms(folded) == 0
    torch.testing.assert_close(folded(grid, first), projection(grid, first), atol=1e-5, rtol=1e-5)


def test_folding_leaves_the_network_as_it_was_and_shares_the_rest(network):
    before = {key: value.clone() for key, value in network.state_dict().items()}
    folded = fold_batch_norms(network)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert folded is not network and folded.fc1 is network.fc1 and folded.layer1[0].relu is network.layer1[0].relu


def test_what_does_not_follow_directly_is_not_folded():
    relu = nn.ReLU()
    used_twice = with_statistics(nn.Sequential(relu, nn.Conv2d(3, 4, 1), relu, nn.BatchNorm2d(4)))
    no_statistics = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)).eval()

    class NormFirst(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, x):
            return self.conv1(self.bn1(x))

    for network in (used_twice, no_statistics, with_statistics(NormFirst())):
        assert fold_batch_norms(network) is network


def test_a_detector_keeps_the_network_that_it_was_given():
    network = with_statistics(build(**VARIANTS["npr-ms-ca"]))
    names = list(network.state_dict())
    detector = Detector(network, Tiles(size=16), Calibration(), device="cpu")
    assert detector.network is network and list(detector.network.state_dict()) == names


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK"])
def test_pixels_are_those_that_pillow_gives(mode, tmp_path):
    picture = Image.fromarray(array(37, 53)).convert(mode)
    path = tmp_path / ("x.jpg" if mode == "CMYK" else "x.png")
    picture.save(path)
    pixels, _ = load_image(path)
    with Image.open(path) as image:
        expected = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    assert pixels.is_contiguous() and pixels.dtype == torch.uint8 and torch.equal(pixels, expected)


def test_a_picture_of_the_caller_stays_as_it_was_and_does_not_share_its_pixels():
    picture = Image.fromarray(array(9, 7))
    pixels, _ = load_image(picture)
    pixels.zero_()
    assert np.array_equal(np.asarray(picture), array(9, 7))


@torch.inference_mode()
def test_a_stream_and_the_plain_way_agree(tmp_path):
    torch.manual_seed(0)
    plain, ours = (with_statistics(build(**VARIANTS["npr-ms-ca"])) for _ in range(2))
    ours.load_state_dict(plain.state_dict())
    tiles, calibration = Tiles(size=32, max_tiles=4), Calibration()
    detector = Detector(ours, tiles, calibration, device="cpu")
    sizes = [(20, 30), (70, 90), (64, 64), (33, 200)]
    paths = [tmp_path / f"{i}.{'jpg' if i % 2 else 'png'}" for i in range(len(sizes))]
    for path, size in zip(paths, sizes):
        path.write_bytes(encoded(array(*size), path.suffix[1:]))
    normalise = transforms.Compose([transforms.ToTensor(), transforms.Normalize(tiles.mean, tiles.std)])
    for path, record in zip(paths, detector.stream(paths, batch_size=3), strict=True):
        x = normalise(Image.open(path).convert("RGB"))
        x = torch.cat((x, x.flip(-1)), -1) if x.shape[-1] < 32 else x
        x = torch.cat((x, x.flip(-2)), -2)[:, : max(32, x.shape[-2])]
        logits = [plain(x[None, :, top : top + 32, left : left + 32]).item() for top, left in tiles.corners(*x.shape[-2:])]
        assert record.probability == pytest.approx(torch.tensor(calibration.logit(logits)).sigmoid().item(), abs=1e-4)


def test_the_benchmark_writes_its_figures_and_its_plain_way_gives_the_same_scores(monkeypatch, tmp_path):
    out, threads = tmp_path / "fast.json", torch.get_num_threads()
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    small = "--threads 1 --repeats 1 --points npr"
    monkeypatch.setattr(sys, "argv", ["fast.py", *small.split(), "--output", str(out)])
    try:
        importlib.import_module("fast").main()
    finally:
        torch.set_num_threads(threads)
    figures = json.loads(out.read_text())["npr-ms-ca@1"]
    assert 0 < figures["npr"]["share_of_network"] < 1 and figures["npr"]["machine"]["threads"] == 1
    parts, detector = importlib.import_module("fast_parts"), load_detector("npr-ms-ca", device="cpu")
    paths = parts.make_folder(tmp_path / "small", "small", 2)
    plain = parts.plain_records(parts.plain_network("npr-ms-ca"), detector, paths, 4, 0)
    assert [record.probability for record in detector.stream(paths)] == pytest.approx(plain, abs=1e-4)
