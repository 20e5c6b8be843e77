"""A part of the hostile corpus in every run, all of it with --slow; and a short round of every fuzz target."""

from __future__ import annotations

import hashlib
import itertools
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from aigidetect import Detector, Failure
from aigidetect.errors import ImageError
from aigidetect.images import load_image

from .hostile import bombs, headers, mutations
from .hostile.fuzz import TARGETS
from .hostile.pictures import Case, pixels, png, png_rows, valid
from .hostile.run import CLASSES, judge, make_corpus, survey, table

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="odd places and limits of memory are those of Linux")
HALVES = [maker for name, maker in CLASSES.items() if name.startswith("half")]


def broken_promise(case: Case) -> str | None:
    try:
        load_image(case.data)
    except ImageError as error:
        return f"{case.name}: {error}" if case.expect == "score" else None
    return f"{case.name} got pixels" if case.expect == "refuse" else None


def test_a_part_of_every_class_gets_one_record_each_in_order_and_what_it_deserves(tmp_path: Path) -> None:
    listed = make_corpus(tmp_path / "corpus", each=2)
    found = judge(tmp_path / "corpus")
    assert found["wrong"] == []
    assert sum(1 for item in listed if item["class"] == "odd places") >= 30
    assert {item["class"] for item in listed} == set(CLASSES) - {"just under the limit"} | {"odd places"}
    assert all(name in table(found["rows"]) for name, row in found["rows"].items() if row)


@pytest.mark.slow
def test_the_whole_corpus_gets_one_record_each_in_order_and_what_it_deserves(tmp_path: Path) -> None:
    assert len(make_corpus(tmp_path / "corpus")) > 2000
    assert judge(tmp_path / "corpus")["wrong"] == []


@pytest.mark.slow
def test_a_process_that_runs_out_of_memory_is_a_finding(tmp_path: Path) -> None:
    make_corpus(tmp_path / "corpus", each=1)
    assert "status" in judge(tmp_path / "corpus", gigabytes=0.5)["wrong"][0]


@pytest.mark.parametrize("maker", [*HALVES, valid, mutations.zeroed, bombs.huge], ids=lambda maker: maker.__name__)
def test_no_half_picture_gets_pixels_and_every_valid_one_does(maker: object) -> None:
    assert [found for case in maker(np.random.default_rng(1)) if (found := broken_promise(case))] == []  # type: ignore[operator]


@pytest.mark.parametrize("maker", [mutations.cut, mutations.flipped, headers.lying], ids=lambda maker: maker.__name__)
def test_damage_and_lies_are_refused_by_errors_of_ours(maker: object) -> None:
    cases = itertools.islice(maker(np.random.default_rng(2)), 0, None, 5)  # type: ignore[operator]
    assert [found for case in cases if (found := broken_promise(case))] == []


def test_the_same_seed_makes_the_same_files() -> None:
    def digest(seed: int) -> str:
        made = (
            case.data for maker in (mutations.zeroed, CLASSES["no picture"]) for case in maker(np.random.default_rng(seed))
        )
        return hashlib.sha256(b"".join(made)).hexdigest()

    assert digest(0) == digest(0) != digest(1)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.__name__)
def test_a_short_fuzz_finds_nothing(target: object, tmp_path: Path) -> None:
    outcomes = [target(np.random.default_rng([7, number]), tmp_path) for number in range(50)]  # type: ignore[operator]
    assert len(outcomes) == 50


def test_the_fuzzer_reports_what_it_finds(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from .hostile import fuzz

    def broken(rng: np.random.Generator, folder: Path) -> str:
        raise KeyError("boo")

    monkeypatch.setattr(fuzz, "TARGETS", [broken])
    assert fuzz.fuzz(0.05, seed=3) == 1
    assert "broken, seed [3, 0, 0]: KeyError: 'boo'" in capsys.readouterr().out


def test_a_name_that_becomes_a_pipe_after_it_was_looked_at_does_not_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file.png").write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe.png")
    before = os.stat(tmp_path / "file.png")
    monkeypatch.setattr(os, "stat", lambda *_, **__: before)
    with pytest.raises(ImageError, match="regular file"):
        load_image(tmp_path / "pipe.png")


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")], ids=repr)
def test_views_that_do_not_fit_into_memory_become_a_failure_and_other_faults_do_not(
    error: Exception, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise error

    monkeypatch.setattr(detector, "preprocess", fail)
    [record] = detector.predict([pixels()])
    assert isinstance(record, Failure)
    assert record.error == "ImageTooLarge"
    error = RuntimeError("a fault of the code")
    with pytest.raises(RuntimeError, match="fault"):
        detector.predict([pixels()])


def test_a_survey_scores_any_folder_and_expects_nothing(tmp_path: Path) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "a.png").write_bytes(png(4, 4, 8, 2, png_rows(pixels(4, 4))))
    (tmp_path / "in" / "deep" / "b.PNG").write_bytes(b"no picture")
    (tmp_path / "in" / "c").write_bytes(b"")
    survey(tmp_path / "in", tmp_path / "list")
    found = judge(tmp_path / "list")
    assert found["wrong"] == []
    rows = {name: row for name, row in found["rows"].items() if row}
    assert rows.keys() == {".png", "no suffix"}
    assert rows[".png"]["score"] == 1 and rows[".png"]["UnsupportedImage"] == 1 and rows["no suffix"]["ImageTruncated"] == 1
