"""Variants of a picture: what they are, and that asking for them changes nothing but the answer about them."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from aigidetect import Calibration, Detector, Failure, Tiles, Whole
from aigidetect.stability import VARIANTS, encode, judge, variants, vary
from aigidetect.training.augment import CONDITIONS, apply_condition

from .conftest import POINTS, array, encoded


class Sharpness(nn.Module):
    """The logit is positive where neighbouring pixels differ a lot, which halving and encoding take away."""

    def __init__(self, limit):
        super().__init__()
        self.limit = limit

    def forward(self, x):
        return (x.diff(dim=-1).abs().mean(dim=(1, 2, 3)) - self.limit)[:, None] * 10


def noisy(h=64, w=64):
    return np.random.default_rng(0).integers(0, 256, (h, w, 3), dtype=np.uint8)


def sharp(limit, preprocess=None):
    return Detector(Sharpness(limit), preprocess or Tiles(size=32, max_tiles=4), Calibration(), device="cpu")


def test_a_verdict_that_hangs_on_fine_detail_flips_and_one_that_does_not_stays():
    before = sharp(0).predict(noisy(), stability=True).stability
    assert (before.flips, before.variants) == (False, len(VARIANTS))
    middle = sharp(1.2).predict(noisy(), stability=True)
    assert middle.verdict == "ai" and middle.stability.flips
    assert middle.stability.min < 0.5 <= middle.probability <= middle.stability.max


def test_the_flag_follows_the_threshold():
    calibration = Calibration(thresholds=POINTS)
    logits = [[math.log(p / (1 - p))] for p in (0.75, 0.95)]
    flips = {fpr: judge(calibration, 0.8, logits, fpr).flips for fpr in (0.01, 0.05)}
    assert flips == {0.01: True, 0.05: False}  # "ai" from 0.9 and from 0.7 on
    assert judge(calibration, 0.8, [], 0.05) is None


def test_stability_changes_neither_probability_nor_verdict(detector):
    with_it, without = (detector.predict(array(), stability=asked) for asked in (True, False))
    assert without.stability is None and without.to_dict()["stability"] is None
    assert with_it.probability == pytest.approx(without.probability, abs=1e-6)
    assert with_it.view_logits == pytest.approx(without.view_logits, abs=1e-6)
    assert (with_it.verdict, with_it.image) == (without.verdict, without.image)
    assert with_it.to_dict()["stability"].keys() == {"min", "max", "variants", "flips"}


@pytest.mark.parametrize("preprocess", [Tiles(size=32, max_tiles=4), Whole(min_size=16)])
def test_alone_in_a_list_and_in_a_stream_it_is_the_same(preprocess):
    detector = sharp(1.2, preprocess)
    pictures = [noisy(), array(20, 90), b"broken", noisy(40, 70), array(7, 9)]
    alone = [detector.predict(picture, stability=True) for picture in pictures if not isinstance(picture, bytes)]
    for batch_size in (1, 64):
        together = list(detector.stream(pictures, batch_size=batch_size, stability=True))
        assert isinstance(together.pop(2), Failure)
        assert [record.stability.flips for record in together] == [record.stability.flips for record in alone]
        for one, other in zip((record.stability for record in alone), (record.stability for record in together)):
            assert (other.min, other.max) == pytest.approx((one.min, one.max), abs=1e-5)
    assert len(detector.predict(pictures, stability=True)) == len(pictures)


def test_the_variants_are_the_conditions_of_evaluation_where_both_have_them():
    image = Image.fromarray(array(33, 47))
    shared = set(VARIANTS) & set(CONDITIONS)
    assert len(shared) == 4
    for name in shared:
        expected = np.asarray(apply_condition(image, name, is_ai=True))
        assert np.array_equal(np.asarray(vary(image, name)), expected)
        place = VARIANTS.index(name)
        found = variants(torch.from_numpy(array(33, 47)).permute(2, 0, 1))[place]
        assert np.array_equal(found.permute(1, 2, 0).numpy(), expected)


def test_each_variant_has_its_size_and_is_the_same_every_time():
    pixels = torch.from_numpy(array(30, 50)).permute(2, 0, 1)
    made = variants(pixels)
    assert [tuple(variant.shape) for variant in made] == [(3, 30, 50)] * 2 + [(3, 15, 25), (3, 30, 50), (3, 27, 45)]
    assert all(variant.dtype == torch.uint8 and variant.is_contiguous() for variant in made)
    assert all(torch.equal(one, other) for one, other in zip(made, variants(pixels)))
    assert not any(torch.equal(one, other) for i, one in enumerate(made) for other in made[:i])


@pytest.mark.parametrize(("width", "left"), [(16_383, 5), (16_384, 4), (65_501, 2), (131_002, 1)])
def test_a_side_that_a_codec_cannot_hold_leaves_its_variants_out(width, left):
    assert len(variants(torch.zeros(3, 1, width, dtype=torch.uint8))) == left


def test_one_pixel_has_variants():
    assert [tuple(variant.shape) for variant in variants(torch.zeros(3, 1, 1, dtype=torch.uint8))] == [(3, 1, 1)] * 5


@pytest.mark.parametrize("name", ["", "75", "q", "half", "half+", "half+0.9x", "png", "q75+half", "as-is"])
def test_another_variant_is_refused_with_those_there_are(name):
    with pytest.raises(ValueError, match="qNN, webpNN"):
        vary(Image.new("RGB", (8, 8)), name)


def test_chroma_is_subsampled_unless_asked_otherwise():
    image = Image.fromarray(noisy())
    assert not np.array_equal(np.asarray(encode(image, "jpeg", 90)), np.asarray(encode(image, "jpeg", 90, chroma="4:4:4")))
    assert np.array_equal(np.asarray(vary(image, "q90")), np.asarray(encode(image, "jpeg", 90)))


def test_a_broken_file_is_still_an_error(detector):
    with pytest.raises(ValueError, match="ends"):
        detector.predict(encoded(array(), "png")[:-300], stability=True)
