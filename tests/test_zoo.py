"""The table of all detectors."""

import json

import pytest

from aigidetect.manifest import load_manifest
from aigidetect.training.tables import write_readme
from aigidetect.training.zoo import zoo_section, zoo_table

from .test_tables import markdown_rows


@pytest.fixture
def benchmark(tmp_path):
    path = tmp_path / "detectors.json"
    costs = {e.full_name: {"ms_per_picture": 50.4, "times_npr_ms_ca": 1.26} for e in load_manifest() if e.weights}
    path.write_text(json.dumps({"threads": 2, "detectors": costs}), encoding="utf-8")
    return path


def test_every_name_has_one_row_and_the_best_come_first(benchmark):
    rows = markdown_rows(zoo_section(None, benchmark), "| `")
    book = load_manifest()
    assert sorted(row[0].strip("`").split("@")[0] for row in rows) == sorted(book.names())
    measured = [row for row in rows if row[1] != "no weights"]
    assert [book.get(row[0].strip("`")).weights is not None for row in rows] == [True] * len(measured) + [False] * (
        len(rows) - len(measured)
    )
    accuracies = [float(row[1].split()[0]) for row in measured]
    assert accuracies == sorted(accuracies, reverse=True)
    assert all(row[6] == "50" and row[7] == "1.3" and row[8] for row in measured)


def test_the_readme_shows_those_with_weights_by_the_same_figures(benchmark, tmp_path):
    whole = {row[0]: row for row in markdown_rows(zoo_section(None, benchmark), "| `")}
    short = markdown_rows(zoo_table(None, benchmark), "| `")
    assert {row[0] for row in short} == {name for name, row in whole.items() if row[1] != "no weights"}
    assert all(row[1:] == [whole[row[0]][i] for i in (1, 2, 6, 5, 8)] for row in short)
    readme = tmp_path / "README.md"
    readme.write_text("a\n<!-- detectors -->\nold\n<!-- /detectors -->\nb\n", encoding="utf-8")
    write_readme(readme, "new\n", "detectors")
    assert readme.read_text(encoding="utf-8") == "a\n<!-- detectors -->\nnew\n<!-- /detectors -->\nb\n"
    with pytest.raises(ValueError, match="<!-- results -->"):
        write_readme(readme, "new\n")


def test_the_size_counts_a_shared_backbone(benchmark):
    entry = load_manifest().get("vit-clip")
    (row,) = markdown_rows(zoo_section(None, benchmark), f"| `{entry.full_name}`")
    assert float(row[5]) == pytest.approx((entry.weights.bytes + entry.backbone.bytes) / 1e6, abs=0.05)


def test_a_book_without_figures_is_refused(benchmark, tmp_path):
    book = json.loads(load_manifest_text())
    for entry in book["detectors"].values():
        if entry["weights"]:
            entry["provenance"].pop("metrics", None)
    (tmp_path / "manifest.json").write_text(json.dumps(book), encoding="utf-8")
    with pytest.raises(ValueError, match="test_unseen"):
        zoo_section(tmp_path / "manifest.json", benchmark)


def load_manifest_text():
    from aigidetect.manifest import _default_path

    return _default_path().read_text(encoding="utf-8")
