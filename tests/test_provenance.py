"""What files say of their origin: found in every place, never believed, never dangerous."""

import random
import sys
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import features

from aigidetect import ImageError
from aigidetect.provenance import read
from aigidetect.provenance.blocks import MAX_BLOCK, MAX_TEXT
from aigidetect.provenance.claims import clipped
from aigidetect.provenance.credentials import _verdict
from aigidetect.provenance.signs import SOURCE_TYPES

from .hostile.pictures import chunk
from .provenance_case import JUMBF, TRAINED, exif, png, saved, signed, with_iptc, with_manifest, with_xmp, xmp

A1111 = "a cat\nNegative prompt: blurry\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 512x512"
FORMATS = ["JPEG", "PNG", "WEBP", "TIFF"] + (["AVIF"] if features.check("avif") else [])


def kinds(data):
    return [claim.kind for claim in read(data).claims]


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("Stable Diffusion", [("parameters", A1111)]),
        ("ComfyUI", [("prompt", '{"3": {"inputs": {"seed": 1}, "class_type": "KSampler"}}')]),
        ("ComfyUI", [("workflow", '{"last_node_id": 9, "nodes": [], "links": []}')]),
        ("InvokeAI", [("invokeai_metadata", '{"positive_prompt": "a cat"}')]),
        ("InvokeAI", [("Dream", '"a cat" -s 50 -S 1')]),
        ("NovelAI", [("Software", "NovelAI"), ("Comment", '{"prompt": "a cat", "steps": 28}')]),
        ("Midjourney", [("Description", "a cat --v 6.0 Job ID: 01234567-89ab-4cde-8f01-23456789abcd")]),
        ("Fooocus", [("parameters", '{"prompt": "a cat"}'), ("fooocus_scheme", "fooocus")]),
        ("SwarmUI", [("parameters", '{"sui_image_params": {"prompt": "a cat"}}')]),
        ("Easy Diffusion", [("use_stable_diffusion_model", "sd-v1-5")]),
        ("Chinese standard", [("AIGC", '{"Label": "1", "ContentProducer": "someone"}')]),
    ],
)
@pytest.mark.parametrize("coding", [{}, {"compressed": True}, {"compressed": True, "international": True}])
def test_the_texts_of_known_generators_are_named(name, texts, coding):
    claims = read(png(*texts, **coding)).claims
    assert claims[0].kind == "ai" and name in claims[0].statement


@pytest.mark.parametrize(
    "texts",
    [
        [("Comment", "Created with GIMP")],
        [("Title", "How Midjourney and Stable Diffusion work"), ("Author", "A. Person")],
        [("Description", "20 Steps: a sampler of stairs"), ("prompt", "please rotate")],
        [("Credit", "A photo agency")],
    ],
)
def test_ordinary_texts_claim_nothing(texts):
    assert read(png(*texts)).claims == ()


def test_an_editing_program_is_software_and_no_generator():
    assert kinds(png(("Software", "GIMP 2.10"))) == ["software"]


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("order", ["utf-16-be", "utf-16-le"])
def test_settings_in_the_user_comment_are_found_in_either_byte_order(format, order):
    data = saved(format, exif=exif({}, b"UNICODE\0" + A1111.encode(order)))
    [claim] = read(data).claims
    assert claim.kind == "ai" and "Negative prompt" in claim.detail


@pytest.mark.parametrize("format", FORMATS)
def test_a_camera_is_named_once(format):
    tags = {271: "ACME", 272: "Shot 1"}
    data = saved(format, exif=exif(tags))
    [claim] = read(data).claims
    assert claim.kind == "capture" and "ACME Shot 1" in claim.statement


def test_a_workflow_in_the_place_of_the_camera_is_no_camera():
    data = saved("WEBP", exif=exif({271: 'workflow:{"last_node_id": 3}', 272: 'prompt:{"1": {"class_type": "A"}}'}))
    [claim] = read(data).claims
    assert claim.kind == "ai" and "ComfyUI" in claim.statement


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    "properties",
    [
        f'<rdf:Description Iptc4xmpExt:DigitalSourceType="{TRAINED}"/>',
        f"<rdf:Description Iptc4xmpExt:DigitalSourceType = '{TRAINED}' />",
        f"<Iptc4xmpExt:DigitalSourceType>{TRAINED}</Iptc4xmpExt:DigitalSourceType>",
        f'<Iptc4xmpExt:DigitalSourceType rdf:resource="{TRAINED}"/>',
        f"<other:DigitalSourceType><rdf:Bag>\n<rdf:li>{TRAINED}</rdf:li></rdf:Bag></other:DigitalSourceType>",
    ],
)
def test_the_source_type_is_read_from_xmp_however_it_is_written(format, properties):
    [claim] = read(with_xmp(format, xmp(properties))).claims
    assert claim.kind == "ai" and "generative AI" in claim.statement


