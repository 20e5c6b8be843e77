"""Stored scores -> Markdown tables. docs/results.md is written by this file, never typed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..calibration import Calibration
from .ablation import ablation_section
from .augment import CONDITIONS
from .calibrate import wilson
from .comparisons import comparison_sections
from .evaluate import Score, headline, subsets, summarise, swap_gap
from .head_tables import head_section
from .metrics import shown
from .score_folders import read_evaluation

_PARTS = ("val", "test_seen", "test_unseen", "test_unseen strict", "test_unseen photo-like")
_COLUMNS = {
    "balanced_accuracy": "balanced accuracy",
    "auroc": "AUROC",
    "ap": "AP",
    "real_accuracy": "real accuracy",
    "ai_accuracy": "AI accuracy",
    "tpr_at_5_fpr": "TPR at 5 % FPR",
    "ece": "ECE",
    "nll": "NLL",
}
_INTRODUCTION = """# Results

Written by `python -m aigidetect.training results` from stored scores; do not edit.

Each figure is followed by its 95 % interval: a bootstrap over groups of pictures that share a scene, prompt or original.
Balanced accuracy, real and AI accuracy are taken at the calibrated probability 0.5, which was fixed on `val`. `test_seen`
holds other pictures of the sources in training, `test_unseen` generators and photo sets that training never saw; its strict
part holds generators of model lines that training never saw, its photo-like part photographs and faces only. Conditions:
`qNN` every picture as JPEG of that quality; `half+q80` both sides halved, then JPEG 80; `swap` generated pictures as JPEG 96
and real ones as they are. The headline is the mean over q96, q75 and half+q80. ECE is the calibration error over 15 bins and
NLL the cross entropy in nats, of which guessing has 0.693; both classes weigh the same in either.

![Balanced accuracy and AUROC of the shipped detectors on test_unseen, under each condition of compression and scale, with
intervals.](figures/robustness.png)

