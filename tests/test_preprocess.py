"""Views: which pixels, how many, and that they are native."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from aigidetect.preprocess import SquashCrop, Tiles, Whole, from_dict, normalise, pad_to


def picture(h, w, seed=0):
    return torch.randint(0, 256, (3, h, w), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=80, deadline=None)
@given(h=st.integers(1, 90), w=st.integers(1, 90), cap=st.integers(1, 12), choose=st.sampled_from(["spread", "texture"]))
def test_tiles_are_native_pixels_inside_the_picture_and_never_more_than_the_cap(h, w, cap, choose):
    tiles, pixels = Tiles(size=16, max_tiles=cap, choose=choose), picture(h, w)
    padded, boxes, views = pad_to(pixels, 16), tiles.boxes(pixels), tiles(pixels)
    assert 1 <= len(views) == len(boxes) == len(set(boxes)) <= cap
    for (top, left), view in zip(boxes, views):
        assert torch.equal(view, normalise(padded[:, top : top + 16, left : left + 16]))


@settings(max_examples=40, deadline=None)
@given(h=st.integers(16, 48), w=st.integers(16, 48))
def test_a_picture_within_the_cap_is_covered_from_edge_to_edge(h, w):
    covered = torch.zeros(h, w, dtype=torch.bool)
    for top, left in Tiles(size=16, max_tiles=9).boxes(picture(h, w)):
        covered[top : top + 16, left : left + 16] = True
    assert covered.all()


def test_one_tile_is_the_centre():
    assert Tiles(size=16, max_tiles=1).boxes(picture(50, 36)) == [(17, 10)]


def test_texture_takes_the_tiles_with_the_most_of_it():
    pixels = torch.zeros(3, 64, 64, dtype=torch.uint8)
    pixels[:, 32:48, 16:32] = picture(16, 16)
    assert Tiles(size=16, max_tiles=1, choose="texture").boxes(pixels) == [(32, 16)]


@settings(max_examples=30, deadline=None)
@given(h=st.integers(1, 90), w=st.integers(1, 90), cap=st.integers(1, 4))
def test_a_scale_below_one_shrinks_larger_tiles_and_says_where_they_lie(h, w, cap):
    tiles, pixels = Tiles(size=16, max_tiles=cap, scales=(1.0, 0.5)), picture(h, w)
    views, regions, large = tiles(pixels), tiles.regions(pixels), Tiles(size=32, max_tiles=cap)
    native = Tiles(size=16, max_tiles=cap)(pixels)
    more = len(large(pixels)) if min(h, w) >= 16 else 0
    assert torch.equal(views[: len(native)], native) and len(views) == len(regions) == len(native) + more
    padded = pad_to(pixels, 32).permute(1, 2, 0).numpy()
    for view, (top, left, bottom, right) in zip(views[len(native) :], regions[len(native) :]):
        assert (bottom - top, right - left) == (32, 32)
        tile = Image.fromarray(padded[top:bottom, left:right]).resize((16, 16), Image.Resampling.BICUBIC)
        assert torch.equal(view, normalise(torch.from_numpy(np.array(tile)).permute(2, 0, 1)))


def test_a_large_picture_costs_no_more_than_the_cap():
    assert len(Tiles(size=16, max_tiles=9)(picture(2000, 1200))) <= 9


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 1), (3, 40), (16, 15)])
def test_small_pictures_are_mirrored_at_the_right_and_lower_edge(shape):
    pixels = picture(*shape)
    padded = pad_to(pixels, 16).permute(1, 2, 0).numpy()
    h, w = shape
    widths = ((0, max(0, 16 - h)), (0, max(0, 16 - w)), (0, 0))
    assert np.array_equal(padded, np.pad(pixels.permute(1, 2, 0).numpy(), widths, mode="symmetric"))


def test_normalisation_depends_on_nothing_but_the_pixel():
    dark, bright = normalise(torch.zeros(3, 4, 4, dtype=torch.uint8)), normalise(torch.full((3, 4, 4), 255).byte())
    torch.testing.assert_close(dark[:, 0, 0], torch.tensor([-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225]))
    torch.testing.assert_close(bright[:, 0, 0], torch.tensor([0.515 / 0.229, 0.544 / 0.224, 0.594 / 0.225]))


def test_squash_crop_is_the_reports_preprocessing():
    pixels = picture(90, 130)
    squashed = Image.fromarray(pixels.permute(1, 2, 0).numpy()).resize((256, 256), Image.Resampling.BILINEAR)
    expected = torch.from_numpy(np.array(squashed)[16:240, 16:240]).permute(2, 0, 1)
    assert torch.equal(SquashCrop()(pixels), normalise(expected)[None])


@pytest.mark.parametrize("shape", [(16, 16), (40, 21), (17, 300)])
def test_a_whole_picture_is_its_own_pixels_between_0_and_1(shape):
    pixels = picture(*shape)
    assert torch.equal(Whole(min_size=16)(pixels), pixels[None].float() / 255)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (2, 16), (5, 40), (11, 3), (15, 16)])
def test_a_small_whole_picture_is_mirrored_evenly_at_both_edges(shape):
    pixels = picture(*shape)
    missing = [max(0, 16 - n) for n in shape]
    widths = [(0, 0), *((m // 2, m - m // 2) for m in missing)]
    expected = np.pad(pixels.numpy(), widths, mode="reflect")
    assert torch.equal(Whole(min_size=16)(pixels)[0], torch.from_numpy(expected).float() / 255)


@pytest.mark.parametrize(
    "preprocess",
    [Tiles(size=96, max_tiles=4, choose="texture", scales=(1.0, 0.5)), Whole(min_size=64), SquashCrop(resize=64, crop=32)],
)
def test_facts_make_an_equal_preprocessing(preprocess):
    facts = {key: list(value) if isinstance(value, tuple) else value for key, value in preprocess.to_dict().items()}
    assert from_dict(facts) == preprocess


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"kind": "zoom"}, "tiles, whole, squash-crop"),
        ({"kind": "tiles", "sise": 3}, "sise"),
        ({"kind": "tiles", "size": 2}, "size >= 4"),
        ({"kind": "tiles", "choose": "best"}, "texture"),
        ({"kind": "tiles", "scales": [0.5]}, "1 among them"),
        ({"kind": "tiles", "scales": [1.0, 1.5]}, "up to 1"),
        ({"kind": "whole", "min_size": 0}, "min_size >= 1"),
        ({"kind": "squash-crop", "crop": 300}, "crop <= resize"),
        ({}, "tiles, whole, squash-crop"),
    ],
)
def test_broken_facts_are_refused_with_what_would_work(facts, message):
    with pytest.raises(ValueError, match=message):
        from_dict(facts)