@pytest.mark.parametrize("code", SOURCE_TYPES)
def test_each_source_type_has_its_kind_and_words(code):
    [claim] = read(with_xmp("JPEG", xmp(f'<a DigitalSourceType="{TRAINED.rpartition("/")[0]}/{code}"/>'))).claims
    assert (claim.kind, claim.statement) == (SOURCE_TYPES[code][0], f"The file says that it {SOURCE_TYPES[code][1]}.")


def test_a_source_type_that_is_not_in_the_list_is_shown_and_not_judged():
    [claim] = read(with_xmp("JPEG", xmp('<a DigitalSourceType="cv/dreamtByAI"/>'))).claims
    assert claim.kind == "other-source" and "dreamtByAI" in claim.statement


@pytest.mark.parametrize(
    ("properties", "kind"),
    [
        ('<a photoshop:Credit="Made with Google AI"/>', "ai"),
        ('<a Iptc4xmpExt:AISystemUsed="Some Model"/>', "ai"),
        ('<a xmp:CreatorTool="Adobe Firefly"/>', "ai"),
        ('<a stEvt:softwareAgent="Adobe Firefly 3"/>', "partly-ai"),
        ('<a xmp:CreatorTool="Adobe Photoshop 25.0"/>', "software"),
        ('<a TC260:AIGC="{&quot;Label&quot;:&quot;1&quot;}"/>', "ai"),
        ('<a dcterms:provenance="https://example.org/manifest"/>', "credentials"),
        ('<a tiff:Make="ACME" tiff:Model="Shot 1"/>', "capture"),
    ],
)
def test_other_properties_of_xmp_are_read(properties, kind):
    assert kinds(with_xmp("JPEG", xmp(properties))) == [kind]


def test_iptc_data_are_read():
    assert kinds(with_iptc(b"Made with Google AI")) == ["ai"]
    assert kinds(with_iptc(b"A photo agency")) == []


def test_what_says_ai_comes_first_and_is_said_once():
    data = png(("Software", "GIMP 2.10"), ("parameters", A1111), ("other", A1111), ("Software", "GIMP 2.10"))
    assert kinds(data) == ["ai", "software"]


@pytest.mark.parametrize("format", FORMATS)
def test_a_manifest_is_present_but_not_checked_without_the_extra(monkeypatch, format):
    monkeypatch.setitem(sys.modules, "c2pa", None)
    claims = read(with_manifest(format, JUMBF + TRAINED.encode())).claims
    assert [claim.kind for claim in claims] == ["ai", "credentials"]
    assert "not checked" in claims[1].statement and "aigidetect[c2pa]" in claims[1].detail


def test_other_boxes_in_the_place_of_a_manifest_are_none():
    assert read(with_manifest("JPEG", JUMBF.replace(b"c2pa", b"abcd"))).claims == ()


@pytest.mark.parametrize(("format", "mime"), [("JPEG", "image/jpeg"), ("PNG", "image/png")])
def test_a_signature_holds_until_the_file_is_changed(format, mime):
    pytest.importorskip("c2pa", reason="needs the extra c2pa")
    data = signed(format, mime)
    claim = next(claim for claim in read(data).claims if claim.kind == "credentials")
    assert "A Newsroom" in claim.statement and "was not changed" in claim.statement and claim.statement.isprintable()
    changed = bytearray(data)
    changed[-30] ^= 1
    claim = next(claim for claim in read(bytes(changed)).claims if claim.kind == "credentials")
    assert "does not hold" in claim.statement or "cannot be read" in claim.statement


@pytest.mark.parametrize(
    ("state", "words"),
    [("Trusted", "list of trusted"), ("Valid", "was not checked"), ("Invalid", "does not hold"), (None, "does not hold")],
)
@pytest.mark.parametrize("manifests", [{}, {"manifests": {"a": {"signature_info": {"issuer": "A Newsroom"}}}}])
def test_only_what_the_library_says_of_a_signature_is_said(state, words, manifests):
    statement, detail = _verdict("It", {"active_manifest": "a", "validation_state": state, **manifests})
    assert words in statement and ("A Newsroom" if manifests else "unknown") in detail


