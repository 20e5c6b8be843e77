"""How records are shown: what is asked for is added, and nothing else changes."""

import csv
import io
import json
import ntpath
import posixpath
import sys
from pathlib import PurePosixPath, PureWindowsPath

import pytest

from aigidetect import registry
from aigidetect.cli import main
from aigidetect.files import _URL
from aigidetect.images import describe_source
from aigidetect.lines import Layout, wants_colour
from aigidetect.provenance import CAVEAT
from aigidetect.sources import _halves

from .conftest import array, encoded
from .provenance_case import png


@pytest.fixture(autouse=True)
def _toy_instead_of_published_weights(monkeypatch, detector):
    monkeypatch.setattr(registry, "load_detector", lambda name, **options: detector)


@pytest.fixture
def files(tmp_path):
    (tmp_path / "a.png").write_bytes(png(("Software", "NovelAI")))
    (tmp_path / "b.jpg").write_bytes(encoded(array(), "jpg"))
    (tmp_path / "c.png").write_bytes(png(("Software", "GIMP"))[:-30])
    return tmp_path


def run(capsys, *arguments):
    status = main(["predict", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_provenance_and_stability_are_added_to_json_and_the_rest_stays(capsys, files):
    asked = ([], ["--provenance", "--stability"])
    plain, full = ([json.loads(line) for line in run(capsys, files, *more)[1].splitlines()] for more in asked)
    assert all("provenance" not in record and not record.get("stability") for record in plain)
    found = [record.pop("provenance") for record in full]
    assert [[claim["kind"] for claim in one["claims"]] for one in found] == [["ai"], [], ["software"]]
    assert found[0]["caveat"] == CAVEAT and found[2]["notes"]
    stable = [record.pop("stability", None) for record in full]
    assert [one and one["variants"] for one in stable] == [5, 5, None]
    for one, other in zip(plain, full):
        assert one["source"] == other["source"] and one["ok"] == other["ok"]
        assert one.get("probability") == pytest.approx(other.get("probability"), abs=1e-6)


def test_csv_has_their_columns_only_when_they_are_asked_for(capsys, files):
    plain = run(capsys, files, "--format", "csv")[1].splitlines()[0]
    assert "stability" not in plain and "provenance" not in plain
    rows = list(csv.DictReader(io.StringIO(run(capsys, files, "--format", "csv", "--provenance", "--stability")[1])))
    assert [row["provenance_kinds"] for row in rows] == ["ai", "", "software"]
    assert "NovelAI" in rows[0]["provenance_statements"] and "ends early" in rows[2]["provenance_notes"]
    assert [row["stability_variants"] for row in rows] == ["5", "5", ""]
    assert float(rows[0]["stability_min"]) <= float(rows[0]["probability"]) <= float(rows[0]["stability_max"])


def test_the_table_adds_lines_and_the_warning_that_belongs_to_them(capsys, files):
    _, out, err = run(capsys, files, "--format", "table", "--provenance", "--stability")
    assert "- The file names “NovelAI”" in out and "- The file says nothing of its origin." in out
    assert out.count("the verdict stays") + out.count("the verdict changes") == 2
    assert CAVEAT in err and "not proof: about 5 of 100 real photographs" in err
    _, out, err = run(capsys, files, "--format", "table")
    assert len(out.splitlines()) == 3 and CAVEAT not in err


def test_a_file_that_cannot_be_read_says_so_in_its_provenance_too(capsys, tmp_path):
    status, out, _ = run(capsys, tmp_path / "nothing.png", "--provenance")
    record = json.loads(out)
    assert status == 1 and record["provenance"]["claims"] == [] and "no file" in record["provenance"]["notes"][0]


@pytest.mark.parametrize("option", ["--provenance", "--stability"])
def test_a_file_of_records_is_not_continued_with_other_additions(capsys, files, tmp_path, option):
    target = tmp_path / "scores.jsonl"
    run(capsys, files / "a.png", "--output", target)
    before = target.read_bytes()
    status, _, err = run(capsys, files / "a.png", files / "b.jpg", "--output", target, "--resume", option)
    assert status == 2 and f"made with {option[2:]} False, but this run has True" in err and target.read_bytes() == before
    target.unlink()
    run(capsys, files / "a.png", "--output", target, option)
    assert run(capsys, files / "a.png", files / "b.jpg", "--output", target, "--resume", option)[0] == 0
    assert len(target.read_text().splitlines()) == 2


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_colours_need_a_terminal_and_no_wish_against_them():
    windows = {"WT_SESSION": "1"}  # which the test of Windows' own console asks for
    assert wants_colour(Terminal(), windows)
    assert not wants_colour(io.StringIO(), windows)
    assert not wants_colour(Terminal(), {**windows, "NO_COLOR": "1"})
    assert not wants_colour(Terminal(), {**windows, "TERM": "dumb"})
    assert wants_colour(Terminal(), {**windows, "NO_COLOR": ""})  # as no-color.org has it


def test_colour_marks_the_verdict_and_nothing_else_of_a_table(detector):
    for picture in (array(seed=seed) for seed in range(4)):
        record = detector.predict(picture)
        plain, coloured = (Layout("table", colour=colour).line(record) for colour in (False, True))
        assert "\x1b" not in plain
        for code in ("\x1b[31m", "\x1b[33m", "\x1b[0m"):
            coloured = coloured.replace(code, "")
        assert coloured == plain


def test_a_name_that_the_console_cannot_show_does_not_end_the_run(monkeypatch, tmp_path):
    for name in ("写真.png", "a.png"):
        (tmp_path / name).write_bytes(encoded(array(), "png"))
    console = io.TextIOWrapper(io.BytesIO(), encoding="cp1252", write_through=True)
    monkeypatch.setattr(sys, "stdout", console)
    assert main(["predict", "--format", "table", str(tmp_path)]) == 0
    lines = console.buffer.getvalue().decode("cp1252").splitlines()
    assert len(lines) == 2 and "\\u5199\\u771f.png" in lines[1]


@pytest.mark.parametrize(
    ("paths", "pattern", "expected"),
    [
        (ntpath, r"C:\**\*.jpg", ("C:\\", "*.jpg")),
        (ntpath, r"C:\photos\**\*.jpg", (r"C:\photos", "*.jpg")),
        (ntpath, "C:/photos/**/deep/*.jpg", (r"C:\photos", r"deep\*.jpg")),
        (ntpath, r"C:**\*.jpg", ("C:", "*.jpg")),
        (ntpath, r"\\server\share\**\*.jpg", ("\\\\server\\share\\", "*.jpg")),
        (ntpath, r"**\*.jpg", ("", "*.jpg")),
        (ntpath, r"photos\*.jpg", None),
        (posixpath, "/**/*.jpg", ("/", "*.jpg")),
        (posixpath, "photos/**", ("photos", "*")),
        (posixpath, r"C:\**", None),
    ],
)
def test_patterns_are_split_by_the_rules_of_their_system(paths, pattern, expected):
    assert _halves(pattern, paths) == expected


@pytest.mark.parametrize("path", [r"C:\photos\a.jpg", "C:/photos/a.jpg", r"\\server\share\a.jpg", "C:a.jpg"])
def test_a_path_of_windows_is_no_url_and_is_shown_as_it_is(path):
    assert not _URL.match(path)
    assert describe_source(PureWindowsPath(path)) == str(PureWindowsPath(path))
    assert describe_source(PurePosixPath(path)) == path
