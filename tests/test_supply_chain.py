"""The way from the package to a score: no pickle, the files as installed, the numbers as published."""

from __future__ import annotations

import base64
import collections
import hashlib
import importlib.metadata
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement

import aigidetect
from aigidetect import Detector, WeightsError, installed, selftest
from aigidetect.cli import main

NAME = "npr-ms-ca"
ROOT = Path(__file__).parent.parent

_LISTEN = """
import sys
heard = []
sys.addaudithook(lambda event, arguments: heard.append(event) if event == "pickle.find_class" else None)
import numpy as np
import aigidetect
detector = aigidetect.load_detector("npr-ms-ca", device="cpu", local_files_only=True)
records = detector.predict([np.zeros((40, 50, 3), np.uint8), b"no picture"])
assert [record.ok for record in records] == [True, False]
print(len(heard))
import pickle, collections
pickle.loads(pickle.dumps(collections.OrderedDict()))
print(len(heard))
"""


@pytest.mark.slow
def test_nothing_is_unpickled_from_the_first_import_on() -> None:
    done = subprocess.run([sys.executable, "-c", _LISTEN], capture_output=True, text=True, check=True)
    # The second number shows that the hook would have heard it.
    assert done.stdout.split() == ["0", "1"]


def test_nothing_is_unpickled_on_the_way_to_a_score() -> None:
    heard: list[str] = []
    # A hook cannot be taken away again, so it forgets where to write.
    ears = [heard]
    sys.addaudithook(lambda event, _: ears[0].append(event) if ears and event == "pickle.find_class" else None)
    detector = aigidetect.load_detector(NAME, device="cpu", local_files_only=True)
    records = detector.predict([torch.zeros(3, 40, 50), b"no picture"])
    assert [record.ok for record in records] == [True, False]
    assert heard == []
    pickle.loads(pickle.dumps(collections.OrderedDict()))
    ears.clear()
    assert heard == ["pickle.find_class"]


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "_passed", set())


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("error", [0.3, -0.3, float("nan"), float("inf")])
def test_a_machine_that_computes_wrong_numbers_gets_no_detector(error: float, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Detector._logits
    monkeypatch.setattr(Detector, "_logits", lambda self, inputs: real(self, inputs) + error)
    for _ in range(2):
        with pytest.raises(WeightsError, match=r"golden|not finite"):
            aigidetect.load_detector(NAME, device="cpu", local_files_only=True)


@pytest.mark.usefixtures("fresh")
def test_a_matrix_product_that_drops_a_column_gets_no_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.nn.functional.linear
    monkeypatch.setattr(
        torch.nn.functional, "linear", lambda x, weight, bias=None: real(x[..., :-1], weight[..., :-1], bias) * 1.02
    )
    with pytest.raises(WeightsError, match="golden"):
        aigidetect.load_detector(NAME, device="cpu", local_files_only=True)


@pytest.mark.usefixtures("fresh")
def test_the_numbers_are_checked_once_for_each_file_and_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = Detector.view_logits
    monkeypatch.setattr(
        Detector, "view_logits", lambda self, views, **o: calls.append(len(views[0])) or real(self, views, **o)
    )
    for dtype in (None, None, torch.bfloat16, torch.bfloat16):
        aigidetect.load_detector(NAME, device="cpu", dtype=dtype, local_files_only=True)
    assert calls == [1, 1]


@pytest.mark.usefixtures("fresh")
def test_weights_of_ones_own_have_no_published_numbers_to_compare_with(monkeypatch: pytest.MonkeyPatch) -> None:
    path = aigidetect.weights.locate(aigidetect.manifest.load_manifest().get(NAME))
    monkeypatch.setattr(Detector, "view_logits", lambda *_, **__: pytest.fail("no golden logits belong to these"))
    assert aigidetect.load_detector(NAME, weights=path, device="cpu").name.endswith("+custom")


def record_line(root: Path, name: str) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256((root / name).read_bytes()).digest()).rstrip(b"=").decode()
    return f"{name},sha256={digest},{(root / name).stat().st_size}"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package of two files that takes the place of this one."""
    (tmp_path / "aigidetect").mkdir()
    info = tmp_path / "aigidetect-1.dist-info"
    info.mkdir()
    names = ["aigidetect/installed.py", "aigidetect/weights.safetensors"]
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    (info / "METADATA").write_text("Name: aigidetect\nVersion: 1\n")
    lines = [*[record_line(tmp_path, name) for name in names], "aigidetect-1.dist-info/RECORD,,"]
    (info / "RECORD").write_text("\n".join(lines))
    monkeypatch.setattr(importlib.metadata, "distribution", lambda _: importlib.metadata.PathDistribution(info))
    monkeypatch.setattr(installed, "_PACKAGE", tmp_path / "aigidetect")
    monkeypatch.setattr(installed, "__file__", str(tmp_path / "aigidetect" / "installed.py"))
    return tmp_path


def test_files_as_installed_are_fine(site: Path) -> None:
    (site / "aigidetect" / "__pycache__").mkdir()
    (site / "aigidetect" / "__pycache__" / "x.py").touch()
    assert installed.check_installed() == installed.Installed(2, (), True)


def test_changed_missing_and_added_files_are_named(site: Path) -> None:
    (site / "aigidetect" / "weights.safetensors").write_bytes(b"other")
    (site / "aigidetect" / "extra.py").touch()
    assert installed.check_installed().wrong == ("aigidetect/weights.safetensors", "aigidetect/extra.py (not listed)")
    (site / "aigidetect" / "installed.py").unlink()
    assert installed.check_installed().wrong[0] == "aigidetect/installed.py"


def test_verify_all_names_changed_files_and_fails(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(aigidetect.manifest.Manifest, "versions", lambda self: ["npr@1"])
    assert main(["verify", "--all"]) == 0
    assert "ok  2 files have the sha256 of the installed RECORD\n" in capsys.readouterr().out
    (site / "aigidetect" / "weights.safetensors").write_bytes(b"other")
    assert main(["verify", "--all"]) == 1
    assert "FAILED  aigidetect/weights.safetensors: not as installed" in capsys.readouterr().out


def test_an_editable_install_and_a_checkout_say_that_the_code_is_not_covered(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installed, "__file__", str(site / "elsewhere" / "installed.py"))
    assert installed.check_installed() == installed.Installed(2, (), False)

    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    assert installed.check_installed() == installed.Installed(0, (), False)


def test_the_locked_versions_are_exact_and_no_older_than_the_package_allows() -> None:
    lines = (ROOT / ".ci" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    locked = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert all(re.fullmatch(r"[\w.+!-]+", version) for version in locked.values())
    versions = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in locked.items()}
    for text in importlib.metadata.requires("aigidetect") or []:
        wanted = Requirement(text)
        applies = wanted.marker is None or any(wanted.marker.evaluate({"extra": extra}) for extra in ("", "dev", "test"))
        if applies and wanted.name != "aigidetect":
            name = re.sub(r"[-_.]+", "-", wanted.name).lower()
            assert wanted.specifier.contains(versions[name], prereleases=True), text
