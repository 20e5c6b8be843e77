"""Files that are two things at once, are called something else, or are no pictures at all."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import time
import zipfile
from collections.abc import Iterator

import numpy as np
from PIL import Image

from .pictures import Case, pixels, save, seeds


def polyglots(_: np.random.Generator) -> Iterator[Case]:
    """Valid pictures that are also something else are scored; something else with a picture inside is refused."""
    jpeg, picture, gif = save(pixels(), "JPEG"), save(pixels(), "PNG"), save(Image.fromarray(pixels()).quantize(16), "GIF")
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(zipfile.ZipInfo("inner.png"), picture)
    page = b"<!doctype html><script>alert(1)</script><!--"
    comment = b"\xff\xfe" + struct.pack(">H", len(page) + 2) + page
    php, script = b"<?php system($_GET[0]); ?>", b"#!/bin/sh\necho hello\nexit\n"
    extra = {"zip": archive.getvalue(), "html": page, "php": php, "jpeg": jpeg, "png": picture, "gif": gif, "sh": script}
    for name, other in extra.items():
        for suffix, whole in {"jpg": jpeg, "png": picture, "gif": gif}.items():
            yield Case(f"{suffix}-then-{name}.{suffix}", whole + other, "score")
            if name not in ("jpeg", "png", "gif"):
                yield Case(f"{name}-then-{suffix}.{suffix}", other + whole, "refuse")
    yield Case("html-in-comment.jpg", jpeg[:2] + comment + jpeg[2:], "score")
    yield Case("html-in-comment.html", jpeg[:2] + comment + jpeg[2:], "score")
    yield Case("javascript.gif", b"GIF89a/*" + gif[8:] + b"*/=1;alert(1)")
    yield Case(
        "thumbnail-of-another.jpg", jpeg[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(jpeg)) + jpeg + jpeg[2:], "score"
    )


def misnamed(rng: np.random.Generator) -> Iterator[Case]:
    """Valid pictures under the suffixes of other formats: the content decides."""
    suffixes = ("jpg", "png", "gif", "webp", "tif", "bmp")
    for seed in seeds():
        for suffix in rng.permutation(suffixes)[:4]:
            yield Case(f"{seed.name}.{suffix}", seed.data, "score")


def strangers(rng: np.random.Generator) -> Iterator[Case]:
    """No pictures, or pictures in formats off the list."""
    image = Image.fromarray(pixels())
    for format in ("PPM", "ICO", "TGA", "PDF", "EPS", "PCX", "SGI", "DDS", "ICNS", "MSP", "JPEG2000"):
        dates = {"creationDate": time.gmtime(0), "modDate": time.gmtime(0)} if format == "PDF" else {}
        made = save(image.convert("1") if format == "MSP" else image, format, **dates)
        yield Case(f"{format.lower()}.jpg", made, "refuse")
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as file:
        file.addfile(tarfile.TarInfo("a.jpg"))
    starts = (
        b"",
        b"\xff\xd8\xff",
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a",
        b"RIFF\0\0\0\0WEBP",
        b"II*\0",
        b"MM\0*",
        b"BM",
        b"\0\0\0\x20ftypavif",
    )
    texts = {
        "empty": b"", "newline": b"\n", "html": b"<html>not found", "xml": b"<?xml version='1.0'?><svg/>",
        "tar": tar.getvalue(),
        "json": b'{"error": 404}', "gzip": gzip.compress(save(image, "PNG"), mtime=0), "elf": b"\x7fELF" + bytes(60),
        "exe": b"MZ" + bytes(60), "bm-text": b"BMW is a car", "avi": b"RIFF\0\0\1\0AVI LIST" + bytes(60),
        "mp4": b"\0\0\0\x18ftypmp42" + bytes(60), "heic": b"\0\0\0\x18ftypheic" + bytes(60),
        "pickle": b"\x80\4cos\nsystem\n.",
        "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 5\n",
    }  # fmt: skip
    for name, data in texts.items():
        yield Case(f"{name}.jpg", data, "refuse")
    for number, start in enumerate(starts):
        for length in (0, 1, 10, 100, 1000):
            yield Case(f"noise-{number}-{length}.png", start + rng.bytes(length), "refuse")
