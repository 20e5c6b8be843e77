"""What users of other libraries look for in a detector: the pipeline of transformers, the arrays of scikit-learn, the frames
of pandas, and the transforms of torchvision.

All of it is made from `Detector.stream` and `Detector.predict`, which raise what their docstrings say.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import GeneratorType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from .calibration import Calibration
from .images import load_image
from .prediction import Failure, ImageInfo, Prediction, Stability, Uncertainty
from .preprocess import Preprocess

Labels = list[dict[str, Any]]

PARTS = {"image": ImageInfo, "uncertainty": Uncertainty, "stability": Stability}


@dataclass(frozen=True)
class Scores:
    """Probabilities as arrays, one value for each input that got a score, in input order.

    Attributes:
        probability: (n,) float64 in [0, 1] that the picture is AI-generated; never NaN.
        verdict: (n,) text, `"ai"`, `"real"` or `"unsure"`.
        index: (n,) int64, position of each among all inputs, from 0 on: `labels[scores.index]` are their labels.
        sources: Path or description of each.
        failures: The inputs without a score: position -> Failure.
    """

    probability: npt.NDArray[np.float64]
    verdict: npt.NDArray[np.str_]
    index: npt.NDArray[np.int64]
    sources: tuple[str, ...]
    failures: Mapping[int, Failure]


@dataclass(frozen=True)
class Transforms:
    """One input -> views, as `preprocess` makes them: what `weights.transforms()` is in torchvision."""

    preprocess: Preprocess

    def __call__(self, image: object) -> Tensor:
        """Decodes one input, if it is not yet a tensor, and cuts it into views.

        Args:
            image: See `Detector.predict`: a PIL image, a path, bytes, an array, or a tensor (3, H, W), uint8 or in [0, 1].

        Returns:
            (T, 3, S, S) float32. T differs between pictures of different sizes.

        Raises:
            ImageError: It cannot become pixels.
            TypeError: It is of another type.
        """
        return self.preprocess(load_image(image)[0])


@dataclass(frozen=True)
class Pipeline:
    """Called like the pipeline `"image-classification"` of transformers, and answers in the same form."""

    detector: Conventions

    def __call__(
        self,
        images: object,
        *,
        batch_size: int = 1,
        top_k: int | None = 5,
        on_error: Literal["raise", "record"] = "raise",
    ) -> Any:
        """Labels and their scores.

        Args:
            images: One input of `Detector.predict`, or a list or generator of them. A text is a path; URLs are refused.
            batch_size: Elements of a list that are prepared, and go through the network, together.
            top_k: Number of labels to return, the most probable first; there are two. None means all.
            on_error: `"raise"` raises the error of the first input without a score. `"record"` puts its Failure there,
                instead of the list of labels.

        Returns:
            For one input, a list of `{"label": "ai" or "real", "score": probability}`, sorted by falling score; the two
            scores add up to 1. For a list, a list of such lists, and for a generator, an iterator of them.

        Raises:
            ImageError: See `on_error`.
            TypeError: See `on_error`.
            ValueError: `batch_size` or `top_k` is below 1, or `on_error` unknown.
        """
        if batch_size < 1 or (top_k is not None and top_k < 1):
            raise ValueError(f"Expected batch_size and top_k of at least 1, but got {batch_size} and {top_k}.")
        if on_error not in ("raise", "record"):
            raise ValueError(f"Expected on_error 'raise' or 'record', but got {on_error!r}.")
        if isinstance(images, GeneratorType):
            return self._answers(images, batch_size, top_k, on_error)
        if isinstance(images, (list, tuple)):
            return list(self._answers(iter(images), batch_size, top_k, on_error))
        [answer] = self._answers(iter([images]), batch_size, top_k, on_error)
        return answer

    def _answers(
        self, images: Iterator[object], batch_size: int, top_k: int | None, on_error: str
    ) -> Iterator[Labels | Failure]:
        for first in images:
            batch = [first, *itertools.islice(images, batch_size - 1)]
            for item, record in zip(batch, self.detector.predict(batch)):
                if not record.ok and on_error == "raise":
                    self.detector.predict(item)  # raises the error itself
                yield _labels(record, top_k) if record.ok else record


def _labels(record: Prediction, top_k: int | None) -> Labels:
    both: Labels = [{"label": "ai", "score": record.probability}, {"label": "real", "score": 1 - record.probability}]
    return sorted(both, key=lambda label: label["score"], reverse=True)[:top_k]


class Conventions:
    """Base of Detector: other libraries' names for what it can do."""

    network: nn.Module
    preprocess: Preprocess
    calibration: Calibration
    name: str
    weights_sha256: str | None
    device: torch.device
    dtype: torch.dtype

    if TYPE_CHECKING:

        def predict(self, *args: Any, **options: Any) -> Any: ...
        def stream(self, *args: Any, **options: Any) -> Iterator[Prediction | Failure]: ...
        def view_logits(self, views: list[Tensor], *, batch_size: int = 16) -> list[tuple[float, ...]]: ...

    @property
    def transforms(self) -> Transforms:
        """Callable: one picture -> the views that the network sees."""
        return Transforms(self.preprocess)

    def as_pipeline(self) -> Pipeline:
        """A callable with the arguments and answers of transformers' image-classification pipeline."""
        return Pipeline(self)

    def scores(self, source: object, **options: Any) -> Scores:
        """Arrays that go into `sklearn.metrics`, together with the inputs that got no score.

        Args:
            source: See `Detector.stream`.
            options: Further arguments of `Detector.stream`.
        """
        records = list(self.stream(source, **options))
        scored = [(i, record) for i, record in enumerate(records) if isinstance(record, Prediction)]
        return Scores(
            probability=np.array([record.probability for _, record in scored], dtype=np.float64),
            verdict=np.array([record.verdict for _, record in scored], dtype=np.str_),
            index=np.array([i for i, _ in scored], dtype=np.int64),
            sources=tuple(record.source for _, record in scored),
            failures={i: record for i, record in enumerate(records) if isinstance(record, Failure)},
        )

    def to_frame(self, source: object, **options: Any) -> Any:
        """A pandas DataFrame with one row a record, failures included; needs `pip install 'aigidetect[pandas]'`.

        Its columns are always the same: the fields of Prediction, with those of `image` in its place, of `uncertainty` as
        `uncertainty_*` and of `stability` as `stability_*`; then `error` and `message`. Where `ok` is False, only
        `source`, `detector`, `weights_sha256`, `error` and `message` have a value.

        Args:
            source: See `Detector.stream`.
            options: Further arguments of `Detector.stream`.

        Raises:
            ModuleNotFoundError: pandas is not installed.
        """
        try:
            import pandas
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("to_frame needs pandas: pip install 'aigidetect[pandas]'", name="pandas") from error
        return pandas.DataFrame([record_row(record) for record in self.stream(source, **options)], columns=record_columns())


def record_columns() -> list[str]:
    """Names of the columns of a table of records, see `Conventions.to_frame`."""
    names = []
    for field in dataclasses.fields(Prediction):
        parts = dataclasses.fields(PARTS[field.name]) if field.name in PARTS else ()
        names += [_column(field.name, part.name) for part in parts] or [field.name]
    return [*names, "error", "message"]


def _column(field: str, part: str) -> str:
    return part if field == "image" else f"{field}_{part}"


def record_row(record: Prediction | Failure) -> dict[str, Any]:
    """One record as column -> value; columns that it has nothing for are left out."""
    row = record.to_dict()
    for field in PARTS:
        row |= {_column(field, part): value for part, value in (row.pop(field, None) or {}).items()}
    return row
