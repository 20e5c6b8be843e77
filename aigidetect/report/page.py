"""The page around the rows: counts, histogram, settings and limits."""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
import json
from collections import Counter
from dataclasses import dataclass, field

from ..detector import Detector
from ..prediction import Failure, Prediction
from ..uncertainty import Sampled
from .rows import escaped

BINS = 20
_HEIGHT, _WIDTH, _MARGIN = 120, 640, 24  # of the histogram, in its own units


@dataclass(frozen=True)
class Settings:
    """What the scores were made with.

    Attributes:
        detector: Name and version.
        weights_sha256: Hash of the weights file; None for a bare network.
        threshold: Probability from which the verdict is `"ai"`.
        real_below: Probability below which it is `"real"`.
        fpr: The rate that belongs to them; None if it was never measured.
        device: Where the network computed.
        dtype: What it computed in.
        preprocess: Facts of the preprocessing.
        spread: Whether there is an interval for each probability.
        heatmaps: Whether there are heat maps.
    """

    detector: str
    weights_sha256: str | None
    threshold: float
    real_below: float
    fpr: float | None
    device: str
    dtype: str
    preprocess: str
    spread: bool
    heatmaps: bool

    @classmethod
    def of(cls, detector: Detector, fpr: float | None, *, heatmaps: bool) -> Settings:
        """Those of a detector at a false-positive rate.

        Raises:
            ValueError: No threshold was measured at `fpr`.
        """
        threshold, real_below, rate = detector.calibration.threshold(fpr)
        return cls(
            detector=detector.name,
            weights_sha256=detector.weights_sha256,
            threshold=threshold,
            real_below=real_below,
            fpr=rate,
            device=str(detector.device),
            dtype=str(detector.dtype).removeprefix("torch."),
            preprocess=json.dumps(detector.preprocess.to_dict()),
            spread=isinstance(detector.network, Sampled),
            heatmaps=heatmaps,
        )


@dataclass
class Summary:
    """What is counted while the rows are written.

    Attributes:
        settings: What the scores were made with.
        verdicts: Number of pictures of each verdict.
        bins: Number of pictures in each of `BINS` equal parts of the probabilities from 0 to 1.
        failed: Number of inputs without a score.
    """

    settings: Settings
    verdicts: Counter[str] = field(default_factory=Counter)
    bins: list[int] = field(default_factory=lambda: [0] * BINS)
    failed: int = 0

    @property
    def scored(self) -> int:
        """Number of pictures with a score."""
        return sum(self.bins)

    def count(self, record: Prediction | Failure) -> None:
        """Counts one record."""
        if isinstance(record, Failure):
            self.failed += 1
            return
        self.verdicts[record.verdict] += 1
        self.bins[min(int(record.probability * BINS), BINS - 1)] += 1


def before_rows(summary: Summary) -> str:
    """The page up to the first row of the table."""
    script, style = _asset("page.js"), _asset("page.css")
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    columns = [("#", True), ("Thumbnail", False), ("File", True), ("Verdict", True), ("Probability", True)]
    columns += [("95 % of draws", True)] if summary.settings.spread else []
    columns += [("Picture", True)] + ([("Heat map", False)] if summary.settings.heatmaps else [])
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{summary.scored} pictures scored by {escaped(summary.settings.detector)}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<main>
<h1>Scores of pictures</h1>
{_counts(summary)}
{_histogram(summary)}
{_limits(summary)}
<h2 id="scored">Scored pictures</h2>
<div id="controls" hidden>
<label>File name contains <input type="search" id="name"></label>
<label>Verdict <select id="verdict"><option value="">all</option>
<option>ai</option><option>unsure</option><option>real</option></select></label>
<span id="shown" role="status"></span>
</div>
<div class="wide" role="region" aria-labelledby="scored" tabindex="0">
<table id="pictures" aria-labelledby="scored">
<thead><tr>{"".join(_column(*column) for column in columns)}</tr></thead>
<tbody>
"""


def between_rows(summary: Summary) -> str:
    """What lies between the rows of scored pictures and those of failures."""
    none = "" if summary.failed else "<p>Every input was scored.</p>"
    return f"""</tbody>
