"""The scores of many pictures as one page to look at: `aigidetect report`.

    rows.py             one record -> its row: thumbnail, verdict, heat map
    page.py             counts, histogram, settings, limits -> the page around the rows
    page.css, page.js   are put into the page, which may run nothing else

The page is one file and asks the network for nothing. Rows are written while the detector works, so that memory does not
grow with the number of pictures.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import BinaryIO

from ..detector import Detector, Progress
from ..errors import OutputError
from ..explain import find_explainers
from ..images import load_image
from ..isolation import Isolation
from ..pipeline import map_in_order
from .page import Settings, Summary, after_rows, before_rows, between_rows
from .rows import RowMaker


def write_report(
    path: str | os.PathLike[str],
    detector: Detector,
    source: object,
    *,
    heatmaps: bool = False,
    fpr: float | None = None,
    recursive: bool = True,
    batch_size: int = 16,
    workers: int = 2,
    isolate: float | None = None,
    progress: Progress = False,
) -> Summary:
    """Scores pictures and writes a page about them. Each is opened a second time, for its thumbnail.

    Args:
        path: The page. A file of that name is replaced, when all is done.
        detector: What scores.
        source: Files, folders and globs, see `Detector.stream`.
        heatmaps: Whether pictures have heat maps, each of which takes about as long again as a score.
        fpr: See `Detector.stream`, also for what follows.
        recursive: Whether folders are searched to the bottom.
        batch_size: Views that go through the network together.
        workers: Threads that decode, and as many that make thumbnails.
        isolate: Seconds for each file, which then is opened in processes; None: in this one.
        progress: Whether a bar is shown on stderr, or what is called with the number of pictures so far.

    Returns:
        What was counted.

    Raises:
        ExplanationError: There are no heat maps of this detector.
        OutputError: The page cannot be written.
        ValueError: An argument out of its range.
    """
    if heatmaps:
        find_explainers(detector.network, detector.preprocess)
    records = detector.stream(
        source,
        fpr=fpr,
        recursive=recursive,
        batch_size=batch_size,
        workers=workers,
        isolate=isolate,
        progress=progress,
    )
    summary = Summary(Settings.of(detector, fpr, heatmaps=heatmaps))
    folder = os.path.dirname(os.path.abspath(os.fsdecode(path)))
    with contextlib.ExitStack() as stack, _own_errors(path):
        rows, failures = (stack.enter_context(tempfile.TemporaryFile(dir=folder)) for _ in range(2))
        load = stack.enter_context(Isolation(workers, isolate)).load if isolate else load_image
        maker = RowMaker(load, detector.explain if heatmaps else None, spread=summary.settings.spread)
        made = map_in_order(maker, enumerate(records, start=1), workers)
        for record, row in stack.enter_context(contextlib.closing(made)):
            summary.count(record)
            (rows if record.ok else failures).write(row.encode())
        _assemble(os.fsdecode(path), summary, rows, failures)
    return summary


def _assemble(path: str, summary: Summary, rows: BinaryIO, failures: BinaryIO) -> None:
    """Writes the page beside its place first, so that there is a whole page at any time or none."""
    part = f"{path}.part"
    try:
        with open(part, "wb") as file:
            for before, inside in ((before_rows(summary), rows), (between_rows(summary), failures)):
                file.write(before.encode())
                inside.seek(0)
                shutil.copyfileobj(inside, file)
            file.write(after_rows(summary).encode())
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(part)
        raise


@contextlib.contextmanager
def _own_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if isinstance(error, OutputError) or error.errno is None:
            raise
        raise OutputError(
            f"Cannot write {os.fsdecode(path)!r}: {error.strerror}. Free some space, or give --output in another folder."
        ) from error
