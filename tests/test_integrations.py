"""What the blocks of docs/integrations.md answer; that they run is shown in test_documentation.py."""

import re
from pathlib import Path

import pytest

from aigidetect.cli import main

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "integrations.md").read_text(), re.DOTALL)


def run(block, tmp_path, monkeypatch):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "docs/integrations.md", "exec"), {})


@pytest.mark.slow
def test_the_block_of_onnx_gives_the_verdict_of_predict(tmp_path, monkeypatch, capsys):
    pytest.importorskip("onnxscript", reason="onnxscript is needed to export")
    [block] = [block for block in BLOCKS if "onnxruntime" in block]
    assert main(["export", "npr-ms-ca", "-o", str(tmp_path / "npr-ms-ca.onnx")]) == 0
    assert (
        main(["predict", str(ROOT / "examples/images/coffee-photo.jpg"), "--detector", "npr-ms-ca", "--format", "csv"]) == 0
    )
    _, verdict, probability, *_ = capsys.readouterr().out.splitlines()[-1].split(",")
    run(block, tmp_path, monkeypatch)
    found = capsys.readouterr().out.split()
    assert found[1] == verdict and float(found[0]) == pytest.approx(float(probability), abs=1e-4)
