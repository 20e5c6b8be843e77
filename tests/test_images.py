"""Decoding: the right pixels, or an error of ours, and never half a picture."""

import io
import os
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, features

from aigidetect.errors import AigidetectError, ImageError, ImageTooLarge, ImageTruncated, UnsupportedImage
from aigidetect.images import FORMATS, describe_source, load_image
from aigidetect.jpeg import estimate_jpeg_quality, outline

from .conftest import array

PIXELS = array(45, 61)
LOSSLESS = {"PNG": {}, "WEBP": {"lossless": True}, "BMP": {}, "TIFF": {"compression": "tiff_lzw"}}
LOSSY = {"JPEG": {}, "WEBP": {"quality": 80}, **({"AVIF": {}} if features.check("avif") else {})}


def save(image, format, **options):
    buffer = io.BytesIO()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(buffer, format, **options)
    return buffer.getvalue()


def hwc(source, **options):
    tensor, _ = load_image(source, **options)
    assert tensor.dtype == torch.uint8
    assert tensor.is_contiguous()
    return tensor.permute(1, 2, 0).numpy()


@pytest.mark.parametrize(("format", "options"), LOSSLESS.items())
def test_lossless_formats_give_back_the_pixels(format, options):
    data = save(PIXELS, format, **options)
    assert np.array_equal(hwc(data), PIXELS)
    info = load_image(data)[1]
    assert (info.format, info.width, info.height, info.mode, info.frames) == (format, 61, 45, "RGB", 1)


