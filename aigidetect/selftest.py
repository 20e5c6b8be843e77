"""Does this machine compute the numbers that were published? A broken library, driver or memory must not become a score."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .conventions import Conventions
from .errors import WeightsMismatch, WeightsNotAvailable
from .manifest import ManifestEntry
from .preprocess import Preprocess

# Golden logits are compared across machines and torch versions, whose float32 kernels differ in the last digits.
GOLDEN_TOLERANCE = 2e-3

# (weights, backbone, device, dtype) that passed in this process.
_passed: set[tuple[str | None, str | None, str, str]] = set()


def golden_views(preprocess: Preprocess) -> Tensor:
    """The input of the numerical self-test, recipe `"noise-v1"`: views of an integer pattern that any machine can make.

    Returns:
        (T, 3, S, S) float32: what `preprocess` makes of a (3, 300, 420) uint8 picture with low and high frequencies.
    """
    rows, columns = torch.arange(300)[:, None], torch.arange(420)[None, :]
    channels = [
        ((rows * (3 + c) + columns * (5 - c)) // 4 + (rows * rows * 7 + columns * columns * 13) % 61) % 256 for c in range(3)
    ]
    return preprocess(torch.stack(channels).to(torch.uint8))


@torch.inference_mode()
def golden_facts(detector: Conventions) -> dict[str, Any]:
    """Golden logits of a detector as a manifest entry has them, computed in the type of its weights."""
    weights = next(detector.network.parameters())
    logits = detector.network(golden_views(detector.preprocess).to(weights)).flatten().tolist()
    return {"input": "noise-v1", "logits": [round(logit, 6) for logit in logits], "tolerance": GOLDEN_TOLERANCE}


def verify_detector(detector: Conventions, entry: ManifestEntry) -> float:
    """Numerical self-test: recomputes the golden logits.

    Returns:
        Largest difference to the published logits.

    Raises:
        WeightsNotAvailable: The entry has no golden logits.
        WeightsMismatch: The difference exceeds the entry's tolerance: the machine computes wrong numbers, or the code and
            the weights do not belong together.
    """
    if not entry.golden:
        raise WeightsNotAvailable(f"Detector {entry.full_name!r} has no golden logits to compare with.")
    [logits] = detector.view_logits([golden_views(detector.preprocess)])
    expected = entry.golden["logits"]
    difference = math.inf if len(logits) != len(expected) else max(abs(a - b) for a, b in zip(logits, expected))
    if not difference <= entry.golden["tolerance"]:
        raise _wrong_numbers(detector, difference, entry.golden["tolerance"])
    return difference


def check_once(detector: Conventions, entry: ManifestEntry) -> None:
    """Compares the first golden view with its published logit, once in a process for each file, device and dtype.

    A check against wrong numbers, not of precision: ten times the tolerance of `verify_detector` is allowed, because GPUs
    round products to 10 bits by default, and with a dtype of 16 bits 5 % of `1 + |logit|`.

    Raises:
        WeightsMismatch: The logit is another one.
        WeightsError: It is not finite.
    """
    key = (
        detector.weights_sha256,
        entry.backbone.sha256 if entry.backbone else None,
        str(detector.device),
        str(detector.dtype),
    )
    if not entry.golden or key in _passed:
        return
    [[logit]] = detector.view_logits([golden_views(detector.preprocess)[:1]])
    expected = entry.golden["logits"][0]
    allowed = 10 * entry.golden["tolerance"]
    if detector.dtype in (torch.float16, torch.bfloat16):
        allowed = max(allowed, 0.05 * (1 + abs(expected)))
    if not abs(logit - expected) <= allowed:
        raise _wrong_numbers(detector, abs(logit - expected), allowed)
    _passed.add(key)


def _wrong_numbers(detector: Conventions, difference: float, tolerance: float) -> WeightsMismatch:
    return WeightsMismatch(
        f"Detector {detector.name!r} differs by {difference:.3g} from its golden logits (tolerance {tolerance:g}) on "
        f"{detector.device} in {detector.dtype}; try device='cpu' and float32, and reinstall aigidetect if that fails too."
    )
