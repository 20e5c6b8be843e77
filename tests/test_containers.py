"""What files say of themselves: false sums, missing rows, and parts by the thousand are found before Pillow is asked."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from aigidetect.containers import MAX_FRAMES, check_container, check_frames
from aigidetect.errors import ImageTooLarge, ImageTruncated, UnsupportedImage
from aigidetect.images import load_image
from aigidetect.tiff import check_tiff

from .hostile.bombs import pages
from .hostile.headers import set_tag
from .hostile.pictures import HEIGHT, WIDTH, chunk, pixels, png, png_rows, save, tiled_tiff

PICTURE = save(pixels(), "PNG")


@pytest.mark.parametrize("place", range(0, len(PICTURE) - 1, 97))
def test_one_wrong_bit_anywhere_in_a_png_is_found(place: int) -> None:
    damaged = bytearray(PICTURE)
    damaged[place] ^= 4
    with pytest.raises((ImageTruncated, UnsupportedImage)):
        load_image(bytes(damaged))


def test_a_png_whose_stream_ends_early_is_refused_at_every_length() -> None:
    # Pillow takes some of these for whole; which ones depends on its buffers.
    rows = png_rows(pixels())
    for length in range(len(rows) - 400, len(rows), 5):
        with pytest.raises(ImageTruncated):
            load_image(png(WIDTH, HEIGHT, 8, 2, rows[:length]))


def test_more_rows_than_a_png_needs_and_chunks_of_other_programs_are_fine() -> None:
    rows = png_rows(pixels())
    data = png(WIDTH, HEIGHT, 8, 2, rows + rows, extra=chunk(b"prVt", b"mine") + chunk(b"tEXt", b"a\0b"))
    assert np.array_equal(load_image(data)[0].permute(1, 2, 0).numpy(), pixels())


def test_a_small_png_that_inflates_far_beyond_its_rows_is_not_inflated_further() -> None:
    data = png(1, 1, 8, 0, bytes(20 * 2**20))
    assert load_image(data)[0].shape == (3, 1, 1)


def test_frames_and_pages_are_counted_without_pillow_and_limited() -> None:
    frames = [Image.fromarray(pixels(seed=i)) for i in range(4)]
    assert check_container(save(frames[0], "GIF", save_all=True, append_images=frames[1:]), 10**6) == 4
    assert check_tiff(pages(5)) == check_tiff(pages(5, last=8)) == 5
    assert check_frames(MAX_FRAMES) == MAX_FRAMES
    with pytest.raises(ImageTooLarge, match="more than 10,000"):
        check_tiff(pages(MAX_FRAMES + 1))


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("scheme", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"])
def test_tiffs_in_strips_are_read(scheme: str, big: bool) -> None:
    data = save(pixels(), "TIFF", compression=scheme, tiffinfo={278: 8}, big_tiff=big)
    assert check_tiff(data) == 1
    assert np.abs(load_image(data)[0].permute(1, 2, 0).numpy().astype(int) - pixels()).mean() < (
        12 if scheme == "jpeg" else 1e-9
    )


def test_tiffs_in_tiles_are_read_and_refused_without_one_of_them() -> None:
    assert np.array_equal(load_image(tiled_tiff())[0].permute(1, 2, 0).numpy(), pixels())
    with pytest.raises(ImageTruncated, match="needs 12 strips or tiles, but names 11"):
        load_image(set_tag(set_tag(tiled_tiff(), 324, count=11), 325, count=11))


def test_an_uncompressed_tiff_with_half_of_its_strips_is_refused() -> None:
    # Pillow leaves the other rows black.
    data = save(pixels(), "TIFF", compression="raw", tiffinfo={278: 8})
    with pytest.raises(ImageTruncated, match="needs 6 strips or tiles, but names 3"):
        load_image(set_tag(set_tag(data, 273, count=3), 279, count=3))
    with pytest.raises(ImageTruncated):
        load_image(set_tag(data, 257, value=90))


def test_a_tiff_whose_jpeg_is_shorter_than_its_strip_is_refused() -> None:
    data = save(pixels(48, 64), "TIFF", compression="jpeg", tiffinfo={278: 16})
    with pytest.raises(ImageTruncated, match=r"expected a JPEG of 64x32 pixels.*64x16"):
        load_image(set_tag(set_tag(data, 257, value=96), 278, value=32))


def test_fax_pages_and_run_length_bmps_are_refused_with_what_works() -> None:
    with pytest.raises(UnsupportedImage, match=r"compression 4 .*deflate"):
        load_image(save(Image.fromarray(pixels()).convert("1"), "TIFF", compression="group4"))
    palette = save(Image.fromarray(pixels()[..., 0]), "BMP")
    with pytest.raises(UnsupportedImage, match="PNG"):
        load_image(palette[:30] + b"\1" + palette[31:])


def test_a_webp_canvas_over_the_limit_is_refused_before_it_is_made() -> None:
    data = save(pixels(), "WEBP", save_all=True, append_images=[Image.fromarray(pixels(seed=1))])
    with pytest.raises(ImageTooLarge, match="canvas has 61x45"):
        check_container(data, WIDTH * HEIGHT - 1)
    assert check_container(data, WIDTH * HEIGHT) is None


@pytest.mark.parametrize(
    ("filler", "error"),
    [(b"\xff\xe5\0\x02" * 1001, ImageTooLarge), (b"\xff" * 5000, ImageTruncated), (b"x" * 5000, ImageTruncated)],
    ids=["segments", "fill", "junk"],
)
def test_a_jpeg_with_thousands_of_empty_parts_is_refused(filler: bytes, error: type[Exception]) -> None:
    data = save(pixels(), "JPEG")
    with pytest.raises(error):
        load_image(data[:2] + filler + data[2:])


def test_a_jpeg_with_some_hundred_segments_and_fill_bytes_is_read() -> None:
    data = save(pixels(), "JPEG")
    assert load_image(data[:2] + b"\xff\xe5\0\x02" * 500 + b"\xff" * 500 + data[2:])[0].shape == (3, HEIGHT, WIDTH)


def test_a_jpeg_of_a_hundred_scans_is_refused() -> None:
    data = save(pixels(), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    with pytest.raises(ImageTooLarge, match="50 scans"):
        load_image(data[:-2] + last * 100 + b"\xff\xd9")
