"""Decoding in processes of their own: a decoder that dies or hangs costs one record and not the run.

Each child is a fresh interpreter that answers one request at a time over pipes. What it sends is read as JSON facts and raw
pixels and is never unpickled, because a child decodes files of strangers. A child that dies, or that is killed at the time
limit, is replaced.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import queue
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from . import errors
from .errors import AigidetectError, DecoderCrashed, DecoderTimeout, ImageError
from .images import DEFAULT_MAX_PIXELS, load_image
from .prediction import ImageInfo

_LENGTHS = struct.Struct(">QQ")  # of the facts and of the body, in bytes
_MAX_FACTS = 2**20
_START_SECONDS = 120.0
# Without -I, a file json.py in the working folder would be imported.
_CHILD = "import sys; sys.path[:] = sys.argv[1:]; from aigidetect.isolation import serve; serve()"


class Isolation:
    """Loads pictures like `aigidetect.images.load_image`, but decodes paths and bytes in child processes.

    What is in memory as pixels already, and file objects, are loaded in this process. A context manager: the children
    start on entry and end on exit. `load` may be called by as many threads as there are children.

    Args:
        children: Number of processes.
        seconds: Longest time for one picture, from the request to the last pixel.
        command: What starts a child, which has to run `serve`; None means this interpreter.

    Raises:
        AigidetectError: On entry, a child does not start.
    """

    def __init__(self, children: int, seconds: float, command: Sequence[str] | None = None) -> None:
        self.seconds = seconds
        self._command = list(command or _command())
        self._idle: queue.SimpleQueue[_Child] = queue.SimpleQueue()
        self._children = children
        self._process = os.getpid()

    def __enter__(self) -> Isolation:
        started: list[_Child] = []
        try:
            # All are started before the first is waited for: importing torch takes seconds.
            for _ in range(self._children):
                started.append(_Child(self._command))
            for child in started:
                child.await_start()
        except BaseException:
            for child in started:
                child.end()
            raise
        for child in started:
            self._idle.put(child)
        return self

    def __exit__(self, *_: object) -> None:
        if os.getpid() != self._process:
            return  # a fork of the process whose children these are
        with contextlib.suppress(queue.Empty):
            while True:
                self._idle.get_nowait().end()

    def load(self, source: object) -> tuple[Tensor, ImageInfo]:
        """One input as pixels; see `aigidetect.images.load_image`.

        Returns:
            (3, H, W) uint8 RGB, contiguous, and what decoding found and did.

        Raises:
            DecoderCrashed: The child died over this input.
            DecoderTimeout: It took longer than `seconds`.
            ImageError: See `load_image`.
            TypeError: See `load_image`.
        """
        if isinstance(source, (str, os.PathLike)):
            facts, body = {"path": os.fsdecode(source)}, b""
        elif isinstance(source, (bytes, bytearray, memoryview)):
            facts, body = {}, bytes(source)
        else:
            return load_image(source)
        child = self._idle.get()
        try:
            return _picture(*child.ask({**facts, "seconds": self.seconds}, body, self.seconds))
        finally:
            self._idle.put(child if child.alive() else child.replaced())


class _Child:
    """One decoding process."""

    def __init__(self, command: list[str]) -> None:
        self.command = command
        self._expired = self._started = False
        # A session of its own, because Ctrl-C is for the parent, which ends its children in order.
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=os.name == "posix"
        )

    def alive(self) -> bool:
        return not self._expired and self._process.poll() is None

    def replaced(self) -> _Child:
        self.end()
        return _Child(self.command)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            # Closing flushes, into a pipe that nobody reads any more.
            with contextlib.suppress(OSError):
                assert pipe is not None
                pipe.close()

    def await_start(self) -> None:
        try:
            self._exchange(None, b"", _START_SECONDS)
        except (DecoderCrashed, DecoderTimeout) as error:
            raise AigidetectError(
                f"A process for decoding does not start; its messages are above. Leave isolation out. ({error})"
            ) from error
        self._started = True

    def ask(self, facts: dict[str, Any], body: bytes, seconds: float) -> tuple[dict[str, Any], bytearray]:
        if not self._started:
            self.await_start()
        return self._exchange(facts, body, seconds)

    def _exchange(self, facts: dict[str, Any] | None, body: bytes, seconds: float) -> tuple[dict[str, Any], bytearray]:
        # A timer and not a poll, which Windows does not have for pipes.
        timer = threading.Timer(seconds, self._expire)
        timer.daemon = True
        timer.start()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            if facts is not None:
                _send(self._process.stdin, facts, body)
            return _receive(self._process.stdout)
        except (OSError, EOFError, ValueError) as error:
            self._process.kill()
            status = self._process.wait()
            if self._expired:
                raise DecoderTimeout(
                    f"Decoding took longer than {seconds:g} seconds and was stopped; allow more, or leave the file out."
                ) from error
            raise DecoderCrashed(f"The decoding process died ({_ending(status)}); leave the file out.") from error
        finally:
            timer.cancel()
            timer.join()  # so that an answer in the last moment never has the next file killed

    def _expire(self) -> None:
        self._expired = True
        self._process.kill()


def serve() -> None:
    """What a child runs: answers requests until its input ends."""
    # Libraries that print must not print into the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    torch.set_num_threads(1)
    _send(answers, {}, b"")
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            facts, body = _receive(sys.stdin.buffer)
            _set_alarm(float(facts["seconds"]) + 10)
            _send(answers, *_answer(facts["path"] if "path" in facts else bytes(body)))
            _set_alarm(0)


def _set_alarm(seconds: float) -> None:
    """Ends this process later on, by a signal: if the parent was killed, nobody else ends a decoder that hangs."""
    if sys.platform != "win32":
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _answer(source: str | bytes) -> tuple[dict[str, Any], bytes | memoryview]:
    try:
        pixels, info = load_image(source)
    except ImageError as error:
        return {"error": type(error).__name__, "message": str(error)}, b""
    return {"image": dataclasses.asdict(info)}, pixels.numpy().data.cast("B")


def _picture(facts: dict[str, Any], body: bytearray) -> tuple[Tensor, ImageInfo]:
    if "error" in facts:
        kind = getattr(errors, str(facts["error"]), ImageError)
        raise (kind if isinstance(kind, type) and issubclass(kind, ImageError) else ImageError)(facts["message"])
    info = ImageInfo(**{**facts["image"], "notes": tuple(facts["image"]["notes"])})
    pixels = np.frombuffer(body, np.uint8).reshape(3, info.height, info.width)
    return torch.from_numpy(pixels), info


def _send(pipe: IO[bytes], facts: dict[str, Any], body: bytes | memoryview) -> None:
    head = json.dumps(facts).encode()
    pipe.write(_LENGTHS.pack(len(head), len(body)) + head)
    pipe.write(body)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> tuple[dict[str, Any], bytearray]:
    head, body = _LENGTHS.unpack(_exactly(pipe, _LENGTHS.size))
    if head > _MAX_FACTS or body > 3 * DEFAULT_MAX_PIXELS:
        raise ValueError(f"expected an answer of a decoding process, but got lengths of {head} and {body}")
    return json.loads(_exactly(pipe, head)), _exactly(pipe, body)


def _exactly(pipe: IO[bytes], length: int) -> bytearray:
    content = bytearray(length)
    view = memoryview(content)
    while view:
        if not (got := pipe.readinto(view)):  # type: ignore[attr-defined]
            raise EOFError
        view = view[got:]
    return content


def _ending(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"signal {signal.Signals(-status).name}"
    except ValueError:
        return f"signal {-status}"


def _command() -> list[str]:
    mode = ["-X", "utf8"] if sys.flags.utf8_mode else []
    return [sys.executable, "-I", *mode, "-c", _CHILD, *(path for path in sys.path if isinstance(path, str))]
