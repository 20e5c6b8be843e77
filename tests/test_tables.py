"""Tables from synthetic scores: the report's tables, the ablation, and the command for Tiny-GenImage."""

import csv
import functools
import io
import json
import re

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from aigidetect.calibration import Calibration
from aigidetect.manifest import load_manifest
from aigidetect.registry import build_network
from aigidetect.training import tables
from aigidetect.training.__main__ import main
from aigidetect.training.ablation import ablation_section, compare
from aigidetect.training.augment import HEADLINE_CONDITIONS
from aigidetect.training.evaluate import Score, read_scores, write_scores
from aigidetect.training.radar import draw_radar, panels
from aigidetect.training.report_tables import TITLES, by_generator, report_table, report_tables

from .conftest import array

GENERATORS = ("adm", "biggan", "glide")


def scores_of(accuracy, *, split="val", seed=0, n=10, conditions=("as-is",), generators=GENERATORS):
    """`n` real and `n` generated pictures of each generator; accuracy is the share of right calls among either."""
    rng = np.random.default_rng(seed)
    scores = []
    for condition in conditions:
        for generator in generators:
            for label in (0, 1):
                for i in range(n):
                    right = i < round(accuracy * n)
                    logit = (1 if right == bool(label) else -1) * float(rng.uniform(0.5, 2))
                    probability = 1 / (1 + np.exp(-logit))
                    name = f"{generator}-{label}-{i}"
                    facts = (generator, generator if label else "real", name, "photo", condition)
                    scores.append(Score(f"{name}.png", split, label, *facts, logit, probability))
    return scores


def write_folder(folder, detector, scores, **facts):
    folder.mkdir(parents=True)
    splits = sorted({s.split for s in scores})
    for split in splits:
        write_scores([s for s in scores if s.split == split], folder / f"{split}.csv")
    evaluation = {
        "detector": detector,
        "calibration": Calibration().to_dict(),
        "splits": splits,
        "train_lines": [],
        "weights_sha256": None,
        "preprocess": {},
    }
    (folder / "evaluation.json").write_text(json.dumps({**evaluation, **facts}))
    return folder


def markdown_rows(text, start):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith(start)]


@pytest.mark.parametrize("number", TITLES)
def test_every_table_of_the_report_is_bundled_with_its_caveats(number):
    table = report_table(number)
    assert table.rows and all(row["source"].startswith("report") for row in table.rows)
    assert all(set(row) == set(table.columns) for row in table.rows)
    text = " ".join(table.notes)
    assert "validation split" in text and "JPEG" in text and "PNG" in text
    own = {4: "leave out the generated pictures of ADM", 5: "swapped", 6: "guessing", 7: "10 epochs", 8: "last epoch"}
    assert own[number] in text


def test_the_reports_tables_7_and_8_agree_with_each_other():
    final = next(row for row in report_table(7).rows if row["version"] == "final")
    for column, per_generator in (("overall_acc_pct", "acc_pct"), ("ap_pct", "ap_pct"), ("fake_acc_pct", "fake_acc_pct")):
        mean = np.mean([float(row[per_generator]) for row in report_table(8).rows])
        assert float(final[column]) == pytest.approx(mean, abs=0.011)


def test_an_unknown_table_is_answered_with_the_known_ones():
    with pytest.raises(KeyError, match="4, 5, 6, 7, 8"):
        report_table(3)


def test_rows_of_ours_stand_below_the_reports_and_hold_the_same_columns():
    found = {table.number: table for table in report_tables({"ours@1": scores_of(0.9)})}
    for number, table in found.items():
        own = [row for row in table.rows if row["source"] == "ours@1"]
        assert own and table.rows[: len(report_table(number).rows)] == report_table(number).rows
        assert all(set(row) <= set(table.columns) for row in own)
    seventh = found[7].rows[-1]
    assert [seventh[c] for c in ("overall_acc_pct", "real_acc_pct", "fake_acc_pct")] == ["90.00"] * 3
    assert [row["generator"] for row in found[8].rows if row["source"] == "ours@1"] == list(GENERATORS)
    assert found[8].rows[-1]["samples"] == "20"
    assert {row["metric"] for row in found[6].rows} > {"training_time_s", "overall_accuracy"}


