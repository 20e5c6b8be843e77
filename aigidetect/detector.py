"""One picture, or many, to predictions: the story of the package."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from .calibration import Calibration, sigmoid
from .engine import Engine
from .errors import WeightsError
from .explain import Explanation, find_explainers, make_explanation
from .images import load_image
from .isolation import Isolation
from .layers.folding import fold_batch_norms
from .pipeline import check_options, keep_freed_memory, map_in_order, show_progress, survive_fork
from .prediction import Failure, Prediction
from .prepare import Broken, Ready, prepare
from .preprocess import Preprocess
from .pretrained import Pretrained
from .sources import iter_sources
from .stability import judge
from .uncertainty import Draws

OnError = Literal["record", "raise"]
Progress = bool | Callable[[int], None]


class Detector(Pretrained):
    """Scores pictures with one network. Knows no names and no files: build one from your own parts, or call
    `aigidetect.load_detector`.

    Args:
        network: Module (N, 3, S, S) -> (N, 1) logits of "AI-generated". Put in evaluation mode here. Convolutions are copied
            where a batch norm follows: change their weights before, not later.
        preprocess: (3, H, W) uint8 RGB -> (T, 3, S, S) float32 views.
        calibration: View logits -> probability and verdict.
        name: Shown in every prediction.
        weights_sha256: Shown in every prediction.
        device: Torch device; `"auto"` is CUDA where available, else the CPU.
        dtype: What the network computes in. None means float32. `torch.bfloat16` and `torch.float16` mean mixed precision:
            weights stay in float32 and torch.autocast chooses the operations that are safe in the smaller type.
        draws: How often, and with which seed, a network with random weights draws them for `Prediction.uncertainty`.

    Attributes:
        engine: What computes logits instead of `network`, or None; see `aigidetect.backends`.
    """

    def __init__(
        self,
        network: nn.Module,
        preprocess: Preprocess,
        calibration: Calibration,
        *,
        name: str = "custom",
        weights_sha256: str | None = None,
        device: str | torch.device = "auto",
        dtype: torch.dtype | None = None,
        draws: Draws | None = None,
    ) -> None:
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(device)
        self.dtype = dtype or torch.float32
        self._mixed = self.dtype in (torch.bfloat16, torch.float16)
        stored = torch.float32 if self._mixed else self.dtype
        self.network = network.eval().to(self.device, stored).to(memory_format=torch.channels_last)
        self._folded = fold_batch_norms(self.network)
        keep_freed_memory()
        self.preprocess = preprocess
        self.calibration = calibration
        self.name = name
        self.weights_sha256 = weights_sha256
        self.draws = draws or Draws()
        self.engine: Engine | None = None

    def __repr__(self) -> str:
        backend = f", backend={self.engine.backend!r}" if self.engine else ""
        return f"Detector({self.name!r}, device={str(self.device)!r}, dtype={self.dtype}{backend})"

    @overload
    def predict(  # type: ignore[overload-overlap]  # a list is an object too; the first match wins
        self, x: list[Any] | tuple[Any, ...], *, fpr: float | None = None, stability: bool = False
    ) -> list[Prediction | Failure]: ...
    @overload
    def predict(self, x: object, *, fpr: float | None = None, stability: bool = False) -> Prediction: ...
    def predict(
        self, x: object, *, fpr: float | None = None, stability: bool = False
    ) -> Prediction | list[Prediction | Failure]:
        """Scores one input, or a list of inputs.

        Args:
            x: A path (str or Path), bytes, a binary file object, a PIL image, a numpy array (H, W), (H, W, 3) or
                (H, W, 4) or a torch tensor (3, H, W); arrays and tensors RGB, uint8 or float in [0, 1]. Or a list or
                tuple of such inputs. Folders and globs belong to `stream`.
            fpr: False-positive rate of the verdict, one of the rates stated for these weights; None: 0.05.
            stability: Whether the picture is also scored under five light re-encodings and rescalings, for
                `Prediction.stability`. The network then sees about six times as many views, which wait in as much more
                memory, and the encoding comes on top. `probability` and `verdict` stay as they are.

        Returns:
            A Prediction; for a list, one Prediction or Failure for each element, in its order.

        Raises:
            ImageError: A single input cannot become pixels. (In a list, that element becomes a Failure.)
            TypeError: A single input is of another type.
            ValueError: No threshold was measured at `fpr`.
        """
        self.calibration.threshold(fpr)
        survive_fork(self.device)
        if isinstance(x, (list, tuple)):
            prepared = (prepare(item, self.preprocess, stability=stability) for item in x)
            return [record for record, _ in self._records(prepared, batch_size=16, fpr=fpr)]
        single = iter([prepare(x, self.preprocess, stability=stability)])
        [(record, error)] = self._records(single, batch_size=16, fpr=fpr)
        if isinstance(record, Failure):
            assert error is not None
            raise error
        return record

    def stream(
        self,
        source: object,
        *,
        batch_size: int = 16,
        workers: int = 2,
        on_error: OnError = "record",
        recursive: bool = True,
        fpr: float | None = None,
        progress: Progress = False,
        isolate: float | None = None,
        stability: bool = False,
    ) -> Iterator[Prediction | Failure]:
        """Scores a folder, a glob, an iterable, or a nested mix of them, lazily.

        One record for each input, in input order. Pictures are decoded ahead in threads, only a few at any time.

        Args:
            source: Anything that `predict` takes, a folder, a glob, or an iterable of these; see `aigidetect.sources`.
            batch_size: Views that go through the network together. Changes the speed, not the scores.
            workers: Threads that decode.
            on_error: `"record"` yields a Failure for an input without score; `"raise"` raises its error there.
            recursive: Whether folders are searched to the bottom.
            fpr: See `predict`.
            stability: See `predict`.
            progress: True shows a bar on stderr; a function is called with the number of records so far.
            isolate: Seconds for each path or bytes, which then are decoded in `workers` processes instead of this one: one
                that dies or takes longer becomes a Failure. None: no processes, no limit. See `aigidetect.isolation`.

        Yields:
            Prediction or Failure.

        Raises:
            ValueError: An argument out of its range.
        """
        # The arguments are checked here, in the call, and not at the first record.
        check_options(batch_size, workers, on_error, isolate)
        self.calibration.threshold(fpr)
        inputs = iter_sources(source, recursive=recursive)
        records = self._stream(inputs, batch_size, workers, on_error, fpr, isolate, stability)
        return show_progress(records, progress) if progress else records

    def predict_folder(self, folder: object, **options: Any) -> list[Prediction | Failure]:
        """`list(stream(folder, **options))`: all records of a folder at once."""
        return list(self.stream(folder, **options))

    def explain(self, x: object) -> Explanation:
        """A heat map: which places of a picture its score comes from. See `aigidetect.explain`.

        Args:
            x: One input, see `predict`.

        Raises:
            ExplanationError: The network, or the preprocessing, cannot say.
            ImageError: The input cannot become pixels.
            TypeError: It is of another type.
        """
        evidence, regions = find_explainers(self.network, self.preprocess)
        survive_fork(self.device)
        pixels, _ = load_image(x)
        with torch.no_grad():
            found = [one for views in torch.split(self.preprocess(pixels), 16) for one in self._forward(views, evidence)]
        return make_explanation(pixels, found, regions(pixels), self.calibration)

    def _stream(
        self,
        inputs: Iterator[object],
        batch_size: int,
        workers: int,
        on_error: OnError,
        fpr: float | None,
        isolate: float | None,
        stability: bool,
    ) -> Iterator[Prediction | Failure]:
        survive_fork(self.device)
        # Closed here, so that threads and processes end with the stream, even if a traceback keeps its frames alive.
        with contextlib.ExitStack() as stack:
            load = stack.enter_context(Isolation(workers, isolate)).load if isolate else load_image
            one = functools.partial(prepare, preprocess=self.preprocess, load=load, stability=stability)
            prepared = stack.enter_context(contextlib.closing(map_in_order(one, inputs, workers)))
            for record, error in self._records(prepared, batch_size, fpr):
                if error is not None and on_error == "raise":
                    raise error
                yield record

    def _records(
        self, prepared: Iterable[Ready | Broken], batch_size: int, fpr: float | None
    ) -> Iterator[tuple[Prediction | Failure, Exception | None]]:
        """Prepared inputs -> records in the same order; the network sees about `batch_size` views at a time."""
        waiting: list[Ready | Broken] = []
        views = 0
        for item in prepared:
            waiting.append(item)
            views += sum(map(len, item.stacks)) if isinstance(item, Ready) else 0
            if views >= batch_size or len(waiting) >= 2 * batch_size:
                yield from self._score(waiting, batch_size, fpr)
                waiting, views = [], 0
        yield from self._score(waiting, batch_size, fpr)

    def _score(
        self, items: list[Ready | Broken], batch_size: int, fpr: float | None
    ) -> Iterator[tuple[Prediction | Failure, Exception | None]]:
        ready = [item for item in items if isinstance(item, Ready)]
        rows = iter(self._view_rows([views for item in ready for views in item.stacks], batch_size))
        for item in items:
            if isinstance(item, Broken):
                kind, message = type(item.error).__name__, str(item.error)
                yield Failure(item.source, kind, message, self.name, self.weights_sha256), item.error
            else:
                yield self._prediction(item, list(itertools.islice(rows, len(item.stacks))), fpr), None

    def view_logits(self, views: list[Tensor], *, batch_size: int = 16) -> list[tuple[float, ...]]:
        """Raw logits of views that `preprocess` made.

        Args:
            views: One tensor (T, 3, S, S) for each picture; T and S may differ between pictures.
            batch_size: Views that go through the network together.

        Returns:
            One tuple of T logits for each picture.

        Raises:
            WeightsError: The network returned a number that is not finite.
        """
        survive_fork(self.device)
        return [tuple(row[0] for row in rows) for rows in self._view_rows(views, batch_size)]

    @torch.inference_mode()
    def _view_rows(self, views: list[Tensor], batch_size: int) -> list[list[list[float]]]:
        """For each picture, a row for each view: its logit, then those under draws of random weights, if it has any."""
        flat: list[list[float]] = []
        for _, alike in itertools.groupby((view for stack in views for view in stack), key=lambda view: view.shape):
            while chunk := list(itertools.islice(alike, batch_size)):
                inputs = torch.stack(chunk)
                rows = self.engine(inputs) if self.engine else self._forward(inputs, self._logits)
                flat.extend(rows.float().tolist())
        if not torch.isfinite(torch.tensor(flat)).all():
            raise WeightsError(
                f"Detector {self.name!r} computed a logit that is not finite on {self.device} in {self.dtype}; use "
                "dtype=torch.float32, or run `aigidetect verify` to test weights and machine."
            )
        remaining = iter(flat)
        return [list(itertools.islice(remaining, len(stack))) for stack in views]

    def _logits(self, inputs: Tensor) -> Tensor:
        return self.draws.logits(self._folded, inputs)

    def _forward(self, inputs: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
        stored = torch.float32 if self._mixed else self.dtype
        inputs = inputs.to(self.device, stored, memory_format=torch.channels_last)
        with torch.autocast(self.device.type, self.dtype, enabled=self._mixed):
            return compute(inputs)

    def _prediction(self, item: Ready, stacks: list[list[list[float]]], fpr: float | None) -> Prediction:
        rows, *varied = stacks
        view_logits = tuple(row[0] for row in rows)
        logit = self.calibration.logit(view_logits)
        probability = sigmoid(logit)
        ai_from, _, rate = self.calibration.threshold(fpr)
        return Prediction(
            source=item.source,
            probability=probability,
            verdict=self.calibration.verdict(probability, fpr),
            threshold=ai_from,
            fpr=rate,
            logit=logit,
            view_logits=view_logits,
            image=item.image,
            detector=self.name,
            weights_sha256=self.weights_sha256,
            stability=judge(self.calibration, probability, [[row[0] for row in stack] for stack in varied], fpr),
            uncertainty=self.draws.spread(self.calibration, [row[1:] for row in rows]),
        )
