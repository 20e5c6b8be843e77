"""`head`: comparisons, other views of the same pictures, and a teacher's file, on caches that are written by hand."""

import functools
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from aigidetect.models.clip_vit import CLIP_MEAN, CLIP_STD, Tower
from aigidetect.training import head_report
from aigidetect.training.__main__ import main
from aigidetect.training.datasets import digest, read_index, take_split
from aigidetect.training.features import join_views, open_cache
from aigidetect.training.fit import read_recipe
from aigidetect.training.head_tables import head_section
from aigidetect.training.heads import HeadConfig, fit_head, out_of_fold
from aigidetect.training.teacher import key_of, read_teacher
from aigidetect.training.token_heads import POOLINGS, TokenConfig, TokenHead, fit_token_head, late_tokens

from .fit_case import write_data

BLOCKS, WIDTH = (5, 6, 7, 8, 9), 2


def write_cache(folder, samples, views, *, seed=0, conditions=None, done=None):
    """Features in which the class shows, more clearly the later the block."""
    rng = np.random.default_rng(seed)
    labels = np.array([s.label for s in samples], np.float32)[None, :, None]
    features = rng.normal(size=(views, len(samples), len(BLOCKS) * 3 * WIDTH)) + labels * np.linspace(0, 2, 30)
    folder.mkdir(parents=True)
    np.save(folder / "features.npy", features.astype(np.float16))
    facts = {"data": digest(samples), "seed": seed} | ({"conditions": conditions} if conditions else {})
    done = views * len(samples) if done is None else done
    content = {"facts": facts, "blocks": BLOCKS, "tokens_after": 0, "done": done}
    (folder / "cache.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Pictures of the splits train and val."""
    folder = write_data(tmp_path_factory.mktemp("data"))
    rows = (folder / "index.tsv").read_text(encoding="utf-8").splitlines()
    rows[1:] = [row.replace("\tline\t", f"\tline{i % 3}\t") for i, row in enumerate(rows[1:])]
    more = [row.replace("\ttrain\t", "\tval\t").replace("\tg", "\tv") for row in rows[1:]]
    (folder / "index.tsv").write_text("\n".join([*rows, *more]) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def train(data):
    return take_split(read_index(data), "train")


@pytest.fixture
def way(data, train, tmp_path, monkeypatch):
    """Arguments of `head` for a cache of three views and one of val."""
    monkeypatch.setattr(head_report, "FOLDS", 2)
    monkeypatch.setattr(head_report, "_figures", functools.partial(head_report._figures, draws=5))
    write_cache(tmp_path / "train", train, 3)
    write_cache(tmp_path / "val", take_split(read_index(data), "val"), 3, conditions=["q96", "q75", "half+q80"])
    return ["head", "--tower", "unused", "--data", str(data), "--train", str(tmp_path / "train")]


def test_questions_choose_what_is_compared_and_shown(way, tmp_path, capsys):
    report = tmp_path / "report.json"
    assert main([*way, "--val", str(tmp_path / "val"), "--questions", "views", "blocks", "--report", str(report)]) == 0
    rows = json.loads(report.read_text())["rows"]
    assert [(r["what"], r["views"]) for r in rows if r["what"] == "views"] == [("views", 1), ("views", 2), ("views", 3)]
    by_block = {tuple(r["blocks"]): r["val"]["auroc"][0] for r in rows if r["what"] == "blocks"}
    assert by_block[9,] > by_block[5,] and {r["what"] for r in rows} == {"views", "blocks"}
    page = head_section(report)
    assert "### Random views" in page and "### Seeds" not in page
    other = tmp_path / "other.json"
    other.write_text(json.dumps({**json.loads(report.read_text()), "rows": [{**rows[0], "what": "seed"}]}))
    assert "### Random views" in head_section(report, other) and "### Seeds" in head_section(report, other)
    other.write_text(json.dumps({**json.loads(report.read_text()), "val": "3 real and 2 AI-generated pictures"}))
    with pytest.raises(ValueError, match="same data"):
        head_section(report, other)
    assert main([*way, "--val", str(tmp_path / "val"), "--questions", "colour"]) == 2
    assert "penalty" in capsys.readouterr().err


def test_heads_with_attention_or_contrast_are_compared_and_not_shipped(way, tmp_path, capsys):
    report = tmp_path / "report.json"
    assert main([*way, "--val", str(tmp_path / "val"), "--questions", "attention", "contrast", "--report", str(report)]) == 0
    rows = json.loads(report.read_text())["rows"]
    assert [("attention=True" in r["config"], "contrast=" in r["config"]) for r in rows if "seed" not in r["config"]] == [
        (False, False),
        (True, False),
        (False, False),
        (False, True),
    ]
    page = head_section(report)
    assert "weighed against each other" in page and "contrastive" in page
    wide = {"attention": True, "hidden": 4}
    assert main([*way, "--config", json.dumps(wide), "--out", str(tmp_path / "run")]) == 2
    assert main([*way, "--config", '{"attention": true}']) == 2
    assert "hidden" in capsys.readouterr().err


def test_a_head_on_class_tokens_is_compared_and_finishes_a_run_that_says_so(way, train, tmp_path):
    report, tower, out = tmp_path / "report.json", tmp_path / "tower.safetensors", tmp_path / "run"
    assert main([*way, "--val", str(tmp_path / "val"), "--questions", "class tokens", "--report", str(report)]) == 0
    settings = [row["config"] for row in json.loads(report.read_text())["rows"]]
    assert 2 < sum("patches=False" in text for text in settings) < len(settings)
    assert "### Class tokens alone" in head_section(report)
    save_file({f"tower.blocks.{n}.norm1.weight": torch.ones(WIDTH) for n in range(12)}, tower)
    config = '{"patches": false, "hidden": 4, "epochs": 1, "blocks": [8, 9]}'
    assert main([*("head", "--tower", str(tower)), *way[3:], "--config", config, "--out", str(out)]) == 0
    assert read_recipe(out).config == {"blocks": 9, "taps": [8, 9], "hidden": 4, "patches": False}
    assert (read_recipe(out).mean, read_recipe(out).std) == (CLIP_MEAN, CLIP_STD)
    state = load_file(out / "model.safetensors")
    assert state["head.hidden.weight"].shape == (4, 2 * WIDTH) and len(state) == 9 + 6
    class_tokens = open_cache(tmp_path / "train").features[..., [3 * 3 * WIDTH, 3 * 3 * WIDTH + 1]].astype(np.float32)
    torch.testing.assert_close(state["head.mean"][:WIDTH], torch.from_numpy(class_tokens).mean(dim=(0, 1)))


@pytest.mark.parametrize("options", [{"attention": True}, {"contrast": 0.5}])
def test_heads_learn_what_the_features_show(options):
    labels = torch.tensor([0.0, 1.0] * 256)
    features = torch.randn(512, 8, generator=torch.Generator().manual_seed(0)) + 2 * labels[:, None]
    config = HeadConfig(blocks=(8, 9), hidden=8, dropout=0.1, epochs=30, learning_rate=3e-2, **options)
    head = fit_head(features, labels, torch.ones(512), config)
    assert ((head(features)[:, 0] > 0) == (labels > 0.5)).float().mean() > 0.95


def test_the_blocks_can_be_weighed_and_their_weights_add_up():
    head = fit_head(
        torch.randn(300, 8), torch.rand(300).round(), torch.ones(300), HeadConfig(blocks=(8, 9), hidden=4, attention=True)
    )
    with torch.no_grad():
        head.importance[0] = 1e4  # only the first block is left
    x = torch.randn(5, 8)
    y = torch.cat((x[:, :4], torch.randn(5, 4)), dim=1)
    assert torch.equal(head(x), head(y)) and not torch.equal(head(x), head(-x))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_heads_on_tokens_find_one_telling_patch(pooling):
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(128, 6, 8)).astype(np.float16)
    labels = torch.tensor([0.0, 1.0] * 64)
    tokens[1::2, 3, :4] += 9  # one patch of every generated picture
    config = TokenConfig(pooling, hidden=16, epochs=40, dropout=0.0, learning_rate=2e-2)
    head = fit_token_head(tokens, labels, torch.ones(128), config)
    views = torch.from_numpy(tokens.astype(np.float32))
    logits = head(views)
    assert ((logits[:, 0] > 0) == (labels > 0.5)).float().mean() > 0.95
    order = [0, 4, 2, 5, 1, 3]  # the class token keeps its place
    torch.testing.assert_close(head(views[:, order]), logits)


def test_a_pooling_that_is_not_known_is_answered_with_those_that_are():
    with pytest.raises(ValueError, match="mean, smooth-max, attention"):
        TokenHead(8, "max", 4)


def test_the_question_of_pooling_is_answered_from_cached_tokens(train, tmp_path, monkeypatch):
    monkeypatch.setattr(head_report, "FOLDS", 2)
    monkeypatch.setattr(head_report, "_figures", functools.partial(head_report._figures, draws=5))
    folder = write_cache(tmp_path / "cache", train, 1)
    tower = Tower(blocks=9, taps=(4, 9), width=WIDTH, heads=1, patch=4, image_size=8).eval()
    with torch.inference_mode():
        early, last = tower(torch.randn(len(train), 3, 8, 8))
    np.save(folder / "tokens.npy", early.half().numpy()[None])
    facts = json.loads((folder / "cache.json").read_text())
    (folder / "cache.json").write_text(json.dumps({**facts, "tokens_after": 4}))
    cache = open_cache(folder)
    assert np.abs(late_tokens(tower, cache.complete_tokens(4)[0], 4, batch_size=3) - last.numpy()).max() < 0.05
    rows = head_report.pooling_rows(tower, cache, train)
    assert len(rows) == 2 + len(POOLINGS) and all(0 <= row["across"]["auroc"][0] <= 1 for row in rows)


def test_other_views_of_the_same_pictures_count_as_views(way, train, tmp_path):
    write_cache(tmp_path / "more", train, 4, seed=1, done=2 * len(train) + 3)
    first, more = open_cache(tmp_path / "train"), open_cache(tmp_path / "more")
    joined = join_views([first, more])
    assert joined.complete == 5 and np.array_equal(joined.features[3:], more.features[:2])
    both = [way[0], *way[1:5], way[4], "--train", str(tmp_path / "train"), str(tmp_path / "more")]
    report = tmp_path / "r.json"
    assert main([*both, "--val", str(tmp_path / "val"), "--questions", "views", "--report", str(report)]) == 0
    assert [row["views"] for row in json.loads(report.read_text())["rows"]] == [1, 2, 3, 4, 5]
    with pytest.raises(ValueError, match="same pictures"):
        join_views([first, open_cache(write_cache(tmp_path / "other", train[1:], 1))])


def test_heads_across_lines_see_aligned_fakes_but_not_those_of_pictures_held_out(train):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(1, len(train), 6)).astype(np.float16)
    fakes = rng.normal(size=(1, len(train), 6)).astype(np.float16)
    config = HeadConfig(weight_decay=0.1)
    alone = out_of_fold(features, train, config, folds=2)
    with_fakes = out_of_fold(features, train, config, folds=2, aligned=[(fakes, train)])
    assert not np.allclose(alone, with_fakes)
    # What is made from a picture that a head may not see changes nothing for it.
    fold = np.flatnonzero(alone[0] != 0)[0]
    groups = {train[fold].group}
    changed = fakes.copy()
    changed[:, [s.group in groups for s in train]] += 5
    again = out_of_fold(features, train, config, folds=2, aligned=[(changed, train)])
    assert again[0, fold] == pytest.approx(with_fakes[0, fold], abs=1e-6)


def test_teach_writes_an_opinion_of_every_training_picture(way, train, tmp_path):
    out = tmp_path / "teacher.csv"
    assert main([*way, "--teach", str(out)]) == 0
    assert set(read_teacher(out)) == {key_of(s) for s in train}


def test_a_paired_difference_is_antisymmetric_and_nothing_for_equal_logits(train):
    rng = np.random.default_rng(0)
    labels = np.array([s.label for s in train])
    a, b = ((rng.normal(size=(2, len(train))) + shift * (labels - 0.5)).astype(np.float32) for shift in (4, 0))
    forth, back = (head_report.paired_difference(x, y, train, draws=20) for x, y in ((a, b), (b, a)))
    for name, (value, low, high) in forth.items():
        assert value > 0 and low <= value <= high
        assert back[name] == pytest.approx([-value, -high, -low])
    assert head_report.paired_difference(a, a, train, draws=5)["auroc"] == [0, 0, 0]
