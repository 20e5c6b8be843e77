"""Heat maps: they show what the score is made of, in the places where it is."""

import os

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from aigidetect import Calibration, Detector, ImageError, SquashCrop, Tiles, Whole, registry
from aigidetect.cli import main
from aigidetect.errors import ExplanationError
from aigidetect.explain import Explanation, make_explanation
from aigidetect.layers.cam import class_activation
from aigidetect.layers.windows import window_evidence
from aigidetect.models import clip_vit, cvt, npr_resnet, resnet, spai, swin, vit

from .conftest import POINTS, Toy, array, encoded


class Red(nn.Module):
    """Reacts to red only; each position of 4 x 4 pixels has its own say."""

    def evidence(self, x):
        red = x[:, 0] - x[:, 1:].amax(dim=1)
        return nn.functional.avg_pool2d(red, 4) * 8 - 1

    def forward(self, x):
        return self.evidence(x).mean(dim=(1, 2))[:, None]


def red_at(top, left, h=64, w=64, side=16):
    pixels = np.full((h, w, 3), 90, np.uint8)
    pixels[top : top + side, left : left + side] = (250, 0, 0)
    return pixels


def tiles(size, most):
    return Tiles(size=size, max_tiles=most, mean=(0, 0, 0), std=(1, 1, 1))


PREPROCESSINGS = {
    "one tile": tiles(64, 1),
    "overlapping tiles": tiles(40, 4),
    "whole": Whole(min_size=16),
    "whole, continued": Whole(min_size=100),
    "squashed": SquashCrop(resize=80, crop=72, mean=(0, 0, 0), std=(1, 1, 1)),
}


@pytest.mark.parametrize("name", PREPROCESSINGS)
@pytest.mark.parametrize(("top", "left"), [(8, 8), (40, 12), (24, 40)])
def test_a_network_that_reacts_to_one_patch_lights_up_there(name, top, left):
    detector = Detector(Red(), PREPROCESSINGS[name], Calibration(), device="cpu")
    found = detector.explain(red_at(top, left)).map
    rows, columns = np.nonzero(found > 0)
    assert found.shape == (64, 64) and found.dtype == np.float32
    # To the side of a position, and that of what it was squashed to.
    assert abs(rows.min() - top) <= 4 and abs(rows.max() - (top + 15)) <= 4
    assert abs(columns.min() - left) <= 4 and abs(columns.max() - (left + 15)) <= 4


def test_places_that_no_view_saw_are_nan_and_dark():
    pixels = np.full((64, 200, 3), 200, np.uint8)
    found = Detector(Red(), tiles(64, 2), Calibration(), device="cpu").explain(pixels)
    assert np.isnan(found.map).all(axis=0).tolist() == [False] * 64 + [True] * 72 + [False] * 64
    overlay = np.asarray(found.overlay())
    assert overlay[:, 70:130].max() < 80 < overlay[:, :60].max()


@pytest.mark.parametrize(("h", "w"), [(1, 1), (3, 90), (90, 3), (64, 64), (65, 130)])
def test_a_map_has_the_size_of_its_picture(h, w):
    for preprocess in PREPROCESSINGS.values():
        found = Detector(Red(), preprocess, Calibration(), device="cpu").explain(array(h, w))
        assert found.map.shape == found.energy.shape == (h, w) and found.overlay().size == (w, h)
        assert np.isfinite(found.map).any()


def test_a_map_is_in_calibrated_logits_so_its_mean_is_the_logit_of_the_prediction():
    network = npr_resnet.build(fusion="multi", channel_attention=True)
    detector = Detector(network, tiles(32, 4), Calibration(temperature=0.5, bias=0.3), device="cpu")
    pixels = array(64, 64)
    assert detector.explain(pixels).map.mean() == pytest.approx(detector.predict(pixels).logit, abs=1e-4)


def test_where_views_overlap_their_mean_counts():
    evidence = [torch.zeros(2, 2), torch.full((2, 2), 3.0)]
    regions = [(0, 0, 4, 4), (0, 2, 4, 6)]
    found = make_explanation(torch.zeros(3, 4, 6, dtype=torch.uint8), evidence, regions, Calibration()).map
    assert found.tolist() == [[0, 0, 1.5, 1.5, 3, 3]] * 4


def test_the_orientation_of_a_file_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    Image.fromarray(red_at(0, 0, 32, 64)).save(tmp_path / "turned.png", exif=exif)
    found = Detector(Red(), Whole(min_size=16), Calibration(), device="cpu").explain(tmp_path / "turned.png")
    assert found.map.shape == (64, 32) and found.map[4, 28] > 0 > found.map[4, 4]


