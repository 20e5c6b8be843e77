"""Readers of the known layouts, and the audit that shouts at shortcuts."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from aigidetect.training.__main__ import main
from aigidetect.training.audit import audit
from aigidetect.training.datasets import Sample
from aigidetect.training.layouts import read_data

from .conftest import array

GENERATORS = {"imagenet_ai_0508_adm": "adm", "imagenet_midjourney": "midjourney"}


def write(path, seed, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array(24 + seed % 3, 32, seed=seed)).save(path, **options)


def tiny_genimage(root, layout, n=12):
    """JPEG reals and PNG fakes, as the real one: `.JPEG`, `.png` and, for ADM, `.PNG`."""
    for folder, name in GENERATORS.items():
        for split in ("train", "val"):
            for i in range(n):
                seed = hash((folder, split, i)) % 10_000
                part = f"{folder}/{split}" if layout == "kaggle" else f"{split}/{name}"
                suffix = "PNG" if name == "adm" else "png"
                write(root / part / "ai" / f"{i}_{name}_{split}.{suffix}", seed)
                write(root / part / "nature" / f"n0{i:07d}_{name}{split}.JPEG", seed + 1, quality=90)
    return root


@pytest.mark.parametrize("layout", ["kaggle", "report"])
def test_both_layouts_of_tiny_genimage_are_read_alike(tmp_path, layout):
    samples = read_data(tiny_genimage(tmp_path, layout))
    assert len(samples) == 2 * 2 * 2 * 12
    for name in GENERATORS.values():
        for split in ("train", "val"):
            chosen = [s for s in samples if (s.source, s.split) == (name, split)]
            assert sorted(s.label for s in chosen) == [0] * 12 + [1] * 12
    assert sum(s.path.suffix == ".PNG" for s in samples) == 24
    assert {s.line for s in samples} == {"real", "adm", "midjourney"}


def test_forensynths_and_plain_folders_are_read(tmp_path):
    for i in range(3):
        write(tmp_path / "cnn" / "progan" / "cat" / "0_real" / f"{i}.png", i)
        write(tmp_path / "cnn" / "progan" / "cat" / "1_fake" / f"{i}.png", i)
        write(tmp_path / "mine" / "real" / f"{i}.jpg", i)
        write(tmp_path / "mine" / "ai" / "deep" / f"{i}.webp", i)
    forensynths, mine = read_data(tmp_path / "cnn"), read_data(tmp_path / "mine")
    assert [s.label for s in forensynths] == [0, 0, 0, 1, 1, 1]
    assert {s.source for s in forensynths} == {"progan"}
    assert len({s.group for s in forensynths}) == 6  # equal names in different folders are different pictures
    assert sorted(s.label for s in mine) == [0, 0, 0, 1, 1, 1]
    assert {s.split for s in mine} == {"test"}


def test_both_csv_forms_are_read(tmp_path):
    report = [["a\\x.png", "train", "True", "adm"], ["y.png", "val", "False", "nature"]]
    spai = [["a/x.png", "1", "train"], ["y.png", "0", "val"]]
    rows = {
        "report.csv": (["image_path", "split", "is_ai", "ai_model"], report),
        "spai.csv": (["image", "class", "split"], spai),
    }
    for name, (header, body) in rows.items():
        with open(tmp_path / name, "w", newline="") as file:
            csv.writer(file).writerows([header, *body])
        fake, real = read_data(tmp_path / name)
        assert (fake.path, fake.label, fake.split) == (tmp_path / "a" / "x.png", 1, "train")
        assert (real.path, real.label, real.split, real.line) == (tmp_path / "y.png", 0, "val", "real")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "expected one of"),
        ("image,class,split\nx.png,2,train\n", "Line 2"),
        ("image,class,split\n", "no labelled"),
    ],
)
def test_broken_lists_are_refused(tmp_path, text, message):
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_data(tmp_path / "list.csv")


def test_a_folder_without_labels_and_a_missing_one_are_refused(tmp_path):
    write(tmp_path / "pictures" / "x.png", 0)
    with pytest.raises(ValueError, match="nature"):
        read_data(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_data(tmp_path / "nowhere")


@pytest.fixture
def once(monkeypatch):
    """Commands that audit the same data again get the audit of the first time, which is most of what they cost."""
    found = {}

    def remembered(samples, **options):
        key = (tuple(samples), *options.items())
        if key not in found:
            found[key] = audit(samples, **options)
        return found[key]

    monkeypatch.setattr(f"{audit.__module__}.audit", remembered)


@pytest.mark.usefixtures("once")
def test_the_audit_shouts_at_tiny_genimage(tmp_path, capsys):
    root = tiny_genimage(tmp_path / "data", "kaggle")
    assert main(["audit", str(root), "--out", str(tmp_path / "audit.json")]) == 1
    assert "SHORTCUT" in capsys.readouterr().out
    result = json.loads((tmp_path / "audit.json").read_text())
    assert result["auroc"]["format"] == 1.0
    assert {"format", "JPEG quality", "first and last bytes", "all of these"} <= set(result["shortcuts"])
    assert main(["audit", str(root), "--allow"]) == 0


@pytest.mark.usefixtures("once")
def test_a_run_on_shortcuts_that_the_recipe_leaves_open_is_refused(tmp_path, capsys):
    root = tiny_genimage(tmp_path / "data", "report")
    recipe = {"name": "x", "architecture": "npr_resnet", "steps": 1, "batch_size": 4, "sizes": [[1.0, 16]]}
    (tmp_path / "open.json").write_text(json.dumps({**recipe, "augment": {"encode": 0.0}}))
    (tmp_path / "closed.json").write_text(json.dumps(recipe))
    common = ["fit", "--data", str(root), "--out", str(tmp_path / "run"), "--recipe"]
    assert main([*common, str(tmp_path / "open.json")]) == 2
    assert "predict the label" in capsys.readouterr().err
    assert main([*common, str(tmp_path / "closed.json")]) == 0
    assert json.loads((tmp_path / "run" / "audit.json").read_text())["shortcuts"]


def equal_data(root, n=60):
    samples = []
    for i in range(n):
        write(root / f"{i}.png", seed=i)
        samples.append(Sample(root / f"{i}.png", i % 2, "s", f"g{i}", ("train", "val")[i // 2 % 2]))
    return samples


def test_the_audit_is_calm_where_labels_are_drawn_by_lot(tmp_path):
    samples = equal_data(tmp_path)
    order = np.random.default_rng(0).permutation(len(samples))
    samples = [Sample(s.path, int(order[i] % 2), s.source, s.group, s.split) for i, s in enumerate(samples)]
    assert not audit(samples, limit=0.75).shortcuts


def test_leaks_between_splits_and_undecodable_files_are_listed(tmp_path, monkeypatch):
    # What predicts the label is of no interest here, and takes most of an audit's time.
    monkeypatch.setattr(f"{audit.__module__}._predictability", lambda *_: 0.5)
    samples = equal_data(tmp_path)
    again = Sample(tmp_path / "copy.jpg", 0, "s", "g0", "val")
    Image.open(samples[0].path).save(again.path, quality=92)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    broken = Sample(tmp_path / "broken.png", 1, "s", "gx", "train")
    result = audit([*samples, again, broken])
    assert result.shared_groups == ("g0",)
    assert ("0.png", "copy.jpg") in result.near_duplicates
    assert len(result.undecodable) == 1
    assert "1 undecodable" in result.table()


def test_an_audit_of_one_class_is_refused(tmp_path):
    samples = [s for s in equal_data(tmp_path, 40) if s.label == 0]
    with pytest.raises(ValueError, match="at least 10 groups"):
        audit(samples)
