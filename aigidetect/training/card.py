"""Manifest entry -> model card, the README.md of a repository on the Hub.

Every figure is read from the entry or from a stored audit; none is typed here.

References:
    | Model Cards for Model Reporting (Mitchell et al., FAT* 2019)
    | https://arxiv.org/abs/1810.03993
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..calibration import Calibration
from ..config import NOTICES
from ..entries import entry_calibration
from ..errors import ManifestError
from ..manifest import ManifestEntry
from ..models import load_architecture
from .card_tables import Row, audit_section, label, read_rows, results_section, verdicts_section

# The Hub's names of these licences are the SPDX names in lower case; it calls every other one "other".
_HUB_LICENCES = ("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0")
_TAGS = ("ai-generated-image-detection", "synthetic-image-detection", "deepfake-detection", "image-forensics")
_METRIC_TYPES = {"auroc": "roc_auc"}
_SHOWN_APART = ("licence", "recipe", "metrics", "aims_not_reached")

_USES = """## Intended use

- A reason to look closer at a picture, together with its source and context.
- Sorting large collections, where people check what the detector points out.
- Research on detectors, with the measurement above as a yardstick.

Do not use it

- as proof, or as the only ground for a decision about a person: a verdict is a statement on rates, not on one picture;
- to certify that a picture is authentic: `real` is a low score and no certificate;
- on documents, identity cards, or anything else that the measurement above does not hold."""

_LIMITS = """\
- **Pictures unlike the training set.** Expect less of generators, cameras, subjects and sizes that training never saw.
- **Re-encoding.** Compression, scaling, screenshots and filters weaken the traces. Only the conditions above were measured.
- **Partly generated pictures.** The verdict is on the whole picture; a small generated region may not show in it.
- **Attacks.** Whoever has the detector can change a picture until it passes."""


def model_card(
    entry: ManifestEntry, repo_id: str, *, audit: Mapping[str, Any] | None = None, notices: bool = False
) -> ModelCard:
    """The card of a detector with published weights.

    Args:
        entry: The detector. Its `provenance["metrics"]` is what `results --manifest` writes; without it, the card says that
            nothing was measured.
        repo_id: Repository of the card, `"owner/name"`.
        audit: What `audit --out` stored for the training data. Of its lists of files, only the lengths are shown.
        notices: The repository also has the file `NOTICES`.

    Raises:
        ManifestError: The entry has no weights, or its metrics are not what `results --manifest` writes.
        ValueError: The audit is not what `audit --out` stores.
    """
    if entry.weights is None:
        raise ManifestError(f"Detector {entry.full_name!r} has no published weights, so there is nothing to describe.")
    rows, calibration = read_rows(entry), entry_calibration(entry)
    sections = [
        f"# {entry.full_name}",
        _what_it_is(entry),
        _usage(entry),
        results_section(rows),
        verdicts_section(calibration),
        _USES,
        _limits(entry, calibration),
        audit_section(rows, audit),
        _training(entry),
        _licence(entry, repo_id, notices),
    ]
    return ModelCard(f"---\n{_metadata(entry, repo_id, rows, notices).to_yaml()}\n---\n\n" + "\n\n".join(sections) + "\n")


def _metadata(entry: ManifestEntry, repo_id: str, rows: Sequence[Row], notices: bool) -> ModelCardData:
    licence = _stated_licence(entry)
    known = licence.lower() in _HUB_LICENCES
    return ModelCardData(
        license=licence.lower() if known else "other",
        license_name=None if known else re.sub(r"[^a-z0-9.]+", "-", licence.lower()).strip("-"),
        license_link=None if known or not notices else f"https://huggingface.co/{repo_id}/blob/main/{NOTICES}",
        library_name="aigidetect",
        pipeline_tag="image-classification",
        tags=[*_TAGS, entry.architecture],
        model_name=entry.full_name,
        eval_results=[result for row in rows for result in _eval_results(row)] or None,
    )


def _eval_results(row: Row) -> list[EvalResult]:
    return [
        EvalResult(
            task_type="image-classification",
            dataset_type="imagefolder",  # the Hub's word for pictures that are no data set of its own
            dataset_name=f"{row.part}, {row.condition}",
            dataset_config=row.condition,
            dataset_split=row.part,
            metric_type=_METRIC_TYPES.get(name, name),
            metric_name=label(name),
            metric_value=value,
            metric_args={"interval_95": [low, high], "n_real": row.n_real, "n_ai": row.n_ai},
        )
        for name, (value, low, high) in row.figures.items()
    ]


def _what_it_is(entry: ManifestEntry) -> str:
    text = load_architecture(entry.architecture).__doc__ or ""
    summary = " ".join(text.partition("\n\n")[0].split())
    lines = [
        "Tells AI-generated images from photographs. The score is the probability that a picture is AI-generated.",
        f"\n{summary}\n",
        f"- architecture: `{entry.architecture}`; options: `{json.dumps(dict(entry.config))}`",
        f"- parameters: {entry.parameters:,}",
        f"- preprocessing: `{json.dumps(dict(entry.preprocess))}`",
    ]
    if references := _references(text):
        lines += ["\nReferences:\n", *(f"- {reference}" for reference in references)]
    return "\n".join(lines)


def _references(docstring: str) -> list[str]:
    """Entries of the block `| title` ... `| address` of an architecture's docstring, one text each."""
    found: list[str] = []
    parts: list[str] = []
    for line in map(str.strip, docstring.splitlines()):
        if line.startswith("| "):
            parts.append(line[2:])
        if parts and (line.startswith("| http") or not line.startswith("| ")):
            found.append(" ".join(parts))
            parts = []
    return [*found, " ".join(parts)] if parts else found


