"""Named texts -> claims: which words of a file say what.

References:
    | IPTC NewsCodes, "Digital Source Type" (http://cv.iptc.org/newscodes/digitalsourcetype/), release of September 2024
    | IPTC Photo Metadata Standard 2025.1, "AI System Used"
    | GB 45438-2025, the label of generated content in China
    | The programs' own files, for what they write
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from .blocks import MAX_TEXT
from .claims import Claim, Kind, clipped
from .fields import Field

_SHOWN = 60  # characters of a name inside a sentence

# What each code means, after "The file says that it".
SOURCE_TYPES: dict[str, tuple[Kind, str]] = {
    "trainedAlgorithmicMedia": ("ai", "was made by generative AI"),
    "compositeWithTrainedAlgorithmicMedia": ("partly-ai", "was made in part by generative AI"),
    "compositeSynthetic": ("partly-ai", "was put together of parts, some of them synthetic"),
    "digitalCapture": ("capture", "was captured with a digital camera"),
    "computationalCapture": ("capture", "was merged by a camera of several shots"),
    "negativeFilm": ("capture", "was scanned from a film negative"),
    "positiveFilm": ("capture", "was scanned from a transparency"),
    "print": ("capture", "was scanned from a print"),
    "compositeCapture": ("capture", "was put together of captured pictures"),
    "screenCapture": ("other-source", "is a picture of a screen"),
    "humanEdits": ("other-source", "was edited by people, without generative AI"),
    "minorHumanEdits": ("other-source", "was edited slightly by people"),
    "algorithmicallyEnhanced": ("other-source", "was altered by a program, without generative AI"),
    "digitalCreation": ("other-source", "was made by people with a program"),
    "digitalArt": ("other-source", "was made by people with a program"),
    "softwareImage": ("other-source", "was made with a program"),
    "dataDrivenMedia": ("other-source", "shows data, drawn by a program"),
    "algorithmicMedia": ("other-source", "was computed by an algorithm that was not trained on examples"),
    "virtualRecording": ("other-source", "is a recording of a virtual event"),
    "composite": ("other-source", "was put together of several pictures"),
}

# Programs that write the settings of a generated picture into the file: name, keywords that suffice, words in the text.
_SETTINGS: tuple[tuple[str, frozenset[str], re.Pattern[str]], ...] = (
    ("InvokeAI", frozenset({"invokeai_metadata", "invokeai_graph", "invokeai_workflow", "sd-metadata", "dream"}),
     re.compile(r'"invokeai_version"|"app_id"\s{0,9}:\s{0,9}"invoke-ai')),
    ("Fooocus", frozenset({"fooocus_scheme"}), re.compile(r"(?i)\bfooocus\b")),
    ("SwarmUI", frozenset(), re.compile(r'"sui_image_params"')),
    ("Easy Diffusion", frozenset({"use_stable_diffusion_model"}), re.compile(r'"use_stable_diffusion_model"')),
    ("ComfyUI", frozenset(), re.compile(r'"class_type"\s{0,9}:|"last_node_id"\s{0,9}:')),
    ("Midjourney", frozenset(), re.compile(r"\bJob ID: [0-9a-fA-F]{8}-[0-9a-fA-F]{4}-")),
    ("Stable Diffusion (AUTOMATIC1111 or a program like it)", frozenset(),
     re.compile(r"\bSteps: \d{1,4}, (?:[^,\n]{1,80}, ){0,3}?(?:Sampler|CFG scale|Seed): ")),
)  # fmt: skip

_GENERATORS = re.compile(
    r"(?i)\b(?:NovelAI|Midjourney|DALL[ ·.-]?E|Stable[ -]?Diffusion|SDXL|Adobe Firefly|ComfyUI|InvokeAI|Fooocus|SwarmUI|"
    r"Draw Things|Easy Diffusion|AUTOMATIC1111|Ideogram|Leonardo\.? ?AI|Google AI|ChatGPT|GPT-4o|gpt-image|FLUX\.\d|"
    r"Bing Image Creator|Microsoft Designer|Craiyon|NightCafe|DreamStudio|Stability ?AI|Recraft|Meta AI|"
    r"Seedream|Dreamina|Jimeng|Qwen-Image|Nano Banana)\b"
)
_NAMED_IN = {"software", "creatortool", "softwareagent", "originatingprogram", "credit", "source"}
_PROGRAMS = {"software", "creatortool", "originatingprogram"}
_LABELLED = re.compile(r'"Label"\s{0,9}:\s{0,9}"?([123])')
_LABELS: dict[str, tuple[Kind, str]] = {
    "1": ("ai", "is AI-generated content"),
    "2": ("ai", "may be AI-generated content"),
    "3": ("ai", "is suspected to be AI-generated content"),
}


def claims(fields: Iterable[Field]) -> list[Claim]:
    """What named texts say of a picture's origin; texts that say nothing of it give none."""
    return [claim for field in fields if (claim := _claim(field)) is not None]


def _claim(field: Field) -> Claim | None:
    for read in (_source_type, _label, _settings, _named, _system, _remote, _camera, _program):
        if found := read(field):
            kind, statement = found
            return Claim(kind, statement, clipped(f"{field.place} {field.key!r}: {field.text}"))
    return None


def _source_type(field: Field) -> tuple[Kind, str] | None:
    if field.key != "DigitalSourceType":
        return None
    code = re.split(r"[/:]", field.text.rstrip("/"))[-1]
    if code not in SOURCE_TYPES:
        return "other-source", f"The file names a kind of origin that is not in the list known here: {_quoted(code)}."
    kind, words = SOURCE_TYPES[code]
    return kind, f"The file says that it {words}."


def _label(field: Field) -> tuple[Kind, str] | None:
    if field.key != "AIGC" or not (match := _LABELLED.search(field.text[:MAX_TEXT])):
        return None
    kind, words = _LABELS[match[1]]
    return kind, f"The file says that it {words} (the label of the Chinese standard)."


def _settings(field: Field) -> tuple[Kind, str] | None:
    for name, keys, pattern in _SETTINGS:
        if (field.place == "text" and field.key.lower() in keys) or pattern.search(field.text[:MAX_TEXT]):
            return "ai", f"The file holds settings of an image generator, {name}, and so says that it was made with it."
    return None


def _named(field: Field) -> tuple[Kind, str] | None:
    if field.key.lower() in _NAMED_IN and (match := _GENERATORS.search(field.text[:MAX_TEXT])):
        # An entry of the history of edits may be about a part of the picture.
        kind: Kind = "partly-ai" if field.key == "softwareAgent" else "ai"
        return kind, f"The file names “{match[0]}”, which is generative AI, in its field {field.key!r}."
    return None


def _system(field: Field) -> tuple[Kind, str] | None:
    if field.key == "AISystemUsed":
        return "ai", f"The file says that it was made with the AI system {_quoted(field.text)}."
    return None


def _remote(field: Field) -> tuple[Kind, str] | None:
    if field.key == "provenance":
        return "credentials", "The file says that its Content Credentials (C2PA) are on the internet; they were not fetched."
    return None


def _camera(field: Field) -> tuple[Kind, str] | None:
    if field.key == "Make and Model":
        return "capture", f"The file names a camera: {_quoted(field.text)}."
    return None


def _program(field: Field) -> tuple[Kind, str] | None:
    if field.key.lower() in _PROGRAMS and field.text.strip():
        return "software", f"The file names the program that wrote it: {_quoted(field.text)}."
    return None


def _quoted(text: str) -> str:
    return f"“{clipped(text, _SHOWN)}”"
