"""The file that takes the lines of a run, whatever ends it.

    whole lines   one call of the operating system writes one line, so that a killed process leaves a file of whole lines
    torn lines    what a full disk or a power cut leaves of a line is cut away, at the error or when the run is resumed
    fsync         every `SYNC_SECONDS` and at the end: a power cut loses at most the records since; a killed process, none
    one writer    the file is locked, where the system can, so that two runs never mix their lines

To resume is to compare: each line of the file has to be what this run would have written there. So nothing is lost, doubled
or mixed, and what is kept in memory does not grow with the file.
"""

from __future__ import annotations

import json
import os
import stat
import sys
import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any

from .errors import OutputError, ResumeError
from .images import describe_source

if sys.platform != "win32":
    import fcntl

SYNC_SECONDS = 10.0

_START = b'{"source": "'  # of every line, since a record's first field is its source
_LONGEST = 2**24


class StandardOutput:
    """Lines to stdout, each at once."""

    def __enter__(self) -> StandardOutput:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def write(self, text: str) -> None:
        """Writes lines.

        Raises:
            BrokenPipeError: The reader has closed the pipe.
            OutputError: They cannot be written, for instance because the disk is full.
        """
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise _cannot_write("stdout", error) from error


class RecordFile:
    """A file of whole lines. A context manager.

    Args:
        path: Where; created if there is none.
        resume: Keep what is there, for `skip_done`; else the file starts empty.

    Raises:
        OutputError: On entry, it cannot be opened, or another run is writing to it.
    """

    def __init__(self, path: str | os.PathLike[str], *, resume: bool = False) -> None:
        self.path = os.fsdecode(path)
        self._resume = resume
        self._end = 0  # of the whole lines, in bytes
        self._ours = not resume  # whether what lies after them may be cut away
        self._synced = time.monotonic()

    def __enter__(self) -> RecordFile:
        try:
            mode = os.O_RDWR if self._resume else os.O_WRONLY
            self._file = os.open(self.path, mode | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
            self._regular = stat.S_ISREG(os.fstat(self._file).st_mode)
        except OSError as error:
            raise _cannot_write(self.path, error) from error
        try:
            self._lock()
            self._cut()
        except BaseException:
            os.close(self._file)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._cut()
            self._sync()
        except OutputError:
            if kind is None:
                raise
        finally:
            os.close(self._file)

    def write(self, text: str) -> None:
        """Writes lines, whole or not at all.

        Raises:
            BrokenPipeError: It is a pipe whose reader has gone.
            OutputError: They cannot be written, for instance because the disk is full.
        """
        rest = memoryview(text.encode("utf-8", "surrogateescape"))
        length = len(rest)
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except BrokenPipeError:
            raise
        except OSError as error:
            self._cut()
            raise _cannot_write(self.path, error) from error
        self._end += length
        if time.monotonic() - self._synced > SYNC_SECONDS:
            self._sync()

    def skip_done(self, inputs: Iterator[object], settings: Mapping[str, object]) -> tuple[int, int]:
        """Takes the inputs that have a line already, compares them with it, and cuts a torn last line away.

        Args:
            inputs: Those of the whole run, in order; afterwards only those without a line are left.
            settings: What each record says of the run: `detector`, `weights_sha256`, `threshold` and `fpr`, and whether
                `stability` and `provenance` were asked for.

        Returns:
            Numbers of Predictions and of Failures in the file.

        Raises:
            ResumeError: A line is not what this run would have written there; the file is left as it is.
            OutputError: The file cannot be read.
        """
        counts = [0, 0]
        try:
            with open(self._file, "rb", closefd=False) as file:
                while content := file.readline(_LONGEST):
                    where = f"{self.path!r}, line {sum(counts) + 1}"
                    if not content.endswith(b"\n") and _torn(content) and not file.read(1):
                        break
                    record = _read(content, where)
                    _compare(record, settings, inputs, where)
                    counts[0 if record["ok"] else 1] += 1
                    self._end += len(content)
            self._ours = True
            self._cut()
            os.lseek(self._file, self._end, os.SEEK_SET)
        except OSError as error:
            raise _cannot_write(self.path, error) from error
        return counts[0], counts[1]

    def _lock(self) -> None:
        if sys.platform == "win32" or not self._regular:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutputError(f"Another run is writing to {self.path!r}; wait for its end, or write elsewhere.") from error
        except OSError:
            pass  # a file system without locks

    def _cut(self) -> None:
        try:
            if self._regular and self._ours:
                os.ftruncate(self._file, self._end)
        except OSError as error:
            raise _cannot_write(self.path, error) from error

    def _sync(self) -> None:
        try:
            if self._regular:
                os.fsync(self._file)
        except OSError as error:
            raise _cannot_write(self.path, error) from error
        self._synced = time.monotonic()


def _torn(content: bytes) -> bool:
    """Whether this can be the first part of a line of ours, or the zeros that a power cut leaves of one."""
    start = content[: len(_START)]
    return start == _START[: len(start)] or not content.strip(b"\0")


def _read(content: bytes, where: str) -> dict[str, Any]:
    try:
        record = json.loads(content)
    except (ValueError, RecursionError):
        record = None
    if not (isinstance(record, dict) and isinstance(record.get("ok"), bool) and content.startswith(_START)):
        raise ResumeError(f"{where}: not a record of aigidetect; give the --output of an earlier run, or a new file.")
    return record


def _compare(record: dict[str, Any], settings: Mapping[str, object], inputs: Iterator[object], where: str) -> None:
    for key, expected in settings.items():
        if record["ok"] is False and key in ("threshold", "fpr", "stability"):
            continue
        # Of these two, only whether they were asked for is a setting.
        found = record.get(key) is not None if key in ("stability", "provenance") else record.get(key, "unknown")
        if found != expected:
            raise ResumeError(
                f"{where}: made with {key} {found}, but this run has {expected}; use the same weights and "
                "settings, or another --output."
            )
    for item in inputs:
        if (source := describe_source(item)) == record["source"]:
            return
        raise ResumeError(
            f"{where}: about {record['source']!r}, but there this run has {source!r}. The inputs are others, or in another "
            "order; use another --output."
        )
    raise ResumeError(f"{where}: this run has no more inputs; give those of the earlier run, or use another --output.")


def _cannot_write(name: str, error: OSError) -> OutputError:
    return OutputError(
        f"Cannot write to {name!r}: {error.strerror or error}. Free some space, or write elsewhere; with --output and "
        "--resume, the same command goes on from the last whole line."
    )