def _usage(entry: ManifestEntry) -> str:
    return f"""## How to use it

With the Python package `aigidetect` installed:

```python
import aigidetect

detector = aigidetect.load_detector("{entry.full_name}")
result = detector.predict("picture.jpg")
print(result.verdict, result.probability)
```

On the command line, `aigidetect predict picture.jpg --detector {entry.full_name}`; and `aigidetect verify {entry.full_name}`
recomputes the golden outputs on your machine. The package takes the weights from its own files or from this repository, at
the commit that its manifest pins, and checks their sha256 at every load."""


def _limits(entry: ManifestEntry, calibration: Calibration) -> str:
    rates = ", ".join(f"{point.fpr:g}" for point in calibration.thresholds)
    verdicts = (
        f"The stated rates ({rates}) hold for pictures like those of the calibration; on others they may be exceeded."
        if rates
        else "No rate of false positives is known."
    )
    verdicts += " Where real pictures are far more frequent than generated ones, most alarms are false ones."
    missed = [f"- **An aim that was not reached.** {aim}." for aim in (entry.provenance or {}).get("aims_not_reached", ())]
    return "\n".join([f"## Limits\n\n- **Verdicts.** {verdicts}", _LIMITS, *missed])


def _training(entry: ManifestEntry) -> str:
    provenance = dict(entry.provenance or {})
    facts = [f"- {label(key)}: {_plain(value)}" for key, value in provenance.items() if key not in _SHOWN_APART]
    text = "## Training\n\n" + ("\n".join(facts) or "Nothing is stated on the training data.")
    recipe = provenance.get("recipe")
    if isinstance(recipe, dict):
        lines = ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in recipe.items())
        return f"{text}\n\nRecipe:\n\n```json\n{{\n{lines}\n}}\n```"
    return f"{text}\n\nRecipe: {_plain(recipe) if recipe else 'not stated'}."


def _licence(entry: ManifestEntry, repo_id: str, notices: bool) -> str:
    more = f" The notices are in [{NOTICES}]({NOTICES})." if notices else ""
    lines = [f"## Licence and files\n\nWeights: {_stated_licence(entry)}.{more}\n"]
    for what, file in (("weights", entry.weights), ("backbone", entry.backbone)):
        if file is not None:
            lines.append(f"- {what}: {file.bytes:,} bytes of safetensors, sha256 `{file.sha256}`")
    if entry.backbone is not None and entry.backbone.repo_id not in (None, repo_id):
        lines.append(
            f"\nThe backbone is in the repository `{entry.backbone.repo_id}`, at commit `{entry.backbone.revision}`."
        )
    return "\n".join(lines)


def _stated_licence(entry: ManifestEntry) -> str:
    return _plain((entry.provenance or {}).get("licence") or "not stated")


def _plain(value: object) -> str:
    return " ".join((value if isinstance(value, str) else json.dumps(value)).split())
