"""Decoding in processes: the same pixels, and a decoder that dies or hangs costs one record."""

import io
import os
import struct
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from aigidetect import AigidetectError, ImageError
from aigidetect import detector as detector_module
from aigidetect.errors import DecoderCrashed, DecoderTimeout, ImageTruncated
from aigidetect.images import load_image
from aigidetect.isolation import Isolation, _receive

from .conftest import array, encoded

ROOT = Path(__file__).parent.parent
# Speaks the protocol without importing torch, dies over "dies" and hangs over "hangs".
PUPPET = """
import json, os, struct, sys, time
def send(facts, body=b""):
    head = json.dumps(facts).encode()
    sys.stdout.buffer.write(struct.pack(">QQ", len(head), len(body)) + head + body)
    sys.stdout.buffer.flush()
send({})
while lengths := sys.stdin.buffer.read(16):
    head, body = struct.unpack(">QQ", lengths)
    name = os.path.basename(json.loads(sys.stdin.buffer.read(head))["path"])
    if name == "dies.jpg":
        os._exit(7)
    if name == "hangs.jpg":
        time.sleep(600)
    if name == "garbles.jpg":
        print("no answer at all, but a long text", flush=True)
    image = dict(format="PNG", width=2, height=1, mode="RGB", orientation=1, frames=1, jpeg_quality=None, notes=["a note"])
    send({"image": image}, bytes(6))
"""


@pytest.fixture(scope="module")
def isolation(tmp_path_factory):
    """One real process, started in a folder that has a module which must not be imported from there."""
    here, folder = os.getcwd(), tmp_path_factory.mktemp("start")
    (folder / "json.py").write_text("raise SystemExit('imported from the working folder')")
    os.chdir(folder)
    with Isolation(1, 60) as running:
        os.chdir(here)
        yield running


@pytest.fixture
def files(tmp_path):
    for name in ("a", "dies", "b", "hangs", "c"):
        (tmp_path / f"{name}.jpg").write_bytes(encoded(array(seed=ord(name[0])), "jpg", quality=80))
    (tmp_path / "broken.png").write_bytes(encoded(array(), "png")[:-700])
    return tmp_path


def test_pixels_and_facts_are_those_of_this_process(isolation, files):
    data = encoded(array(), "png")
    for source in (files / "a.jpg", str(files / "b.jpg"), data, bytearray(data), memoryview(data)):
        pixels, info = isolation.load(source)
        expected, expected_info = load_image(source)
        assert torch.equal(pixels, expected) and pixels.dtype == torch.uint8 and info == expected_info
    assert torch.equal(isolation.load(array())[0], load_image(array())[0])
    assert torch.equal(isolation.load(Image.fromarray(array()))[0], load_image(array())[0])
    assert torch.equal(isolation.load(io.BytesIO(data))[0], load_image(data)[0])


def test_errors_are_those_of_this_process(isolation, files, tmp_path):
    for source in (files / "broken.png", str(tmp_path / "missing.jpg"), b"", b"text", "https://example.org/x.jpg"):
        with pytest.raises(ImageError) as there:
            isolation.load(source)
        with pytest.raises(ImageError) as here:
            load_image(source)
        assert type(there.value) is type(here.value) and str(there.value) == str(here.value)
    with pytest.raises(ImageTruncated):
        isolation.load(files / "broken.png")
    with pytest.raises(TypeError):
        isolation.load(3.5)


def stream(detector, monkeypatch, folder, names, command, seconds):
    """The records of a stream whose processes are started by a command of the test's."""
    kept = []

    def isolation(children, limit):
        kept.append(Isolation(children, limit, command))
        return kept[0]

    monkeypatch.setattr(detector_module, "Isolation", isolation)
    records = list(detector.stream([folder / f"{name}.jpg" for name in names], workers=1, isolate=seconds))
    assert kept[0]._idle.empty()  # all ended
    return records


def check(records, names, seconds):
    """That those named so got the records of a crash and of a hang, and all others a score."""
    assert [Path(record.source).stem for record in records] == names
    assert [record.ok for record in records] == [name not in ("dies", "hangs", "garbles") for name in names]
    messages = {Path(record.source).stem: (record.error, record.message) for record in records if not record.ok}
    assert messages["dies"][0] == DecoderCrashed.__name__ and "exit status 7" in messages["dies"][1]
    assert messages["hangs"][0] == DecoderTimeout.__name__ and f"longer than {seconds:g} seconds" in messages["hangs"][1]
    return messages


def test_a_process_that_dies_or_hangs_costs_one_record_and_not_the_run(detector, monkeypatch, tmp_path):
    names = ["a", "dies", "b", "hangs", "garbles", "c"]
    records = stream(detector, monkeypatch, tmp_path, names, [sys.executable, "-I", "-c", PUPPET], 2)
    assert check(records, names, 2)["garbles"][0] == DecoderCrashed.__name__
    assert records[0].image.notes == ("a note",) and records[0].image.width == 2


@pytest.mark.slow
def test_a_real_decoder_that_dies_or_hangs_costs_one_record_and_not_the_run(detector, monkeypatch, files):
    monkeypatch.chdir(ROOT)
    names = ["a", "dies", "b", "hangs", "c"]
    records = stream(detector, monkeypatch, files, names, [sys.executable, "-m", "tests.bad_decoder"], 20)
    check(records, names, 20)
    assert records[0] == detector.predict(files / "a.jpg")


def test_processes_end_with_a_stream_that_is_dropped_half_way(detector, monkeypatch, tmp_path):
    kept = []

    def isolation(children, seconds):
        kept.append(Isolation(children, seconds, [sys.executable, "-I", "-c", PUPPET]))
        return kept[0]

    monkeypatch.setattr(detector_module, "Isolation", isolation)
    names = [tmp_path / f"{i}.jpg" for i in range(40)]
    records = detector.stream(names, workers=2, batch_size=1, isolate=60)
    assert next(records).ok
    children = [kept[0]._idle.get() for _ in range(2)]
    assert all(child.alive() for child in children)
    for child in children:
        kept[0]._idle.put(child)
    records.close()
    assert not any(child.alive() for child in children)


def test_a_child_that_does_not_start_is_an_error_and_not_a_record_for_each_file():
    with (
        pytest.raises(AigidetectError, match=r"does not start.*exit status 3"),
        Isolation(2, 1, [sys.executable, "-c", "raise SystemExit(3)"]),
    ):
        pass


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_limits_that_are_none_are_refused(detector, seconds):
    with pytest.raises(ValueError, match="isolate"):
        detector.stream([], isolate=seconds)


@pytest.mark.parametrize("lengths", [(2**40, 0), (2, 2**40)])
def test_a_child_cannot_ask_for_more_memory_than_a_picture_may_take(lengths):
    with pytest.raises(ValueError, match="lengths"):
        _receive(io.BytesIO(struct.pack(">QQ", *lengths)))


def test_an_answer_that_ends_early_is_noticed():
    with pytest.raises(EOFError):
        _receive(io.BytesIO(struct.pack(">QQ", 2, 10) + b"{}123"))
