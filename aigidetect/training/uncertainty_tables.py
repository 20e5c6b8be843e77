"""Sections of the page on Bayesian heads: balance of the classes, detection of errors, risk against coverage.

A detector is given as its scores by part of the data. What a section finds is said from the intervals, never typed.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from ..calibration import sigmoid
from .ablation import Triple
from .error_detection import (
    Answers,
    answers,
    aurc,
    class_accuracy,
    closeness,
    entropy,
    equal_bins,
    error_auroc,
    selective_risk,
)
from .evaluate import Score
from .metrics import Array, shown
from .report_tables import report_table

Found = Mapping[str, Mapping[str, Answers]]  # detector -> part -> its verdicts
COVERAGES = (1.0, 0.9, 0.8, 0.7, 0.5)
SAME, UNKNOWN = "no difference beyond the interval", "not to be told"
_BALANCE = ("real accuracy", "AI accuracy", "balanced accuracy", "AI minus real")
_BALANCED, _LEAN = 2, 3
_STATES = ("before calibration", "after calibration")
_BALANCE_TEXT = """## Balance of real and AI-generated pictures

Verdicts at a probability of 0.5. `AI minus real` is AI accuracy minus real accuracy: above 0 the detector leans towards
calling pictures AI-generated. Before calibration it is what the network itself does; calibration fits a bias on `val`, and
so moves the balance again.
"""
_ERROR_TEXT = """## Does the spread over draws predict errors?

AUROC with which a number tells wrong verdicts from right ones, after calibration: the probability that a wrong verdict has
the larger number. 0.5 knows nothing. `deviation` is the standard deviation of the probability over draws of the weights,
`closeness` is 1 - |2p - 1| of the probability p itself, `entropy` that of p in nats. Entropy orders pictures as closeness
does, so the two must agree. The question is the last column: does the spread know more than the score?
"""
_SIMILAR_TEXT = """### Among pictures of similar probability

The spread of a probability near 0 or 1 is small whatever the weights do, so deviation and closeness go together. Here a
wrong verdict is compared only with right ones out of the same of 5 bins of closeness, which hold a fifth of the pictures
each. What closeness still knows within these bins is a matter of their width, and the mark that deviation has to exceed.
"""
_RISK_TEXT = """## Accuracy where the least certain pictures are dropped

