"""What a folder may hold besides files: links, pipes, sockets, devices, odd names, deep paths."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from .pictures import pixels, save


@contextlib.contextmanager
def inside(folder: str | Path) -> Iterator[None]:
    """`contextlib.chdir`, which Python 3.10 lacks."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def make_places(root: Path) -> list[tuple[str, str]]:
    """Fills an empty folder.

    Returns:
        (path, what has to come of it) in the order in which the folder is walked. What this system or user cannot make is
        left out: root reads files without permission, and some file systems refuse names that are not UTF-8.
    """
    root.mkdir()
    picture = save(pixels(), "PNG")
    made: dict[str, str] = {}
    for name, expect, build in _files(picture):
        with contextlib.suppress(OSError, AttributeError):
            build(os.path.join(root, name))
            made[name] = expect
    walked = sorted(made, key=os.fsencode)
    return [(os.path.join(root, name), made[name]) for name in walked] + _folders(root, picture)


_NAMES = ["line\nfeed.png", "\x1b[2Jclear.png", "\u202egnp.exe.png", "-rf.png", "=1+1.png", " .png", "a'b\"c.png", "*.png",
       "[x].png", "**.png", "%00.png", "c" * 240 + ".png", "\u00e9.png", "e\u0301.png", "\udce9.png", "\U0001f600.png",
       "nul.png", "http:.png", "~.png", "$HOME.png"]  # fmt: skip


def _files(picture: bytes) -> list[tuple[str, str, Callable[[str], object]]]:
    def write(path: str) -> None:
        Path(path).write_bytes(picture)

    def locked(path: str) -> None:
        write(path)
        os.chmod(path, 0)
        if os.access(path, os.R_OK):
            os.unlink(path)
            raise PermissionError

    def sparse(path: str) -> None:
        with open(path, "wb") as file:
            file.truncate(2**40)

    def listen(path: str) -> None:
        with socket.socket(socket.AF_UNIX) as server, inside(os.path.dirname(path)):
            server.bind(os.path.basename(path))  # alone, because a socket's path may not be long

    def link(target: str) -> Callable[[str], object]:
        return lambda path: os.symlink(target, path)

    return [
        *[(name, "score", write) for name in _NAMES],
        ("pipe.png", "refuse", os.mkfifo),
        ("socket.png", "refuse", listen),
        ("zero.png", "refuse", link("/dev/zero")),
        ("random.png", "refuse", link("/dev/urandom")),
        ("terminal.png", "refuse", link("/dev/tty")),
        ("stdin.png", "refuse", link("/dev/stdin")),
        ("memory.png", "refuse", link("/proc/self/mem")),
        ("log.png", "refuse", link("/proc/kmsg")),
        ("nowhere.png", "refuse", link("missing")),
        ("self.png", "refuse", link("self.png")),
        ("ring-a.png", "refuse", link("ring-b.png")),
        ("ring-b.png", "refuse", link("ring-a.png")),
        ("locked.png", "refuse", locked),
        ("terabyte.png", "refuse", sparse),
    ]


def _folders(root: Path, picture: bytes) -> list[tuple[str, str]]:
    """Folders in folders, and links between them; each folder's pictures come once, however links lead."""
    expected = []
    # Links across, level after level: two to the power of thirty ways to the last picture.
    levels = [root / "lattice" / f"{level:02d}" for level in range(30)]
    for level, following in zip(levels, [*levels[1:], None]):
        level.mkdir(parents=True)
        if following is not None:
            for name in ("left", "right"):
                (level / name).symlink_to(following)
    (levels[-1] / "last.png").write_bytes(picture)
    expected.append((os.path.join(levels[0], *["left"] * 29, "last.png"), "score"))
    (root / "loops").mkdir()
    for name in ("a", "b", "c"):
        (root / "loops" / name).symlink_to(root / "loops")
    (root / "loops" / "once.png").write_bytes(picture)
    expected.append((str(root / "loops" / "once.png"), "score"))
    (root / "named.png").mkdir()
    (root / "named.png" / "inner.png").write_bytes(picture)
    expected.append((str(root / "named.png" / "inner.png"), "score"))
    expected.append((_very_deep(root / "path", picture), "refuse"))
    return expected


def _very_deep(root: Path, picture: bytes) -> str:
    """A picture whose path has more than 4096 bytes, made step by step; the walk ends where paths are too long."""
    root.mkdir()
    name, path = "d" * 200, str(root)
    with inside(root):
        for _ in range(25):
            os.mkdir(name)
            os.chdir(name)
        Path("deep.png").write_bytes(picture)
    while len(os.fsencode(path)) < 4096:
        path = os.path.join(path, name)
    return path
