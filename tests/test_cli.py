"""The command line: one record for each input, in order, and the three exit statuses."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aigidetect import registry
from aigidetect.cli import main

from .conftest import array, encoded

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _toy_instead_of_published_weights(monkeypatch, detector):
    monkeypatch.setattr(registry, "load_detector", lambda name, **options: detector)


def run(capsys, *arguments):
    status = main(["predict", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_a_broken_file_never_stops_a_folder(capsys, folder):
    status, out, err = run(capsys, folder)
    records = [json.loads(line) for line in out.splitlines()]
    assert status == 1
    assert [record["ok"] for record in records] == [True, True, False, True]
    assert "3 scored, 1 failed" in err


def test_nine_odd_files_give_nine_records_in_order(capsys, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    grey16 = (np.arange(64 * 64).reshape(64, 64) * 16).astype(np.uint16)
    Image.fromarray(array(seed=1)).save(tmp_path / "1-good.jpg")
    Image.fromarray(array(seed=2)).save(tmp_path / "2-good.png")
    Image.fromarray(array(seed=3)).save(tmp_path / "3-good.webp")
    (tmp_path / "4-truncated.jpg").write_bytes(encoded(array(seed=4), "jpg")[:-300])
    (tmp_path / "5-text.jpg").write_text("this is not a picture")
    (tmp_path / "6-empty.jpg").write_bytes(b"")
    Image.fromarray(grey16).save(tmp_path / "7-sixteen-bit.png")
    Image.fromarray(array(seed=8)).convert("CMYK").save(tmp_path / "8-cmyk.jpg")
    Image.fromarray(array(30, 60, seed=9)).save(tmp_path / "9-turned.jpg", exif=exif)
    status, out, _ = run(capsys, tmp_path)
    records = [json.loads(line) for line in out.splitlines()]
    assert status == 1
    assert [Path(record["source"]).name[0] for record in records] == list("123456789")
    assert [record["ok"] for record in records] == [True, True, True, False, False, False, True, True, True]
    assert records[-1]["image"]["orientation"] == 6
    assert (records[-1]["image"]["width"], records[-1]["image"]["height"]) == (30, 60)


def test_all_good_is_status_0_and_nothing_found_is_status_2(capsys, folder, tmp_path):
    assert run(capsys, folder / "a.jpg", folder / "b.png")[0] == 0
    (tmp_path / "empty").mkdir()
    status, out, err = run(capsys, tmp_path / "empty")
    assert (status, out) == (2, "") and "no pictures" in err


def test_a_missing_path_is_a_record_and_not_silence(capsys, tmp_path):
    status, out, _ = run(capsys, tmp_path / "nowhere.jpg")
    assert status == 1 and json.loads(out)["ok"] is False


def test_csv_has_one_row_for_each_input(capsys, folder):
    status, out, _ = run(capsys, folder, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert status == 1 and len(rows) == 4
    assert rows[0]["verdict"] in ("real", "ai", "unsure") and 0 <= float(rows[0]["probability"]) <= 1
    assert rows[2]["error"] == "ImageTruncated" and rows[2]["probability"] == ""


def test_the_table_escapes_what_a_terminal_would_obey(capsys, tmp_path):
    evil = tmp_path / "a\x1b[2Jb.jpg"
    evil.write_bytes(encoded(array(), "jpg"))
    status, out, _ = run(capsys, tmp_path, "--format", "table")
    assert status == 0 and "\x1b" not in out and "\\x1b[2Jb.jpg" in out


def test_output_goes_to_a_file(capsys, folder, tmp_path):
    target = tmp_path / "scores.jsonl"
    status, out, _ = run(capsys, folder, "--output", target)
    assert (status, out) == (1, "")
    assert len([json.loads(line) for line in target.read_text().splitlines()]) == 4


def test_recursion_can_be_switched_off(capsys, folder):
    assert len(run(capsys, folder, "--no-recursive")[1].splitlines()) == 3


def test_the_false_positive_rate_is_used_and_an_unknown_one_is_wrong_use(capsys, folder):
    record = json.loads(run(capsys, folder / "a.jpg", "--fpr", "0.01")[1])
    assert (record["fpr"], record["threshold"]) == (0.01, 0.9)
    status, _, err = run(capsys, folder / "a.jpg", "--fpr", "0.3")
    assert status == 2 and "0.01, 0.05" in err


def test_wrong_use_is_status_2():
    for arguments in ([], ["predict"], ["predict", "x", "--format", "xml"], ["frobnicate"]):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2


def test_an_unknown_detector_is_status_2_and_names_the_known_ones(capsys, monkeypatch):
    monkeypatch.undo()
    assert main(["predict", "x.jpg", "--detector", "nope"]) == 2
    assert "npr-ms-ca" in capsys.readouterr().err


def test_a_closed_pipe_ends_quietly(folder):
    command = f"{sys.executable} -m tests.toy_cli predict --format jsonl"
    script = f"{command} {' '.join([str(folder)] * 40)} | head -n 1; exit ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert len(result.stdout.splitlines()) == 1
    assert result.stderr == ""
    assert result.returncode == 141  # 128 + SIGPIPE


def test_list_shows_every_detector(capsys):
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert all(f"{name}@" in out for name in ("npr", "npr-ms", "npr-ca", "npr-sa", "npr-ms-ca"))


def test_verify_needs_names(capsys):
    assert main(["verify"]) == 2
    assert "--all" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["=1+1.png", "+1.png", "-1.png", "@a.png"])
def test_a_file_name_is_no_formula_for_a_spreadsheet(capsys, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(encoded(array(), "png"))
    _, out, _ = run(capsys, "--format", "csv", "--", name)
    [row] = csv.DictReader(io.StringIO(out))
    assert row["source"] == f"./{name}" and Path(row["source"]).samefile(name)
