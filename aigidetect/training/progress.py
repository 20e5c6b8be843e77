"""How a run shows where it is: `log.csv` always, a bar on a terminal or log lines elsewhere, TensorBoard if asked."""

from __future__ import annotations

import csv
import logging
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

log = logging.getLogger(__name__)


class Progress:
    """Reports the steps of one call of `fit`; a context manager.

    Args:
        out: Folder of the run. Rows are appended to its `log.csv`: step, mean loss since the last row, seconds of this
            call, learning rate.
        first: Steps that were done before this call.
        stop: Step at which this call ends.
        total: Steps of the run.
        every: Steps between two rows.
        tensorboard: Also write `loss` and `learning_rate` to the folder `tensorboard` of the run.

    Raises:
        ModuleNotFoundError: TensorBoard is asked for and not installed.
    """

    def __init__(self, out: Path, first: int, stop: int, total: int, *, every: int = 50, tensorboard: bool = False) -> None:
        self._first, self._stop, self._total, self._every = first, stop, total, every
        self._losses: list[float] = []
        self._writer = _tensorboard(out / "tensorboard", first) if tensorboard else None
        self._file = open(out / "log.csv", "a", newline="", encoding="utf-8")  # noqa: SIM115
        self._bar = _bar(first, stop) if sys.stderr.isatty() else None
        self._started = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()
        for part in (self._bar, self._writer):
            if part is not None:
                part.close()

    def update(self, step: int, loss: float, learning_rate: float) -> None:
        """Reports a step.

        Args:
            step: Steps of the run that are done now.
            loss: Loss of the last of them.
            learning_rate: Its learning rate.
        """
        self._losses.append(loss)
        if self._bar is not None:
            self._bar.update()
        if step % self._every and step != self._stop:
            return
        mean = sum(self._losses) / len(self._losses)
        self._losses = []
        seconds = time.monotonic() - self._started
        csv.writer(self._file).writerow([step, f"{mean:.5f}", f"{seconds:.1f}", f"{learning_rate:.3g}"])
        self._file.flush()
        if self._writer is not None:
            self._writer.add_scalar("loss", mean, step)
            self._writer.add_scalar("learning_rate", learning_rate, step)
        if self._bar is not None:
            self._bar.set_postfix_str(f"loss {mean:.4f}")
        else:
            left = seconds / (step - self._first) * (self._stop - step)
            log.info("step %d/%d  loss %.4f  %.0f min left", step, self._total, mean, left / 60)


def _bar(first: int, stop: int) -> Any:
    from tqdm.auto import tqdm  # comes with huggingface_hub

    return tqdm(initial=first, total=stop, unit=" steps", dynamic_ncols=True)


def _tensorboard(folder: Path, first: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Scalars for TensorBoard need the package: pip install 'aigidetect[tensorboard]'.", name="tensorboard"
        ) from error
    # A killed run has written steps after its last state; they are about to be done again.
    return SummaryWriter(str(folder), purge_step=first + 1)