# Of every architecture that explains itself, a small one, and the side of its views.
NETWORKS = {
    "npr": (lambda: npr_resnet.build(), 32),
    "npr-ms-ca": (lambda: npr_resnet.build(fusion="multi", channel_attention=True), 32),
    "npr-sa, non-negative": (lambda: npr_resnet.build(spatial_attention=True, non_negative=True), 32),
    "resnet50-sa-bnn": (lambda: resnet.build(bayesian=True, spatial_attention=True), 32),
    "cvt": (lambda: cvt.CvT(widths=(8, 12, 24), heads=(1, 1, 2), depths=(1, 1, 2)), 64),
    "swin": (lambda: swin.Swin(width=8, depths=(1, 1, 2, 1), heads=(1, 1, 2, 2)), 64),
    "clip": (lambda: clip_vit.CLIPViT(blocks=2, taps=(1, 2), hidden=8, width=24, heads=2, patch=8, image_size=40), 40),
    "spai": (lambda: spai.SPAI(width=16, blocks=2, heads=2, projection=16, query_heads=2, query_width=16), 224),
}


LARGE = {"resnet50-sa-bnn": pytest.mark.slow}


@pytest.mark.parametrize("name", [pytest.param(name, marks=LARGE.get(name, ())) for name in NETWORKS])
def test_the_mean_of_a_views_evidence_is_its_logit(name):
    build, size = NETWORKS[name]
    torch.manual_seed(0)
    network = build().eval()
    x = torch.rand(2, 3, size, size)
    with torch.no_grad():
        evidence, logits = network.evidence(x), network(x)
    assert evidence.ndim == 3 and not evidence.requires_grad
    torch.testing.assert_close(evidence.mean(dim=(1, 2)), logits[:, 0], atol=1e-4, rtol=1e-4)


def test_behind_a_linear_layer_each_position_has_the_logit_of_a_map_that_is_like_it_everywhere():
    torch.manual_seed(0)
    grid, head = torch.randn(2, 5, 3, 4), nn.Linear(5, 1)
    expected = head(grid.permute(0, 2, 3, 1)).squeeze(3)
    torch.testing.assert_close(class_activation(grid, head), expected)


def test_windows_light_up_where_the_one_patch_is_that_a_network_reacts_to():
    tokens = torch.zeros(2, 1 + 14 * 14, 3)
    tokens[:, 0, 1] = 7.0  # the class token, which every window has
    tokens[1, 1 + 14 * 2 + 11, 0] = 25.0

    def score(some):
        assert (some[:, 0, 1] == 7).all()
        return some[..., 0].mean(dim=1)[:, None] * some.shape[1]

    found = window_evidence(tokens, score)
    assert found.shape == (2, 14, 14) and not found[0].any()
    rows, columns = torch.nonzero(found[1] == found[1].max(), as_tuple=True)
    assert 2 in rows and 11 in columns and found[1, 6:].abs().max() == 0 == found[1, :, :8].abs().max()


def test_clip_gives_windows_the_logit_of_a_network_that_sees_no_other_patch():
    torch.manual_seed(0)
    network = clip_vit.CLIPViT(blocks=2, taps=(1, 2), hidden=8, width=24, heads=2, patch=8, image_size=80).eval()
    x, y = torch.rand(2, 1, 3, 80, 80)
    x[..., :48, :48] = y[..., :48, :48]
    with torch.no_grad():
        one, other = network.evidence(x)[0], network.evidence(y)[0]
    # 4 x 4 patches are in the first window alone, which sees nothing of the rest.
    assert torch.allclose(one[:4, :4], other[:4, :4], atol=1e-5) and not torch.allclose(one[6:], other[6:], atol=1e-3)


def test_spai_gives_each_patch_the_logit_of_a_picture_that_is_nothing_else():
    torch.manual_seed(0)
    network = spai.SPAI(width=16, blocks=2, heads=2, projection=16, query_heads=2, query_width=16, minimum_patches=1).eval()
    x = torch.rand(1, 3, 224, 460)
    with torch.no_grad():
        found = network.evidence(x)[0]
        alone = [network(x[..., left : left + 224]).item() for left in (0, 224)]
    assert found[0, [0, 223, 224, 447]].tolist() == pytest.approx([alone[0], alone[0], alone[1], alone[1]], abs=1e-5)
    assert found[:, 448:].isnan().all()


def test_what_cannot_be_explained_says_so_and_names_a_way(detector):
    for network in (detector.network, vit.ViT(width=16, blocks=1, heads=2, patch=8, image_size=16)):
        with pytest.raises(ExplanationError, match=f"{type(network).__name__}.*npr-ms-ca"):
            Detector(network, Tiles(size=16), Calibration(), device="cpu").explain(array())

    class Blind:
        def __call__(self, pixels):
            return pixels[None] / 255

    with pytest.raises(ExplanationError, match=r"Blind.*regions"):
        Detector(Red(), Blind(), Calibration(), device="cpu").explain(array())


def test_a_broken_input_is_the_same_error_as_of_predict():
    detector = Detector(Red(), Tiles(size=16), Calibration(), device="cpu")
    with pytest.raises(ImageError):
        detector.explain(encoded(array(), "png")[:-300])
    with pytest.raises(TypeError):
        detector.explain(3.5)