def test_a_manifest_without_a_signature_does_not_pass_the_check():
    pytest.importorskip("c2pa", reason="needs the extra c2pa")
    [claim] = read(with_manifest("PNG", JUMBF)).claims
    assert "cannot be read" in claim.statement or "does not hold" in claim.statement


def test_a_compressed_text_is_inflated_only_as_far_as_it_is_read():
    bomb = chunk(b"zTXt", b"parameters\0\0" + zlib.compress(A1111.encode() + bytes(2**23)))
    data = saved("PNG")
    data = data[:33] + bomb + data[33:]
    tracemalloc.start()
    claims = read(data).claims
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert claims[0].kind == "ai" and peak < 2**21 and len(claims[0].detail) < 400


def test_xmp_expands_no_entities():
    packet = b'<!DOCTYPE a [<!ENTITY b "midjourney"><!ENTITY c "&b;&b;&b;">]><a xmp:CreatorTool="&c;&amp;"/>'
    [claim] = read(with_xmp("PNG", packet)).claims
    assert claim.kind == "software" and "&c;&" in claim.statement


def test_too_much_metadata_is_noted_and_not_read():
    many = read(png(*[("key", "x" * MAX_TEXT)] * 32, ("parameters", A1111)))
    assert many.claims == () and "more metadata" in many.notes[0]
    huge = read(with_xmp("PNG", xmp(f'<a xmp:CreatorTool="GIMP"/>{" " * MAX_BLOCK}')))
    assert huge.claims == () and "XMP" in huge.notes[0]


def test_what_a_file_says_is_one_clipped_line_without_commands_for_a_terminal():
    data = png(("Software", "\x1b[2J\x07\u202egnp.\n" + "x" * 5000), international=True)
    [claim] = read(data).claims
    assert (claim.statement + claim.detail).isprintable()
    assert len(claim.statement) < 150 and len(claim.detail) <= 300


@pytest.mark.parametrize("text", ["", "short", "x" * 9, "x" * 11, "\0" * 100 + "x", "a\u200bb\ud800c"])
def test_clipped_texts_keep_their_limit(text):
    line = clipped(text, 10)
    assert len(line) <= 10 and line.isprintable()
    assert line == text or not text.isprintable() or line.endswith("…")


def test_a_file_that_ends_early_says_what_stands_before_the_end():
    found = read(png(("parameters", A1111))[:-30])
    assert [claim.kind for claim in found.claims] == ["ai"]
    assert "ends early" in found.notes[0]


def test_damaged_metadata_raise_nothing(monkeypatch):
    monkeypatch.setitem(sys.modules, "c2pa", None)
    tags = exif({271: "ACME", 305: "NovelAI"}, b"ASCII\0\0\0" + A1111.encode())
    seeds = [saved(format, exif=tags, **({} if format in ("TIFF", "PNG") else {"xmp": xmp("")})) for format in FORMATS]
    seeds += [png(("parameters", A1111), compressed=True), with_iptc(b"x"), with_manifest("JPEG", JUMBF)]
    rng = random.Random(0)
    for round in range(600):
        data = bytearray(seeds[round % len(seeds)])
        for _ in range(rng.randrange(1, 6)):
            data[min(int(rng.expovariate(1 / 150)), len(data) - 1)] = rng.randrange(256)
        read(bytes(data[: rng.randrange(len(data))] if round % 3 == 0 else data))


def test_a_path_is_read_like_its_bytes_and_pixels_are_refused(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png(("parameters", A1111)))
    assert read(path).claims == read(str(path)).claims == read(path.read_bytes()).claims
    assert (read(path).source, read(path.read_bytes()).source) == (str(path), "<bytes>")
    with pytest.raises(TypeError, match="path or bytes"):
        read(np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(ImageError, match="no file"):
        read(tmp_path / "nothing.png")
    with pytest.raises(ImageError, match="limit"):
        read(path, max_bytes=10)


@pytest.mark.parametrize("data", [b"", b"a text", b"GIF89a", b"\xff\xd8", b"RIFF\0\0\0\0WEBP"])
def test_what_is_no_picture_says_nothing(data):
    assert read(data).claims == ()