*Headline conditions are bold; a condition without a point was not measured. Bars are 95 % intervals. Drawn by
`python -m aigidetect.training figures`.*
"""


def results_page(
    folders: Sequence[Path],
    ablation: Sequence[Path] = (),
    *,
    heads: Sequence[Path] = (),
    comparisons: Path | None = None,
    first: Sequence[str] = (),
    draws: int = 200,
) -> str:
    """The whole page.

    Args:
        folders: Folders written by `evaluate`: `<split>.csv` files and `evaluation.json`.
        ablation: Folders of the section "Ablation"; see `ablation_section`.
        heads: Files of the section on heads; see `head_section`.
        comparisons: File of further sections; see `comparison_sections`.
        first: Sections after the headline, such as those of `zoo_section` and `aims_section`.
        draws: Bootstrap samples.
    """
    pages = [_INTRODUCTION, "## Headline\n", headline_table(folders, draws=draws, parts=_PARTS), *first]
    if ablation:
        pages.append(ablation_section(ablation, draws=draws))
    if heads:
        pages.append(head_section(*heads))
    if comparisons:
        pages.append(comparison_sections(comparisons, draws=draws))
    for folder in folders:
        facts, scores = read_evaluation(folder)
        rows = summarise(scores, frozenset(facts["train_lines"]), draws=draws)
        preprocess = json.dumps({k: v for k, v in facts["preprocess"].items() if k not in ("mean", "std")})
        how = f"preprocessing `{preprocess}`, computed in {facts.get('dtype', 'float32')}"
        pages.append(f"## {facts['detector']}\n\nWeights sha256 `{facts['weights_sha256']}`, {how}.\n")
        pages += [_part_table(part, rows) for part in _PARTS if any(row["part"] == part for row in rows)]
        pages.append(_verdict_table(facts, scores))
        pages.append(_source_table(scores))
    return "\n".join(pages)


def headline_table(folders: Sequence[Path], *, draws: int = 200, parts: Sequence[str] = _PARTS[1:]) -> str:
    """One row for each detector and part, as Markdown.

    Args:
        folders: See `results_page`.
        draws: Bootstrap samples.
        parts: Which parts.
    """
    lines = [
        "| detector | part | real / AI pictures | balanced accuracy | AUROC | TPR at 5 % FPR | format-swap gap |",
        "|---|---|---|---|---|---|---|",
    ]
    for folder in folders:
        facts, scores = read_evaluation(folder)
        present = subsets(scores, frozenset(facts["train_lines"]))
        for part in (part for part in parts if part in present):
            for row in headline(part, present[part], draws=draws):
                figures = [shown(row[name]) for name in ("balanced_accuracy", "auroc", "tpr_at_5_fpr")]
                figures.append(shown(swap_gap(present[part], draws=draws), signed=True))
                name = f"{facts['detector']} | {part} | {row['n_real']} / {row['n_ai']}"
                lines.append(f"| {name} | {' | '.join(figures)} |")
    return "\n".join(lines) + "\n"


def write_readme(readme: Path, table: str, mark: str = "results") -> None:
    """Replaces what stands between the marks `<!-- results -->` and `<!-- /results -->`, or others.

    Raises:
        ValueError: The marks are missing.
    """
    before, found, rest = readme.read_text(encoding="utf-8").partition(f"<!-- {mark} -->")
    _, end, after = rest.partition(f"<!-- /{mark} -->")
    if not (found and end):
        raise ValueError(f"{readme} has no marks '<!-- {mark} -->' and '<!-- /{mark} -->' to write between.")
    readme.write_text(f"{before}{found}\n{table}{end}{after}", encoding="utf-8")


def write_metrics(manifest: Path, folders: Sequence[Path], *, draws: int = 200) -> None:
    """Stores balanced accuracy and AUROC of every part and condition with the detectors whose weights were measured.

    Args:
        manifest: weights_manifest.json.
        folders: See `results_page`; those of unpublished detectors are passed over.
        draws: Bootstrap samples.
    """
    book = json.loads(manifest.read_text(encoding="utf-8"))
    for folder in folders:
        facts, scores = read_evaluation(folder)
        entry = _entry_of(facts, book["detectors"])
        if entry is None:
            continue
        metrics: dict[str, dict[str, Any]] = {}
        for row in summarise(scores, frozenset(facts["train_lines"]), draws=draws):
            figures = {name: [round(value, 4) for value in row[name]] for name in ("balanced_accuracy", "auroc")}
            metrics.setdefault(row["part"], {})[row["condition"]] = {"n_real": row["n_real"], "n_ai": row["n_ai"], **figures}
        # Not all splits need be in one folder.
        entry["provenance"]["metrics"] = {**entry["provenance"].get("metrics", {}), **metrics}
    manifest.write_text(json.dumps(book, indent=1) + "\n", encoding="utf-8")


def _entry_of(facts: Mapping[str, Any], entries: Mapping[str, dict[str, Any]]) -> dict[str, Any] | None:
    """The published entry whose weights and calibration were measured, be it as the run that it was exported from."""
    for entry in entries.values():
        if entry["weights"] and entry["calibration"] == facts["calibration"]:
            known = {entry["weights"]["sha256"], entry["provenance"].get("run_sha256")} - {None}
            if facts["weights_sha256"] in known:
                return entry
    return None


def _part_table(part: str, rows: Sequence[dict[str, Any]]) -> str:
    chosen = [row for row in rows if row["part"] == part]
    lines = [
        f"### {part}: {chosen[0]['n_real']} real, {chosen[0]['n_ai']} AI-generated",
        "",
        "| condition | " + " | ".join(_COLUMNS.values()) + " |",
        "|---" * (len(_COLUMNS) + 1) + "|",
    ]
    for row in chosen:
        lines.append(f"| {row['condition']} | " + " | ".join(shown(row[name]) for name in _COLUMNS) + " |")
    return "\n".join(lines) + "\n"


def _verdict_table(facts: dict[str, Any], scores: Sequence[Score]) -> str:
    """What the verdicts were at each stated false-positive rate, by split and condition."""
    calibration = Calibration.from_dict(facts["calibration"])
    if not calibration.thresholds:
        return ""
    lines = [
        "### Verdicts at the stated false-positive rates",
        "",
        "| part | condition | rate | real called `ai` | AI called `ai` | AI called `real` | `unsure`, both classes alike |",
        "|---" * 7 + "|",
    ]
    for split in facts["splits"]:
        for condition in CONDITIONS:
            chosen = [s for s in scores if (s.split, s.condition) == (split, condition)]
            for point in calibration.thresholds if chosen else ():
                verdicts = {
                    label: [calibration.verdict(s.probability, point.fpr) for s in chosen if s.label == label]
                    for label in (0, 1)
                }
                unsure = sum(v.count("unsure") / len(v) for v in verdicts.values()) / 2
                cells = [_share(verdicts[0], "ai"), _share(verdicts[1], "ai"), _share(verdicts[1], "real"), f"{unsure:.3f}"]
                lines.append(f"| {split} | {condition} | {point.fpr:g} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _share(verdicts: Sequence[str], verdict: str) -> str:
    hits, n = sum(v == verdict for v in verdicts), len(verdicts)
    return shown((hits / n, *wilson(hits, n)))


def _source_table(scores: Sequence[Score], least: int = 10) -> str:
    """Accuracy at 0.5 under JPEG 75 of each source of the test splits with at least `least` pictures."""
    by_source: dict[tuple[str, int, str], list[bool]] = {}
    for s in scores:
        if s.condition == "q75" and s.split.startswith("test"):
            by_source.setdefault((s.split, s.label, s.source), []).append((s.probability >= 0.5) == bool(s.label))
    rows = {key: hits for key, hits in sorted(by_source.items()) if len(hits) >= least}
    if not rows:
        return ""
    lines = [
        f"### By source: accuracy under q75, sources of at least {least} pictures",
        "",
        "| part | class | source | n | accuracy |",
    ]
    lines.append("|---" * 5 + "|")
    for (split, label, source), hits in rows.items():
        share = shown((sum(hits) / len(hits), *wilson(sum(hits), len(hits))))
        lines.append(f"| {split} | {'AI' if label else 'real'} | {source} | {len(hits)} | {share} |")
    return "\n".join(lines) + "\n"
