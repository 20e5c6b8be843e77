"""What a detector says of one input: a Prediction, or a Failure. Never nothing."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

Verdict = Literal["real", "ai", "unsure"]


@dataclass(frozen=True)
class ImageInfo:
    """What decoding found and did.

    Attributes:
        format: File format (`"JPEG"`, ...), or `"array"`, `"tensor"`, `"PIL"` for pixels given directly.
        width: Columns in pixels, after the EXIF orientation was applied.
        height: Rows in pixels, after the EXIF orientation was applied.
        mode: Pixel mode before conversion to RGB, in Pillow's terms (`"RGB"`, `"CMYK"`, `"I;16"`, ...).
        orientation: EXIF orientation 1-8 found in the file; 1 means untouched.
        frames: Number of frames or pages; only the first is scored.
        jpeg_quality: Quality 1-100 estimated from the quantisation tables; None if not a JPEG.
        notes: Conversions worth knowing, as short sentences.
    """

    format: str
    width: int
    height: int
    mode: str
    orientation: int = 1
    frames: int = 1
    jpeg_quality: int | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Uncertainty:
    """How much the probability of one picture varies when a network with random weights draws them again and again.

    Attributes:
        mean: Mean of the calibrated probability over the draws, in [0, 1].
        std: Its standard deviation over the draws (`n - 1` in the denominator).
        low: 2.5 % quantile of the draws: 95 % of them lie between `low` and `high`.
        high: 97.5 % quantile of the draws.
        samples: Number of draws.
        seed: Seed of the draws. The same picture, seed and number give the same numbers.
    """

    mean: float
    std: float
    low: float
    high: float
    samples: int
    seed: int


@dataclass(frozen=True)
class Stability:
    """How much the probability of one picture changes under light re-encodings and rescalings; see `aigidetect.stability`.

    Attributes:
        min: Lowest calibrated probability, in [0, 1], of the picture as it is and all its variants.
        max: Highest of these.
        variants: Number of variants, without the picture as it is.
        flips: Whether the verdict at the Prediction's threshold is not the same for all of them.
    """

    min: float
    max: float
    variants: int
    flips: bool


@dataclass(frozen=True)
class Prediction:
    """The score of one picture.

    Attributes:
        source: The path, or a description such as `"<bytes>"` of an input without one.
        probability: Calibrated probability in [0, 1] that the picture is AI-generated.
        verdict: `"ai"`, `"real"`, or `"unsure"`; see `aigidetect.calibration.Calibration.verdict`.
        threshold: Probability from which the verdict is `"ai"`.
        fpr: False-positive rate at which `threshold` was fixed, in (0, 1); None if it was never measured.
        logit: Pooled, calibrated logit; `probability` is its sigmoid.
        view_logits: The network's own logit of each view, in view order.
        image: What decoding found and did.
        detector: Name and version, for instance `"npr-ms-ca@1"`.
        weights_sha256: Hash of the weights file, 64 hex digits; None for a detector built from a bare network.
        uncertainty: Spread over draws of the weights; None for a network without random weights.
        stability: Spread over light re-encodings and rescalings; None unless it was asked for.
    """

    source: str
    probability: float
    verdict: Verdict
    threshold: float
    fpr: float | None
    logit: float
    view_logits: tuple[float, ...]
    image: ImageInfo
    detector: str
    weights_sha256: str | None
    uncertainty: Uncertainty | None = None
    stability: Stability | None = None

    ok: Literal[True] = True

    @property
    def label(self) -> Verdict:
        """Same as `verdict`; the name that transformers and scikit-learn users look for."""
        return self.verdict

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready dictionary: plain str, float, int, list, dict and None only."""
        return {key: _plain(value) for key, value in asdict(self).items()}


@dataclass(frozen=True)
class Failure:
    """An input that got no score, and why.

    Attributes:
        source: The path, or a description of an input without one.
        error: Class name of the error, for instance `"ImageTruncated"`.
        message: What was wrong and what would work.
        detector: Name and version of the detector that was asked.
        weights_sha256: Hash of its weights file; None for a detector built from a bare network.
    """

    source: str
    error: str
    message: str
    detector: str
    weights_sha256: str | None = None

    ok: Literal[False] = False

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready dictionary: plain str, bool and None only."""
        return asdict(self)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has no NaN
    return value