Accuracy, both classes together and after calibration, of the share of pictures that is kept (the coverage) when the least
certain ones are dropped, by closeness or by deviation. AURC is the area under the curve of risk (1 - accuracy) against
coverage: smaller is better, and an ordering that knows nothing has the risk at 100 %.
"""


def interval(values: Array) -> Triple:
    """(value, low, high): the first of `values`, and the 95 % interval of the others, bootstrap samples; NaN if all are."""
    known = values[1:][~np.isnan(values[1:])]
    low, high = np.percentile(known, [2.5, 97.5]) if len(known) else (np.nan, np.nan)
    return float(values[0]), float(low), float(high)


def finding(differences: Mapping[str, Triple], above: str, below: str) -> str:
    """What differences say, as the end of a sentence.

    Args:
        differences: Part of the data -> (value, low, high).
        above: Words for an interval above 0.
        below: Words for one below 0.
    """
    said: dict[str, list[str]] = {above: [], below: [], SAME: [], UNKNOWN: []}
    for part, triple in differences.items():
        if np.isnan(triple).any():
            said[UNKNOWN].append(part)
        else:
            words = above if triple[1] > 0 else below if triple[2] < 0 else SAME
            said[words].append(f"{part} {shown(triple, signed=True)}")
    return "; ".join(f"{words} in {', '.join(parts)}" for words, parts in said.items() if parts) + "."


def balance_section(detectors: Mapping[str, Mapping[str, Sequence[Score]]], *, draws: int = 200) -> str:
    """Real and AI accuracy, paired differences to the first detector, and the report's own numbers.

    Args:
        detectors: Detector -> part -> scores of the same pictures under the headline conditions, and others.
        draws: Bootstrap samples.
    """
    first, *others = detectors
    head = ("detector", "part", "probability", *_BALANCE)
    rows, differences, lines = [], [], []
    drawn: dict[tuple[str, str, str], Array] = {}
    for name, state in itertools.product(detectors, _STATES):
        for part, scores in detectors[name].items():
            values = drawn[name, part, state] = _balance(scores, state, draws)
            rows.append([name, part, state, *(shown(interval(v), signed=i == _LEAN) for i, v in enumerate(values.T))])
    for name, state in itertools.product(others, _STATES):
        found = {part: drawn[name, part, state] - drawn[first, part, state] for part in detectors[name]}
        differences += [[name, part, state, *(shown(interval(v), signed=True) for v in d.T)] for part, d in found.items()]
        lean, accuracy = ({part: interval(d[:, i]) for part, d in found.items()} for i in (_LEAN, _BALANCED))
        lines.append(f"- `{name}` against `{first}`, {state}: {finding(lean, 'leans more to AI', 'leans more to real')}")
        lines.append(f"  Balanced accuracy: {finding(accuracy, 'higher', 'lower')}")
    between = f"Differences to `{first}` on the same pictures:\n"
    return "\n".join([_BALANCE_TEXT, table(head, rows), between, table(head, differences), *lines, "", report_section()])


def report_section() -> str:
    """The report's table 5 with the balance of its rows, and what the corrected ones say."""
    known = report_table(5)
    rows, said = [], []
    plain: dict[str, float] = {}
    for row in known.rows:
        lean = float(row["fake_acc_pct_approx"]) - float(row["real_acc_pct_approx"])
        shift = lean - plain.setdefault(row["source"], lean)
        rows.append({**row, "fake_minus_real": f"{lean:+.2f}", "shift": f"{shift:+.2f}"})
        if "corrected" in row["source"] and row["uncertainty"] == "yes":
            said.append(f"{shift:+.2f} points for {row['model']}")
    columns = ("model", "source", "real_acc_pct_approx", "fake_acc_pct_approx", "avg_acc_pct", "fake_minus_real", "shift")
    own = dataclasses.replace(known, columns=columns, rows=tuple(rows)).markdown()
    shifts = " and ".join(said)
    return (
        "The report's own numbers in percent; `shift` is the difference to its first row of that source.\n\n"
        f"{own}\nWith the classes named rightly, the balance of the report shifts by {shifts}. It states no intervals.\n"
    )


def _balance(scores: Sequence[Score], state: str, draws: int) -> Array:
    """(1 + draws, 4): the figures of `_BALANCE`."""
    if state == _STATES[0]:
        scores = [dataclasses.replace(s, probability=sigmoid(s.logit)) for s in scores]
    own = answers(scores, draws=draws)
    real, ai = (class_accuracy(own, ai=label) for label in (False, True))
    return np.column_stack([real, ai, (real + ai) / 2, ai - real])


def error_section(found: Found) -> str:
    """AUROC of the errors by deviation, closeness and entropy, over all pictures and within bins of closeness."""
    rows, similar, lines = [], [], []
    for name, parts in found.items():
        overall, within, beyond = {}, {}, {}
        for part, own in parts.items():
            ways = {**orderings(own), "entropy": entropy(own.probabilities)}
            drawn = {way: error_aurocs(own, values) for way, values in ways.items()}
            cells = [shown(interval(drawn[way])) if way in drawn else "" for way in ("deviation", "closeness", "entropy")]
            if "deviation" in ways:
                inside = {way: error_aurocs(own, ways[way], bins=5) for way in orderings(own)}
                overall[part], beyond[part] = (interval(of["deviation"] - of["closeness"]) for of in (drawn, inside))
                within[part] = interval(inside["deviation"] - 0.5)
                both = (shown(interval(inside[way])) for way in ("deviation", "closeness"))
                similar.append([name, part, *both, shown(beyond[part], signed=True)])
            rows.append(
                [name, part, f"{own.wrong.mean():.3f}", *cells, shown(overall[part], signed=True) if overall else ""]
            )
        if overall:
            more = ", ".join(part for part in within if min(within[part][1], beyond[part][1]) > 0) or "no part"
            lines.append(f"- `{name}`, AUROC of deviation minus that of closeness: {finding(overall, 'higher', 'lower')}")
            lines.append(f"  AUROC of deviation among similar probabilities minus 0.5: {finding(within, 'higher', 'lower')}")
            lines.append(f"  There, deviation minus closeness: {finding(beyond, 'higher', 'lower')}")
            lines.append(f"  By both marks the spread knows more of errors than the score in {more}.")
    head = ("detector", "part", "share of errors", "deviation", "closeness", "entropy", "deviation minus closeness")
    pages = [_ERROR_TEXT, table(head, rows)]
    if similar:
        pages += [_SIMILAR_TEXT, table((*head[:2], *head[3:5], head[6]), similar), *lines, ""]
    return "\n".join(pages)


