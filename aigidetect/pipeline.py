"""What keeps a long stream going: threads that work ahead, memory that is kept, progress, and the life after a fork."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

from .errors import AigidetectError

In = TypeVar("In")
Out = TypeVar("Out")

# The process that imported this module, or the fork of it that has been made ready.
_process = os.getpid()


def check_options(batch_size: int, workers: int, on_error: str, isolate: float | None) -> None:
    """Raises ValueError for an argument of `Detector.stream` that is out of its range."""
    if batch_size < 1 or workers < 1:
        raise ValueError(f"Expected batch_size and workers of at least 1, but got {batch_size} and {workers}.")
    if on_error not in ("record", "raise"):
        raise ValueError(f"Expected on_error 'record' or 'raise', but got {on_error!r}.")
    if isolate is not None and not 0 < isolate < threading.TIMEOUT_MAX:
        raise ValueError(f"Expected isolate in seconds, more than 0, or None, but got {isolate}.")


def survive_fork(device: torch.device) -> None:
    """Makes torch work in a process that was forked after torch had been used: with one thread, on the CPU.

    The threads of OpenMP do not exist in the fork, which would wait for them for ever. Only the first call in a process has
    an effect.

    Raises:
        AigidetectError: The network is on a device that does not survive a fork.
    """
    global _process
    if os.getpid() == _process:
        return
    if device.type != "cpu":
        raise AigidetectError(
            f"This process was forked, and a detector on {str(device)!r} does not survive that; load the detector in the "
            "new process, or start processes with multiprocessing's 'spawn'."
        )
    torch.set_num_threads(1)
    _process = os.getpid()


def keep_freed_memory() -> None:
    """Has glibc keep the memory of one batch for the next, instead of giving it back and having it zeroed anew.

    glibc adapts to the largest block that was freed, up to 32 MiB: it takes smaller ones from its heap and keeps twice as
    much there. So one such block is freed, which was never written and takes no memory. Has no effect with other allocators,
    or where the user has set `MALLOC_MMAP_THRESHOLD_` or `MALLOC_TRIM_THRESHOLD_`.
    """
    torch.empty(2**25 - 2**16, dtype=torch.uint8)


def map_in_order(function: Callable[[In], Out], items: Iterable[In], workers: int) -> Generator[Out, None, None]:
    """`map` over threads that keeps the order and runs at most `2 * workers` items ahead.

    Raises:
        AigidetectError: It goes on in a fork of the process that has the threads.
    """
    pending: deque[Future[Out]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="aigidetect-decode")
    process = os.getpid()
    try:
        for item in items:
            _check_process(process)
            pending.append(pool.submit(function, item))
            if len(pending) > 2 * workers:
                yield pending.popleft().result()
        while pending:
            _check_process(process)
            yield pending.popleft().result()
    finally:
        # Reached also when the caller drops the generator half-way.
        pool.shutdown(wait=os.getpid() == process, cancel_futures=True)


def _check_process(process: int) -> None:
    if os.getpid() != process:
        raise AigidetectError("A stream cannot go on in a fork, where its threads do not exist; start it in that process.")


def show_progress(records: Iterator[Out], progress: bool | Callable[[int], None]) -> Iterator[Out]:
    """Records as they are, with a bar on stderr, or with a function that is called with their number so far."""
    if callable(progress):
        for number, record in enumerate(records, start=1):
            yield record
            progress(number)
        return
    from tqdm.auto import tqdm  # comes with huggingface_hub

    yield from tqdm(records, unit=" images")