</table>
</div>
<h2 id="failed">Not scored: {summary.failed}</h2>
{none}
<table aria-labelledby="failed"{"" if summary.failed else " hidden"}>
<thead><tr><th scope="col">#</th><th scope="col">File</th><th scope="col">Error</th><th scope="col">Why</th></tr></thead>
<tbody>
"""


def after_rows(summary: Summary) -> str:
    """The rest of the page."""
    settings = summary.settings
    facts = {
        "Detector": settings.detector,
        "SHA-256 of its weights": settings.weights_sha256 or "none: not from a file",
        "Verdict “ai”": f"from a probability of {settings.threshold:.4f} on",
        "Verdict “real”": f"below {settings.real_below:.4f}; between the two, “unsure”",
        "False-positive rate": "never measured"
        if settings.fpr is None
        else f"{settings.fpr:g}, on real validation pictures",
        "Computed": f"on {settings.device}, in {settings.dtype}",
        "What it sees of a picture": settings.preprocess,
    }
    rows = "".join(f"<dt>{name}</dt><dd>{escaped(value)}</dd>" for name, value in facts.items())
    return f"""</tbody>
</table>
<h2>Settings</h2>
<dl>{rows}</dl>
</main>
<dialog id="viewer" aria-labelledby="viewer-title">
<h2 id="viewer-title">Heat map</h2>
<p id="viewer-name"></p>
<img id="viewer-map" alt="">
<p>Orange speaks for “AI-generated”, blue against it; dark places were not looked at.</p>
<button type="button" id="viewer-close">Close</button>
</dialog>
<script>{_asset("page.js")}</script>
</body>
</html>
"""


def _counts(summary: Summary) -> str:
    words = {
        "ai": "reason to look closer",
        "unsure": "between the thresholds",
        "real": "looks like the photographs it knows",
    }
    items = [f'<li><b class="{word}">{summary.verdicts[word]}</b> {word}: {text}</li>' for word, text in words.items()]
    items.append(f"<li><b>{summary.failed}</b> not scored</li>")
    inputs = summary.scored + summary.failed
    return f'<p>{inputs} inputs, {summary.scored} scored.</p>\n<ul class="counts">{"".join(items)}</ul>'


def _histogram(summary: Summary) -> str:
    """Bars as inline SVG; what they show is also its text, for those who do not see it."""
    most, width = max(1, *summary.bins), _WIDTH / BINS
    bars, words = [], []
    for place, number in enumerate(summary.bins):
        height = _HEIGHT * number / most
        span = f"{place / BINS:.2f} to {(place + 1) / BINS:.2f}: {number}"
        box = f'x="{place * width + 1:g}" y="{_HEIGHT - height:.1f}" width="{width - 2:g}" height="{height:.1f}"'
        bars.append(f"<rect {box}><title>{span}</title></rect>")
        words += [span] if number else []
    settings = summary.settings
    for name, at in {"real below": settings.real_below, "ai from": settings.threshold}.items():
        x = f"{at * _WIDTH:.1f}"
        bars.append(f'<line x1="{x}" x2="{x}" y1="0" y2="{_HEIGHT}"><title>{name} {at:.3f}</title></line>')
    bars.append(f'<path d="M0 {_HEIGHT}H{_WIDTH}"/>')
    ticks = [f'<text x="{t * _WIDTH / 4:g}" y="{_HEIGHT + 16}">{t / 4:g}</text>' for t in range(5)]
    label = f"Number of pictures by probability. {'; '.join(words) or 'None'}."
    return f"""<figure>
<svg viewBox="-{_MARGIN} -4 {_WIDTH + 2 * _MARGIN} {_HEIGHT + 28}" role="img" aria-label="{label}">
{"".join(bars + ticks)}
</svg>
<figcaption>Number of pictures by probability of “AI-generated”; the highest bar has {max(summary.bins)}. The lines are the \
thresholds: “real” below {settings.real_below:.3f}, “ai” from {settings.threshold:.3f}.</figcaption>
</figure>"""


def _limits(summary: Summary) -> str:
    fpr = summary.settings.fpr
    rate = "How often this detector calls real photographs “ai” was never measured."
    if fpr is not None:
        rate = (
            f"About {100 * fpr:g} of 100 real photographs, like those it was tested on, are called so by mistake: of "
            f"{summary.scored} that would be about {fpr * summary.scored:.0f}."
        )
    heatmaps = "<li>A heat map shows what moved the detector. It is no outline of what was generated.</li>"
    return f"""<h2>What this can and cannot tell</h2>
<ul>
<li>“ai” is a reason to look closer, not proof. {rate}</li>
<li>“real” is no certificate. Generators that the detector never saw, edits and screenshots may look real to it.</li>
<li>A probability supposes that half of all pictures are generated. Where few are, most alarms are false ones.</li>
{heatmaps if summary.settings.heatmaps else ""}
<li>Thumbnails and file names are part of this page: whoever gets it sees them.</li>
</ul>"""


def _column(name: str, sortable: bool) -> str:
    if not sortable:
        return f'<th scope="col">{name}</th>'
    return f'<th scope="col" aria-sort="{"ascending" if name == "#" else "none"}"><button type="button">{name}</button></th>'


def _asset(name: str) -> str:
    return importlib.resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