@pytest.mark.parametrize(("format", "options"), LOSSY.items())
def test_lossy_formats_give_pillows_pixels(format, options):
    data = save(PIXELS, format, **options)
    assert np.array_equal(hwc(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def test_the_content_decides_and_not_the_name(tmp_path):
    (tmp_path / "x.jpg").write_bytes(save(PIXELS, "PNG"))
    assert load_image(tmp_path / "x.jpg")[1].format == "PNG"


@pytest.mark.parametrize("format", ["PPM", "ICO", "TGA", "PDF", "EPS"])
def test_formats_off_the_list_are_refused_with_the_list(format):
    with pytest.raises(UnsupportedImage, match="JPEG"):
        load_image(save(PIXELS, format))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_applied_without_changing_a_pixel(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    a = PIXELS
    expected = {
        1: a, 2: a[:, ::-1], 3: a[::-1, ::-1], 4: a[::-1], 5: a.transpose(1, 0, 2), 6: np.rot90(a, -1),
        7: np.rot90(a, 2).transpose(1, 0, 2), 8: np.rot90(a),
    }[orientation]  # fmt: skip
    data = save(PIXELS, "PNG", exif=exif)
    assert np.array_equal(hwc(data), expected)
    info = load_image(data)[1]
    assert info.orientation == orientation
    assert (info.height, info.width) == expected.shape[:2]


@pytest.mark.parametrize("value", [0, 9, 77])
def test_impossible_orientations_are_ignored(value):
    exif = Image.Exif()
    exif[0x0112] = value
    assert np.array_equal(hwc(save(PIXELS, "PNG", exif=exif)), PIXELS)


def test_sixteen_bits_are_scaled_and_not_clipped():
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    for format in ("PNG", "TIFF"):
        grey = hwc(save(ramp, format))
        assert np.array_equal(grey[..., 0], np.rint(ramp / 257).astype(np.uint8))
        assert len(np.unique(grey)) == 256
    assert "scaled" in load_image(save(ramp, "PNG"))[1].notes[0]


def test_float_pictures_are_taken_in_0_to_1_and_refused_outside():
    values = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    assert np.array_equal(hwc(save(values, "TIFF"))[..., 0].ravel(), np.arange(256))
    for bad in (values * 300, values - 0.5, values * np.nan):
        with pytest.raises(UnsupportedImage, match="between 0 and 1"):
            load_image(save(bad, "TIFF"))


def test_grey_palette_and_one_bit_pictures_become_rgb():
    grey = PIXELS[..., 0]
    assert np.array_equal(hwc(save(grey, "PNG")), np.repeat(grey[..., None], 3, axis=2))
    palette = Image.fromarray(PIXELS).quantize(16)
    assert np.array_equal(hwc(save(palette, "PNG")), np.asarray(palette.convert("RGB")))
    bits = Image.fromarray(grey).convert("1")
    assert set(np.unique(hwc(save(bits, "PNG")))) == {0, 255}


def test_cmyk_jpegs_are_converted_as_pillow_does():
    data = save(Image.fromarray(PIXELS).convert("CMYK"), "JPEG", quality=95)
    rgb = hwc(data)
    assert np.array_equal(rgb, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
    assert np.abs(rgb.astype(int) - PIXELS).mean() < 12
    assert load_image(data)[1].mode == "CMYK"


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_composited_over_white(mode):
    rgba = np.dstack([PIXELS, np.zeros(PIXELS.shape[:2], np.uint8)])
    rgba[:20, :, 3] = 255
    image = Image.fromarray(rgba)
    image = image.quantize(64) if mode == "P" else image.convert(mode)
    data = save(image, "PNG")
    rgb, info = hwc(data), load_image(data)[1]
    assert (rgb[20:] == 255).all()
    assert (rgb[:20] != 255).any()
    assert "white" in info.notes[0]


def test_half_transparent_pixels_lie_half_way_to_white():
    rgba = np.full((8, 8, 4), (0, 0, 0, 128), np.uint8)
    assert np.abs(hwc(save(rgba, "PNG")).astype(int) - 127).max() <= 1


@pytest.mark.parametrize("format", ["GIF", "WEBP", "TIFF"])
def test_the_first_frame_is_scored_and_the_count_is_noted(format):
    frames = [Image.fromarray(array(30, 40, seed=i)) for i in range(3)]
    data = save(
        frames[0], format, save_all=True, append_images=frames[1:], **({"lossless": True} if format == "WEBP" else {})
    )
    rgb, info = hwc(data), load_image(data)[1]
    assert info.frames == 3
    assert "first of 3" in info.notes[0]
    assert np.abs(rgb.astype(int) - np.asarray(frames[0])).mean() < (0.5 if format != "GIF" else 20)


def test_the_second_picture_of_a_phones_file_is_not_a_frame():
    pair = [Image.fromarray(array(30, 40, seed=i)) for i in range(2)]
    data = save(pair[0], "MPO", save_all=True, append_images=pair[1:])
    assert np.array_equal(hwc(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


ENCODED = [
    *((name, save(PIXELS, name, **options)) for name, options in LOSSLESS.items()),
    *((f"{name} lossy", save(PIXELS, name, **options)) for name, options in LOSSY.items()),
    ("JPEG progressive", save(PIXELS, "JPEG", progressive=True)),
    ("GIF", save(PIXELS, "GIF")),
]


@pytest.mark.parametrize(("name", "data"), ENCODED, ids=[name for name, _ in ENCODED])
def test_no_cut_file_gets_pixels(name, data):
    # TIFF may store its directory anywhere, and GIF's last two bytes only end the file: no pixel is missing without them.
    whole = hwc(data)
    for cut in np.linspace(0, len(data) - 1, 80).astype(int):
        try:
            assert np.array_equal(hwc(data[:cut]), whole), f"{name} cut at {cut} of {len(data)}"
            assert cut >= len(data) - 16
        except AigidetectError:
            pass


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}], ids=str)
def test_a_cut_jpeg_that_got_an_end_marker_does_not_get_pixels(options):
    data = save(array(160, 200, seed=5), "JPEG", **options)
    start = data.index(b"\xff\xda") + 40
    cuts = np.linspace(start, len(data) - 200, 40).astype(int)
    for cut in cuts:
        with pytest.raises(ImageTruncated):
            load_image(data[:cut] + b"\xff\xd9")


def test_bytes_after_the_end_of_a_jpeg_are_fine():
    data = save(PIXELS, "JPEG")
    for tail in (b"\0" * 100, b"\xff\xda\xff", data[: len(data) // 2]):
        assert np.array_equal(hwc(data + tail), hwc(data))


def test_flat_jpegs_are_whole():
    for colour in (0, 128, 255):
        assert hwc(save(np.full((70, 90, 3), colour, np.uint8), "JPEG")).shape == (70, 90, 3)


@settings(max_examples=150, deadline=None)
@given(
    kind=st.integers(0, len(ENCODED) - 1), flips=st.lists(st.tuples(st.floats(0, 0.999), st.integers(1, 255)), min_size=1)
)
def test_only_our_errors_come_out_of_damaged_files(kind, flips):
    data = bytearray(ENCODED[kind][1])
    for where, mask in flips:
        data[int(where * len(data))] ^= mask
    try:
        pixels, _ = load_image(bytes(data), max_pixels=10**7)
    except AigidetectError:
        return
    assert pixels.shape[0] == 3


@settings(max_examples=100, deadline=None)
@given(
    st.binary(max_size=300),
    st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF", b"II*\0", b"BM"]),
)
def test_noise_is_refused(noise, start):
    with pytest.raises(ImageError):
        load_image(start + noise)


def test_text_empty_and_html_files_are_refused_with_a_reason(tmp_path):
    for name, content, reason in [
        ("text.jpg", b"not a picture", "not a picture"), ("empty.jpg", b"", "empty"),
        ("page.png", b"<!DOCTYPE html>", "HTML"),
    ]:  # fmt: skip
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ImageError, match=reason):
            load_image(tmp_path / name)


def png_header(width, height):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(20_000, 20_000), (100_000, 100_000), (2**31 - 1, 2**31 - 1)])
def test_bombs_are_refused_before_they_are_decoded(size):
    with pytest.raises(ImageTooLarge):
        load_image(png_header(*size))


def test_limits_are_checked_for_every_kind_of_input(tmp_path):
    data = save(PIXELS, "PNG")
    (tmp_path / "x.png").write_bytes(data)
    for source in (data, tmp_path / "x.png", Image.fromarray(PIXELS), PIXELS, torch.from_numpy(PIXELS).permute(2, 0, 1)):
        with pytest.raises(ImageTooLarge, match="limit is 2,000"):
            load_image(source, max_pixels=2000)
    for source in (data, tmp_path / "x.png", io.BytesIO(data)):
        with pytest.raises(ImageTooLarge, match="limit is 100"):
            load_image(source, max_bytes=100)


def test_what_is_not_a_file_is_refused_without_opening_it(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    for source, reason in [
        (tmp_path / "pipe.jpg", "regular file"), (tmp_path, "folder"), ("/dev/zero", "regular file"),
        (tmp_path / "missing.jpg", "no file"), ("https://example.org/a.jpg", "download"),
        ("data:image/png;base64,AA", "download"), ("a\0b.jpg", "cannot be read"), ("x" * 5000, "cannot be read"),
    ]:  # fmt: skip
        with pytest.raises(ImageError, match=reason):
            load_image(source)


def test_a_file_without_permission_is_refused(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "x.png").write_bytes(save(PIXELS, "PNG"))
    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(ImageError, match="Permission denied"):
        load_image(tmp_path / "x.png")


@pytest.mark.parametrize("source", [None, 3, 2.5, object(), {"a": 1}, {1, 2}])
def test_other_types_are_answered_with_what_works(source):
    with pytest.raises(TypeError, match=r"a path.*bytes.*PIL.*numpy.*torch"):
        load_image(source)


def test_text_file_objects_are_a_type_error():
    with pytest.raises(TypeError, match="rb"):
        load_image(io.StringIO("x"))


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((4, 4, 2), np.uint8), np.zeros((2, 4, 4, 3), np.uint8), np.zeros(5, np.uint8), np.zeros((4, 4), np.int64),
        np.full((4, 4, 3), 1.5), np.full((4, 4), np.nan), np.full((4, 4), -0.1), np.zeros((0, 4, 3), np.uint8),
        torch.zeros(4, 4, 3, dtype=torch.uint8), torch.zeros(3, 4), torch.full((3, 4, 4), 2.0), torch.zeros(3, 4, 4).long(),
    ],
)  # fmt: skip
def test_arrays_of_a_wrong_shape_type_or_range_are_refused(bad):
    with pytest.raises(ImageError):
        load_image(bad)


def test_the_type_alone_decides_the_scale():
    dark = np.ones((4, 4, 3), np.uint8)
    assert hwc(dark).max() == 1
    assert hwc(dark.astype(float)).max() == 255
    assert hwc(torch.ones(3, 4, 4).bfloat16()).max() == 255


def test_a_lazy_pil_image_of_a_cut_file_is_refused(tmp_path):
    (tmp_path / "x.png").write_bytes(save(PIXELS, "PNG")[:-900])
    with pytest.raises(ImageTruncated):
        load_image(Image.open(tmp_path / "x.png"))


def test_the_callers_pil_image_is_left_alone(tmp_path):
    image = Image.fromarray(np.dstack([PIXELS, PIXELS[..., 0]]))
    load_image(image)
    assert image.mode == "RGBA"


def test_pillows_switch_for_half_pictures_is_refused(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(ImageError, match="LOAD_TRUNCATED_IMAGES"):
        load_image(save(PIXELS, "PNG"))


def test_pillows_state_is_not_changed():
    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
    load_image(save(PIXELS, "PNG"))
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)


@pytest.mark.parametrize("quality", [1, 5, 25, 49, 50, 51, 75, 80, 90, 95, 96, 99, 100])
def test_the_quality_of_libjpeg_files_is_read_exactly(quality):
    assert load_image(save(PIXELS, "JPEG", quality=quality))[1].jpeg_quality == quality
    assert load_image(save(PIXELS, "PNG"))[1].jpeg_quality is None


def test_the_quality_of_other_tables_is_the_nearest():
    table = [16] * 64
    assert 1 <= estimate_jpeg_quality({0: table}) <= 100


def test_decoding_in_many_threads_gives_the_same_pixels():
    files = [save(array(60, 60, seed=i), "JPEG") for i in range(8)] * 6
    alone = [hwc(file) for file in files]
    with ThreadPoolExecutor(8) as pool:
        assert all(map(np.array_equal, alone, pool.map(hwc, files)))


def test_sources_are_described_without_reading_them(tmp_path):
    described = [describe_source(s) for s in ("a.jpg", tmp_path, b"", PIXELS, torch.zeros(1), Image.new("L", (1, 1)), 7)]
    assert described == ["a.jpg", str(tmp_path), "<bytes>", "<array>", "<tensor>", "<PIL.Image>", "<int>"]
    assert describe_source(io.BytesIO()).startswith("<file")


def test_animated_and_rare_formats_stay_off_the_list():
    assert not {"EPS", "PSD", "PDF", "WMF", "FPX", "MIC"} & set(FORMATS)


class Trickle(io.BytesIO):
    """A raw stream: gives less than it is asked for."""

    def read(self, size=-1):
        return super().read(50)


def test_streams_that_give_little_at_a_time_are_read_to_the_end():
    assert np.array_equal(hwc(Trickle(save(PIXELS, "PNG"))), PIXELS)
    with pytest.raises(ImageTooLarge):
        load_image(Trickle(save(PIXELS, "PNG")), max_bytes=100)


def test_whatever_an_input_raises_becomes_our_error():
    class Broken:
        def read(self, size=-1):
            raise RuntimeError("boo")

    closed = io.BytesIO(b"x")
    closed.close()
    for source in (Broken(), closed, torch.zeros(3, 4, 4, device="meta")):
        with pytest.raises(ImageError, match="cannot be read"):
            load_image(source)


def test_the_byte_limit_of_a_memoryview_counts_bytes():
    with pytest.raises(ImageTooLarge):
        load_image(memoryview(np.zeros(50, np.int64)), max_bytes=100)


@pytest.mark.filterwarnings("error")
def test_pillows_bomb_warning_means_too_large_where_warnings_are_errors():
    data = save(PIXELS, "GIF")
    with pytest.raises(ImageTooLarge):
        load_image(data[:6] + struct.pack("<HH", 10_000, 10_000) + data[10:])


def test_the_orientation_of_a_tiff_is_reported_though_pillow_applies_it():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = save(PIXELS, "TIFF", exif=exif)
    assert np.array_equal(hwc(data), np.rot90(PIXELS, -1))
    assert load_image(data)[1].orientation == 6


def test_an_opened_pil_image_is_described_like_its_file():
    data = save(PIXELS, "JPEG", quality=90)
    assert load_image(Image.open(io.BytesIO(data)))[1].jpeg_quality == 90
    gif = save(Image.fromarray(PIXELS), "GIF", save_all=True, append_images=[Image.fromarray(PIXELS[::-1].copy())])
    image = Image.open(io.BytesIO(gif))
    image.seek(1)
    assert load_image(image)[1].frames == 2
    assert image.tell() == 1


def test_opaque_pictures_with_an_alpha_channel_get_no_note():
    assert load_image(np.dstack([PIXELS, np.full_like(PIXELS[..., 0], 255)]))[1].notes == ()


@pytest.mark.parametrize("options", [{}, {"quality": 95}, {"restart_marker_blocks": 5}, {"restart_marker_rows": 1}], ids=str)
def test_a_jpeg_cut_anywhere_before_its_last_block_gets_no_pixels(options):
    data = save(array(80, 96, seed=5), "JPEG", **options)
    for cut in range(data.index(b"\xff\xda") + 40, len(data) - 64, 41):
        with pytest.raises(ImageTruncated):
            load_image(data[:cut] + b"\xff\xd9")
    # Also exactly at, within and behind a restart marker.
    for cut in [i + n for i in range(len(data) - 64) if data[i] == 0xFF and 0xD0 <= data[i + 1] <= 0xD7 for n in range(3)]:
        with pytest.raises(ImageTruncated):
            load_image(data[:cut] + b"\xff\xd9")


def test_a_progressive_jpeg_cut_exactly_between_two_scans_gets_no_pixels():
    data = save(array(160, 200, seed=5), "JPEG", progressive=True)
    _, scans = outline(data)
    assert len(scans) > 5
    assert load_image(data)[1].width == 200
    for end in scans[:-1]:
        with pytest.raises(ImageTruncated, match="last scan"):
            load_image(data[:end] + b"\xff\xd9")


def test_a_whole_jpeg_of_one_scan_is_decoded_once(monkeypatch):
    opened = []
    real = Image.open
    monkeypatch.setattr(Image, "open", lambda *a, **k: opened.append(1) or real(*a, **k))
    for options in ({}, {"quality": 95}, {"optimize": True}, {"subsampling": 0}, {"restart_marker_blocks": 5}):
        opened.clear()
        load_image(save(PIXELS, "JPEG", **options))
        assert len(opened) == 1