def test_table_4_leaves_out_what_the_report_left_out():
    scores = scores_of(1.0)
    broken = [
        Score(**{**vars(s), "probability": 0.1}) if s.source == "adm" and s.label else s for s in scores
    ]  # all ADM fakes missed
    found = {table.number: table for table in report_tables({"ours@1": broken})}
    assert found[4].rows[-1]["accuracy"] == found[4].rows[-1]["ai_recall"] == "1.0000"
    assert found[7].rows[-1]["overall_acc_pct"] == "83.33"


def test_precision_and_recall_follow_their_definitions():
    scores = scores_of(1.0, generators=("glide",))
    # Two real pictures called generated, one generated called real.
    wrong = {("glide-0-0.png"), ("glide-0-1.png"), ("glide-1-0.png")}
    scores = [Score(**{**vars(s), "probability": 1 - s.probability}) if s.file in wrong else s for s in scores]
    row = report_tables({"x": scores}, numbers=[4])[0].rows[-1]
    expected = {"nature_precision": 8 / 9, "nature_recall": 0.8, "ai_precision": 9 / 11, "ai_recall": 0.9, "accuracy": 0.85}
    assert {name: float(row[name]) for name in expected} == pytest.approx(expected, abs=1e-4)


def test_a_generator_without_real_pictures_of_its_own_is_put_beside_all():
    scores = [Score(**{**vars(s), "source": s.source if s.label else "camera"}) for s in scores_of(1.0)]
    parts = by_generator(scores)
    assert list(parts) == list(GENERATORS) and all(len(part) == 40 for part in parts.values())


def test_more_real_pictures_than_generated_ones_flatter_no_row():
    # All called real: right for 30 of the 40 pictures beside each generator, and yet no detection at all.
    scores = [Score(**{**vars(s), "source": s.source if s.label else "camera", "probability": 0.1}) for s in scores_of(1.0)]
    found = {table.number: table.rows[-1] for table in report_tables({"x": scores}, numbers=[5, 7, 8])}
    assert found[5]["avg_acc_pct"] == found[7]["overall_acc_pct"] == found[8]["acc_pct"] == "50.00"
    assert found[7]["ap_pct"] == "50.00" and found[8]["samples"] == "40"


def test_a_condition_that_was_not_measured_is_refused():
    with pytest.raises(ValueError, match="--conditions q96"):
        report_tables({"ours@1": scores_of(1.0)}, "q96")


def test_pictures_of_one_name_in_several_folders_stay_apart(tmp_path):
    scores = [
        Score("1.png", "val", label, "s", "l", f"{label}/1.png", "photo", "as-is", float(label), 0.5) for label in (0, 1)
    ]
    write_scores(scores, tmp_path / "val.csv")
    assert [(s.label, s.logit) for s in read_scores(tmp_path / "val.csv", Calibration())] == [(0, 0.0), (1, 1.0)]


def test_the_tables_command_writes_csv_markdown_and_a_chart(tmp_path, capsys):
    folders = [write_folder(tmp_path / name, "ours@1", scores_of(accuracy)) for name, accuracy in (("a", 0.9), ("b", 0.6))]
    out, chart = tmp_path / "out", tmp_path / "radar.png"
    assert main(["tables", *map(str, folders), "--out", str(out), "--radar", str(chart)]) == 0
    rows = list(csv.DictReader(io.StringIO((out / "table7.csv").read_text())))
    assert [(r["source"], r["overall_acc_pct"]) for r in rows[-2:]] == [("ours@1", "90.00"), ("ours@1 (b)", "60.00")]
    page = (out / "tables.md").read_text()
    assert all(f"### Table {number}" in page for number in TITLES) and "| final | report | 97.06 |" in page
    with Image.open(chart) as image:
        assert image.format == "PNG" and image.width > image.height > 300
    assert main(["tables", str(folders[0]), "--split", "test"]) == 2
    assert "--split" in capsys.readouterr().err


def test_the_chart_shows_the_report_only_where_its_generators_are():
    evaluations = {"ours@1": scores_of(0.9)}
    metrics, generators = panels(evaluations)
    assert metrics[2]["report, final"][0] == 97.06 and metrics[2]["ours@1"][0] == pytest.approx(90)
    assert generators[1] == list(GENERATORS) and generators[2]["report, final"] == [97.2, 96.8, 97.4]
    other = panels({"ours@1": scores_of(0.9, generators=("adm", "flux", "glide"))})[1]
    assert set(other[2]) == {"ours@1"}


