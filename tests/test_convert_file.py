"""What a converted file states about itself, what is not converted, and that the documentation has it all."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from aigidetect import SquashCrop, Tiles, Whole, checkpoint, foreign, load_detector
from aigidetect.convert_file import convert_file
from aigidetect.errors import UnknownDetectorError, WeightsError, WeightsMismatch
from aigidetect.manifest import load_manifest
from aigidetect.models import npr_resnet

from .foreign_case import facts_of, git_blob, npr_state, read_here
from .test_convert_cli import converted, run


@pytest.fixture(autouse=True)
def _here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoint, "_run_reader", read_here)


# --- what the file states ---


def test_the_file_states_where_it_comes_from():
    torch.save(npr_state("upstream"), "theirs.pth")
    convert_file("theirs.pth", "npr", "ours.safetensors")
    facts, content = facts_of(Path("ours.safetensors")), Path("theirs.pth").read_bytes()
    source = facts.pop("source")
    assert (source["file"], source["bytes"], source["git_blob"]) == ("theirs.pth", len(content), git_blob(content))
    preprocess = json.loads(json.dumps(SquashCrop().to_dict()))
    assert facts == {"detector": "npr", "part": "detector", "config": {}, "preprocess": preprocess}


def test_the_preprocessing_can_be_chosen(capsys):
    state = npr_state("upstream")
    detector = converted(capsys, state, "npr", "--preprocess", '{"kind": "tiles", "size": 128}')
    assert detector.preprocess == Tiles(size=128)
    for wrong in ("{", '{"kind": "mosaic"}'):
        assert run(capsys, "theirs.pth", "--as", "npr", "-o", "b.safetensors", "--preprocess", wrong)[0] == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"detector": "npr-ca"}, "converted as 'npr-ca', not 'npr'"),
        ({"config": {"fusion": "multi"}}, "states the options"),
        ({"preprocess": {"kind": "mosaic"}}, "Unknown preprocessing"),
        ({"preprocess": {"kind": "squash-crop", "resize": 10**6}}, "above 4096"),
        ({"preprocess": "tiles"}, "expected an object"),
        ({"more": 1}, "unknown"),
    ],
)
def test_a_file_that_states_nonsense_is_refused(change, words):
    state = npr_resnet.build().state_dict()
    facts = {"detector": "npr", "part": "detector", "config": {}, "preprocess": {"kind": "tiles"}, "source": {}}
    save_file(state, "ours.safetensors", metadata={"aigidetect": json.dumps(facts)})
    assert load_detector("npr", weights="ours.safetensors").preprocess == Tiles()
    save_file(state, "ours.safetensors", metadata={"aigidetect": json.dumps(facts | change)})
    with pytest.raises(WeightsMismatch, match=words):
        load_detector("npr", weights="ours.safetensors")


def test_a_file_that_states_nothing_is_loaded_as_ever():
    save_file(npr_resnet.build().state_dict(), "own.safetensors")
    assert isinstance(load_detector("npr", weights="own.safetensors").preprocess, Tiles)


# --- what cannot be converted ---


def test_a_public_file_is_not_taken_for_another(monkeypatch):
    torch.save(npr_state("final"), "theirs.pth")
    blob = git_blob(Path("theirs.pth").read_bytes())
    known = foreign.Foreign("npr:cvpr2024", "a/b", "0" * 40, "NPR.pth", blob, Whole(min_size=9))
    other = foreign.Foreign("npr-ca:report", "a/b", "0" * 40, "ca.pth", "1" * 40)
    monkeypatch.setattr(foreign, "FOREIGN", (known, other))
    with pytest.raises(WeightsMismatch, match=r"'npr:cvpr2024'; use --as npr\."):
        convert_file("theirs.pth", "npr-ms-ca")
    with pytest.raises(WeightsMismatch, match=r"not 'npr-ca:report': expected the Git blob 1111.*Use --as npr-ca"):
        convert_file("theirs.pth", "npr-ca:report")
    with pytest.raises(UnknownDetectorError, match="npr:cvpr2024"):
        convert_file("theirs.pth", "npr:report")
    for name in ("npr", "npr:cvpr2024"):
        assert convert_file("theirs.pth", name, "ours.safetensors", force=True).preprocess == Whole(min_size=9)
    assert facts_of(Path("ours.safetensors"))["source"]["name"] == "npr:cvpr2024"


def test_nothing_is_overwritten_or_left_half_done(capsys):
    state = npr_state("upstream")
    save_file(state, "npr.safetensors")
    before = Path("npr.safetensors").read_bytes()
    assert run(capsys, "npr.safetensors", "--as", "npr")[0] == 2  # onto itself
    assert run(capsys, "npr.safetensors", "--as", "npr", "--force")[0] == 2
    torch.save(state, "theirs.pth")
    status, _, err = run(capsys, "theirs.pth", "--as", "npr")
    assert status == 2 and "--force" in err and Path("npr.safetensors").read_bytes() == before
    assert run(capsys, "theirs.pth", "--as", "npr-ms", "-o", "out/ms.safetensors")[0] == 2
    assert not list(Path("out").glob("*"))
    assert run(capsys, "theirs.pth", "--as", "npr", "--force")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nowhere.pth", "--as", "npr"), "nowhere.pth"),
        (("theirs.pth", "--as", "nope"), "npr-ms-ca"),
        (("theirs.pth", "--as", "vit-clip"), "only for cvt-13, npr"),
        (("theirs.pth", "--as", "npr", "-o", "out.pth"), "ends with .safetensors"),
        (("theirs.pth", "--as", "npr-ca"), "lacks 4 tensors"),
        (("theirs.pth", "--as", "resnet50"), "is this a checkpoint of 'resnet50'"),
    ],
)
def test_wrong_use_is_status_2_and_says_what_would_work(capsys, arguments, words):
    torch.save(npr_state("upstream"), "theirs.pth")
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "") and words in err
    assert "Traceback" not in err and not Path("out.pth").exists()


def test_an_output_folder_that_cannot_be_made_is_an_error_of_ours():
    torch.save(npr_state("upstream"), "theirs.pth")
    Path("file").write_text("")
    with pytest.raises(WeightsError, match="Cannot write"):
        convert_file("theirs.pth", "npr", "file/out.safetensors")


# --- the table of the documentation ---

TESTS = Path(__file__).parent
DOCS = TESTS.parent / "docs" / "weights.md"


def table(title: str) -> list[list[str]]:
    """Cells of the first table after a heading, without its head."""
    text = DOCS.read_text(encoding="utf-8").partition(f"### {title}\n")[2]
    rows = text[text.index("\n|") + 1 :].partition("\n\n")[0].splitlines()
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def test_every_format_of_the_documentation_has_a_test_and_every_detector_a_format():
    names = set()
    for _, as_, _, test in table("Formats"):
        names |= set(re.findall(r"`([a-z0-9-]+)`", as_))
        file, _, function = test.strip("`").partition("::")
        assert f"\ndef {function}(" in (TESTS.parent / file).read_text(encoding="utf-8"), test
    assert names == {entry.name for entry in load_manifest() if entry.architecture in foreign.PREPROCESS}


def test_the_documentation_lists_every_public_checkpoint():
    rows = {name.strip("`"): (where, path, blob) for name, where, path, blob in table("Public checkpoints")}
    expected = {f.name: (f"{f.repository} @ {f.commit[:7]}", f"`{f.path}`", f"`{f.blob[:12]}`") for f in foreign.FOREIGN}
    assert rows == expected