def test_an_overlay_is_orange_for_blue_against_and_grey_where_nothing_speaks():
    evidence = np.array([[5.0, -5.0, 0.0, np.nan]], np.float32)
    orange, blue, grey, dark = np.asarray(Explanation(evidence, np.full((1, 4, 3), 128, np.uint8)).overlay())[0].astype(int)
    assert orange[0] > orange[1] > orange[2] and blue[2] > blue[1] > blue[0]
    assert grey.tolist() == [128] * 3 and dark.max() < 64 and dark.min() == dark.max()


def test_a_smaller_overlay_shows_the_same_and_never_becomes_larger():
    explanation = Detector(Red(), Whole(min_size=16), Calibration(), device="cpu").explain(red_at(16, 32, 128, 200, 64))
    small = explanation.overlay(longest=50)
    assert small.size == (50, 32) and explanation.overlay(longest=500).size == (200, 128)
    channels = np.asarray(small).astype(int)
    rows, columns = np.nonzero(channels[..., 0] > channels[..., 2] + 20)
    assert (rows.min(), rows.max()) == pytest.approx((4, 19), abs=1)
    assert (columns.min(), columns.max()) == pytest.approx((8, 23), abs=1)


def test_energy_is_what_neighbours_do_not_share():
    pixels = np.full((9, 8, 3), 100, np.uint8)
    pixels[4, 5] = 255
    energy = Explanation(np.zeros((9, 8), np.float32), pixels).energy
    assert np.isnan(energy[8]).all() and np.isfinite(energy[:8]).all()
    assert energy[4, 5] == np.nanmax(energy) == pytest.approx((155 / 255) ** 2, abs=1e-6)
    assert np.count_nonzero(np.nan_to_num(energy)) == 1


@pytest.fixture
def red(monkeypatch):
    detector = Detector(Red(), tiles(16, 4), Calibration(thresholds=POINTS), name="red@1", device="cpu")
    monkeypatch.setattr(registry, "load_detector", lambda name=None, **options: detector)
    return detector


def test_the_command_line_writes_a_png_for_each_scored_picture(red, folder, tmp_path, capsys):
    (folder / "sub" / "a.jpg").write_bytes(encoded(array(33, 44), "jpg"))
    assert main(["predict", str(folder), "--heatmap", str(tmp_path / "maps" / "new")]) == 1
    names = sorted(os.listdir(tmp_path / "maps" / "new"))
    # Two pictures are called a.jpg; the third input has no score.
    assert names == ["000001-a.jpg.png", "000002-b.png.png", "000004-a.jpg.png", "000005-d.webp.png"]
    for name, size in zip(names, [(90, 70), (50, 40), (44, 33), (20, 20)]):
        with Image.open(tmp_path / "maps" / "new" / name) as image:
            assert (image.format, image.size) == ("PNG", size)
    assert len(capsys.readouterr().out.splitlines()) == 5


def test_a_run_that_goes_on_counts_on(red, folder, tmp_path):
    pictures, options = [str(folder / "a.jpg"), str(folder / "b.png")], ["--heatmap", str(tmp_path / "maps")]
    assert main(["predict", pictures[0], "--output", str(tmp_path / "out.jsonl"), *options]) == 0
    assert main(["predict", *pictures, "--output", str(tmp_path / "out.jsonl"), "--resume", *options]) == 0
    assert sorted(os.listdir(tmp_path / "maps")) == ["000001-a.jpg.png", "000002-b.png.png"]


@pytest.mark.skipif(os.name == "nt", reason="names of bytes")
def test_odd_names_get_heat_maps_too(red, tmp_path, capsys):
    odd = [b"\xff.png", b"new\nline.png", b"x" * 251 + b".png"]
    for name in odd:
        with open(os.path.join(os.fsencode(tmp_path), name), "wb") as file:
            file.write(encoded(array(20, 20), "png"))
    maps = tmp_path / "maps"
    assert main(["predict", str(tmp_path), "--heatmap", str(maps)]) == 0
    assert len(os.listdir(maps)) == 3


def test_a_picture_that_vanishes_after_its_score_is_said_to_have_no_heat_map(red, tmp_path, capsys, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(array(20, 20), "png"))
    monkeypatch.setattr(red, "explain", lambda source: (_ for _ in ()).throw(ImageError("There is no file.")))
    assert main(["predict", str(path), "--heatmap", str(tmp_path / "maps")]) == 1
    captured = capsys.readouterr()
    assert '"ok": true' in captured.out and "no heat map of" in captured.err and "There is no file" in captured.err


def test_heat_maps_that_cannot_be_had_end_the_run_before_it_scores(red, folder, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    assert main(["predict", str(folder), "--heatmap", str(tmp_path / "file" / "maps")]) == 3
    assert main(["predict", str(folder), "--heatmap", str(tmp_path / "maps"), "--isolate", "9"]) == 2
    monkeypatch.setattr(red, "network", Toy())
    assert main(["predict", str(folder), "--heatmap", str(tmp_path / "maps")]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "Cannot write" in captured.err and "no heat map of Toy" in captured.err