def error_aurocs(own: Answers, uncertainty: Array, *, bins: int = 1) -> Array:
    """(1 + draws,) `error_auroc`, mean over conditions.

    Args:
        own: A detector's verdicts.
        uncertainty: (C, N).
        bins: Compares only within so many bins of closeness.
    """
    each = []
    for values, near, wrong in zip(uncertainty, closeness(own.probabilities), own.wrong):
        each.append(error_auroc(values, wrong, own.weights, equal_bins(near, bins)))
    return np.asarray(np.mean(each, axis=0))


def risk_section(found: Found) -> str:
    """Accuracy at `COVERAGES` and AURC, by closeness and by deviation, and their paired difference."""
    rows, lines = [], []
    for name, parts in found.items():
        gains: dict[str, dict[str, Triple]] = {}
        areas: dict[str, Triple] = {}
        for part, own in parts.items():
            curves = {way: _accuracies(own, values) for way, values in orderings(own).items()}
            for way, drawn in curves.items():
                rows.append([name, part, way, *(shown(interval(v)) for v in drawn.T)])
                gains.setdefault(way, {})[part] = interval(drawn[:, COVERAGES.index(0.5)] - drawn[:, 0])
            if "deviation" in curves:
                triples = [interval(v) for v in (curves["deviation"] - curves["closeness"]).T]
                rows.append([name, part, "deviation minus closeness", *(shown(t, signed=True) for t in triples)])
                areas[part] = triples[-1]
        for way, gain in gains.items():
            words = f"- `{name}`, accuracy of the half that is kept by {way} minus that of all"
            lines.append(f"{words}: {finding(gain, 'higher', 'lower')}")
        if areas:
            better = ("higher, so worse,", "lower, so better,")
            lines.append(f"- `{name}`, AURC by deviation minus that by closeness: {finding(areas, *better)}")
    head = ("detector", "part", "ordering", *(f"{100 * c:.0f} %" for c in COVERAGES), "AURC")
    return "\n".join([_RISK_TEXT, table(head, rows), *lines, ""])


def orderings(own: Answers) -> dict[str, Array]:
    """What pictures are dropped by, each (C, N): closeness, and deviation where there is one."""
    found = {"closeness": closeness(own.probabilities)}
    return found if own.deviations is None else {**found, "deviation": own.deviations}


def risks(own: Answers, uncertainty: Array, coverages: Sequence[float]) -> Array:
    """(1 + draws, K) `selective_risk`, mean over conditions."""
    each = [selective_risk(*pair, own.weights, coverages) for pair in zip(uncertainty, own.wrong)]
    return np.asarray(np.mean(each, axis=0))


def _accuracies(own: Answers, uncertainty: Array) -> Array:
    """(1 + draws, K + 1): accuracies at `COVERAGES`, then AURC."""
    area = np.mean([aurc(*pair, own.weights) for pair in zip(uncertainty, own.wrong)], axis=0)
    return np.column_stack([1 - risks(own, uncertainty, COVERAGES), area])


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines) + "\n"
