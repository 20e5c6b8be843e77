"""Calibration by quality, measured on synthetic scores: where it helps, and where it is refused."""

import numpy as np
import pytest
from PIL import Image

from aigidetect.calibration import Calibration
from aigidetect.training import quality
from aigidetect.training.__main__ import main
from aigidetect.training.augment import HEADLINE_CONDITIONS, encode
from aigidetect.training.calibrate import platt
from aigidetect.training.evaluate import Score, write_scores

from .conftest import array


def test_blockiness_grows_with_compression_and_finds_a_cropped_grid():
    image = Image.fromarray(array(160, 160))
    values = [quality.blockiness(np.asarray(encode(image, "jpeg", q))) for q in (95, 40, 10)]
    assert quality.blockiness(np.asarray(image)) < values[1] < values[2] and values[0] < values[2]
    cropped = np.asarray(encode(image, "jpeg", 10))[3:, 5:]
    assert quality.blockiness(cropped) == pytest.approx(values[2], abs=0.2)
    assert quality.blockiness(np.full((40, 40, 3), 7, np.uint8)) == quality.blockiness(array(5, 5)) == 0


def quality_scores(scale, n=600):
    """Scores whose logits are true log-odds at low blockiness, and `scale` times too large at high blockiness."""
    rng = np.random.default_rng(0)
    scores, measured = [], {}
    for i in range(n):
        truth, block = rng.normal(0, 2), rng.uniform()
        label = int(rng.uniform() < 1 / (1 + np.exp(-truth)))
        logit = truth * (scale if block > 2 / 3 else 1)
        for condition in HEADLINE_CONDITIONS:
            scores.append(Score(f"{i}.png", "val", label, "s", "l", f"g{i}", "photo", condition, logit, 0.5))
            measured[f"{i}.png", condition] = block
    return scores, measured


def test_bins_of_quality_help_where_confidence_depends_on_it_and_are_refused_where_not():
    helped = quality.compare_by_quality(*quality_scores(6.0))
    assert helped.helps and helped.by_quality < helped.plain
    assert helped.bins.temperatures[-1] > 3 * helped.bins.temperatures[0]
    refused = quality.compare_by_quality(*quality_scores(1.0))
    assert not refused.helps and "does not help" in quality.describe(refused, Calibration())
    with pytest.raises(ValueError, match="No picture"):
        quality.compare_by_quality(quality_scores(1.0)[0], {})


def test_temperatures_never_fall_with_blockiness_and_small_bins_are_joined():
    scores, measured = quality_scores(0.2)
    logits, labels = np.array([s.logit for s in scores]), np.array([float(s.label) for s in scores])
    blocks = np.array([measured[s.file, s.condition] for s in scores])
    bins = quality.fit_bins(logits, labels, blocks)
    assert list(bins.temperatures) == sorted(bins.temperatures) and len(bins.edges) == len(bins.temperatures) - 1
    few = quality.fit_bins(logits[:60], labels[:60], blocks[:60])
    assert few.edges == () and (few.temperatures[0], few.biases[0]) == platt(logits[:60], labels[:60])
    assert few.logits(logits, blocks) == pytest.approx(logits / few.temperatures[0] + few.biases[0])


def test_calibrate_by_quality_prints_and_stores_the_plain_calibration(tmp_path, capsys):
    lines, scores = ["file\tlabel\tsource\tline\tsplit\tgroup\tstyle"], []
    for i in range(12):
        Image.fromarray(array(40, 40, seed=i)).save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png\t{'ai' if i % 2 else 'real'}\ts\tl\tval\tg{i}\tphoto")
        facts = (i % 2, "s", "l", f"g{i}", "photo")
        logit = float(np.random.default_rng(i).normal(i % 2))
        scores += [Score(f"{i}.png", "val", *facts, condition, logit, 0.5) for condition in HEADLINE_CONDITIONS]
    (tmp_path / "index.tsv").write_text("\n".join(lines) + "\n")
    write_scores(scores, tmp_path / "val.csv")
    assert main(["calibrate", "--run", str(tmp_path)]) == 0
    plain = (tmp_path / "calibration.json").read_text()
    assert main(["calibrate", "--run", str(tmp_path), "--by-quality", "--data", str(tmp_path)]) == 0
    assert "does not help" in capsys.readouterr().out and (tmp_path / "calibration.json").read_text() == plain
    assert main(["calibrate", "--run", str(tmp_path), "--by-quality"]) == 2