def test_without_matplotlib_the_chart_says_which_extra_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(ModuleNotFoundError, match=re.escape("pip install 'aigidetect[plots]'")):
        draw_radar({"ours@1": scores_of(0.9)}, tmp_path / "x.png")


def ablation_folders(tmp_path, variants, splits=("test_seen",)):
    folders = []
    for name, seed, accuracy in variants:
        scores = [s for split in splits for s in scores_of(accuracy, split=split, conditions=HEADLINE_CONDITIONS)]
        folders.append(write_folder(tmp_path / f"abl-{name}-{seed}", name, scores))
    return folders


def test_an_ablation_compares_each_difference_with_the_seed_spread(tmp_path):
    variants = [("npr", 0, 0.6), ("npr", 1, 0.8), ("small", 0, 0.8), ("large", 0, 1.0)]
    section = ablation_section(ablation_folders(tmp_path, variants, ("test_seen", "test_unseen")), draws=3)
    rows = {(row[0], row[1]): row for row in markdown_rows(section, "|")}
    assert rows["npr", "1"][2] == "0.800"
    small, large = (rows[name, "test_seen balanced accuracy"] for name in ("small", "large"))
    assert small[2].startswith("+0.100") and large[2].startswith("+0.300") and small[3] == large[3] == "0.200"
    assert "- `small` does not exceed the seed spread in test_seen balanced accuracy" in section
    assert re.search(r"- `large` exceeds the seed spread in [^;]*test_unseen balanced accuracy", section)


def test_without_two_seeds_nothing_is_said_to_exceed(tmp_path):
    section = ablation_section(ablation_folders(tmp_path, [("npr", 0, 0.6), ("large", 0, 1.0)]), draws=2)
    assert "unknown" in section and "exceeds the seed spread in" not in section


def test_an_ablation_refuses_other_pictures_and_a_seed_twice(tmp_path):
    folders = ablation_folders(tmp_path / "a", [("npr", 0, 0.6)])
    again = ablation_folders(tmp_path / "b", [("npr", 0, 0.6)])
    with pytest.raises(ValueError, match="twice"):
        ablation_section([*folders, *again], draws=2)
    fewer = scores_of(0.6, split="test_seen", conditions=HEADLINE_CONDITIONS, n=5)
    other = write_folder(tmp_path / "other-1", "npr", fewer)
    with pytest.raises(ValueError, match="same pictures"):
        ablation_section([*folders, other], draws=2)
    plain = write_folder(tmp_path / "val-1", "npr", scores_of(0.6))
    with pytest.raises(ValueError, match="test_seen or test_unseen"):
        ablation_section([plain], draws=2)


def test_a_paired_comparison_is_antisymmetric_and_exact_for_equal_scores():
    a, b = (scores_of(accuracy, conditions=HEADLINE_CONDITIONS) for accuracy in (0.9, 0.7))
    assert compare([a], [a], draws=4)["auroc"] == (0.0, 0.0, 0.0)
    forth, back = compare([a], [b], draws=4), compare([b], [a], draws=4)
    value, low, high = forth["balanced_accuracy"]
    assert value == pytest.approx(0.2) and low <= value <= high
    assert back["balanced_accuracy"] == pytest.approx((-value, -high, -low))
    # Averaging a seed with itself changes nothing.
    assert compare([a, a], [b], draws=4)["auroc"] == pytest.approx(forth["auroc"])
    with pytest.raises(ValueError, match="half"):
        compare([[s for s in a if s.condition != "half+q80"]], [b], draws=2)


def test_results_show_the_ablation_and_the_cross_entropy(tmp_path, monkeypatch):
    folders = ablation_folders(tmp_path, [("npr", 0, 0.6), ("npr", 1, 0.7)])
    monkeypatch.setattr(tables, "results_page", functools.partial(tables.results_page, draws=2))
    out = tmp_path / "results.md"
    assert main(["results", str(folders[0]), "--ablation", *map(str, folders), "--out", str(out)]) == 0
    page = out.read_text()
    assert page.index("## Headline") < page.index("## Ablation") < page.index("## npr")
    assert "| ECE | NLL |" in page


FOLDERS = {"adm": "imagenet_ai_0508_adm", "biggan": "imagenet_ai_0419_biggan", "glide": "imagenet_glide"}


def tiny_genimage(root, layout, generators):
    """Four real JPEG and four generated PNG files of each generator, as distributed (`kaggle`) or as the report has them."""
    for number, generator in enumerate(generators):
        for i in range(4):
            for label in ("nature", "ai"):
                parts = (FOLDERS[generator], "val", label) if layout == "kaggle" else ("val", generator, label)
                folder = root.joinpath(*parts)
                folder.mkdir(parents=True, exist_ok=True)
                name = f"ILSVRC2012_val_{number}{i}.JPEG" if label == "nature" else f"{i}_{generator}.png"
                Image.fromarray(array(40 + i, 44, seed=8 * number + i)).save(folder / name)
    return root


def test_tiny_genimage_as_distributed_gives_tables_7_and_8_with_a_warning(tmp_path, capsys):
    root, out = tiny_genimage(tmp_path / "data", "kaggle", GENERATORS), tmp_path / "out"
    detectors = ["--detectors", "cvt-13", "npr-ms-ca"]
    assert main(["tiny-genimage", str(root), *detectors, "--out", str(out), "--device", "cpu"]) == 0
    page = capsys.readouterr().out
    assert "**Warning**" in page and re.search(r"\| format \| [\d.]+ \| SHORTCUT \|", page)
    as_is, equal = page.split("## Condition q96")
    for part, condition in ((as_is, "as-is"), (equal, "q96")):
        rows = markdown_rows(part, "|")
        assert ["cvt-13", "no weights", "-", "-", "-", "-"] in rows and f"condition `{condition}`" in part
        assert {row[0] for row in rows if row[1:2] == ["npr-ms-ca@1"]} == {"npr-ms-ca@1", *GENERATORS}
        assert all(row[-1] == "8" for row in rows if row[1:2] == ["npr-ms-ca@1"] and row[0] in GENERATORS)
        assert "`cvt-13` was not measured: " in part and "no published weights" in part
    assert "Read these figures" in equal and "Read these figures" not in as_is
    assert main(["tables", str(out / "npr-ms-ca"), "--condition", "q96", "--numbers", "8"]) == 0
    again = [row for row in markdown_rows(capsys.readouterr().out, "|") if row[1] == "npr-ms-ca@1"]
    assert again == [row for row in markdown_rows(equal, "|") if row[1] == "npr-ms-ca@1" and row[0] in GENERATORS]


def test_tiny_genimage_as_the_report_arranged_it_takes_weights_of_your_own(tmp_path, capsys):
    root, file = tiny_genimage(tmp_path / "data", "report", ("adm", "glide")), tmp_path / "own.safetensors"
    save_file(build_network(load_manifest().get("npr-ca")).state_dict(), file)
    command = ["tiny-genimage", str(root), "--detectors", "npr-ca", "--out", str(tmp_path / "out"), "--device", "cpu"]
    own = ["--weights", f"npr-ca={file}", "--preprocess", '{"kind": "squash-crop", "resize": 40, "crop": 32}']
    assert main([*command, *own, "--conditions", "as-is"]) == 0
    page = capsys.readouterr().out
    assert "at least 10 groups" in page and "Condition q96" not in page
    assert {row[0] for row in markdown_rows(page, "|") if row[1:2] == ["npr-ca@1+custom"]} >= {"adm", "glide"}
    facts = json.loads((tmp_path / "out" / "npr-ca" / "evaluation.json").read_text())
    assert facts["preprocess"]["crop"] == 32 and facts["splits"] == ["val"]


@pytest.mark.parametrize("weights", ["npr-ca", "npr-xx=file", "npr-ca=", "npr-ca=missing.safetensors"])
def test_wrong_weights_are_an_error_and_not_a_row(tmp_path, capsys, weights):
    root = tiny_genimage(tmp_path / "data", "report", ("adm",))
    assert (
        main(["tiny-genimage", str(root), "--detectors", "npr-ca", "--weights", weights, "--out", str(tmp_path / "o")]) == 2
    )
    assert weights.split("=")[0] in capsys.readouterr().err or "missing.safetensors" in weights
