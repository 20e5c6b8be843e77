"""Makes a corpus, scores it in a process with limited memory, and says what came of every class of files."""

from __future__ import annotations

import faulthandler
import itertools
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from . import bombs, guises, headers, mutations
from .pictures import Case, valid
from .places import make_places

Maker = Callable[[np.random.Generator], Iterator[Case]]
CLASSES: dict[str, Maker] = {
    "valid, also rare": valid,
    "cut off": mutations.cut,
    "flipped bits": mutations.flipped,
    "lost block": mutations.zeroed,
    "half JPEG": mutations.half_jpeg,
    "half PNG": mutations.half_png,
    "half WebP": mutations.half_webp,
    "half GIF": mutations.half_gif,
    "half TIFF": mutations.half_tiff,
    "half BMP": mutations.half_bmp,
    "lying headers": headers.lying,
    "too many pixels": bombs.huge,
    "text and EXIF bombs": bombs.deep,
    "too many parts": bombs.many,
    "just under the limit": bombs.giant,
    "polyglots": guises.polyglots,
    "wrong suffix": guises.misnamed,
    "no picture": guises.strangers,
}
PLACES = "odd places"
_ERRORS = ("ImageTruncated", "ImageTooLarge", "UnsupportedImage", "ImageError")


def make_corpus(out: Path, *, seed: int = 0, each: int | None = None) -> list[dict[str, str]]:
    """Writes the corpus into an empty folder.

    Args:
        out: The folder; `corpus.json` in it lists the files.
        seed: The same seed and version of Pillow give the same bytes.
        each: Only so many files of every class, and none of those just under the limit; None: all.

    Returns:
        For each file `class`, `path` and `expect`, in the order in which they are scored.
    """
    out.mkdir(parents=True)
    listed: list[dict[str, str]] = []
    for number, (name, make) in enumerate(CLASSES.items()):
        if each is not None and make is bombs.giant:
            continue
        folder = out / f"{number:02d}"
        folder.mkdir()
        for case in itertools.islice(make(np.random.default_rng([seed, number])), each):
            (folder / case.name).write_bytes(case.data)
            listed.append({"class": name, "path": str(folder / case.name), "expect": case.expect})
    places = make_places(out / "places")
    listed += [{"class": PLACES, "path": path, "expect": expect} for path, expect in places]
    (out / "corpus.json").write_text(json.dumps(listed))
    return listed


def survey(folder: Path, out: Path) -> None:
    """Lists the files of a folder as a corpus of which nothing is expected, in classes by suffix.

    Args:
        folder: Any folder, such as the test pictures of another project.
        out: A new folder for the list.
    """
    (out / "places").mkdir(parents=True)
    files = sorted(path for path in folder.resolve().rglob("*") if path.is_file())
    listed = [{"class": path.suffix.lower() or "no suffix", "path": str(path), "expect": "any"} for path in files]
    (out / "corpus.json").write_text(json.dumps(listed))


def score_corpus(out: Path, gigabytes: float, hang: float) -> None:
    """Prints a JSON line for each record of a corpus; run in a process of its own, which it limits."""
    import resource

    from aigidetect import Calibration, Detector, Tiles

    from ..conftest import Toy

    limit = int(gigabytes * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    detector = Detector(Toy(), Tiles(size=32, max_tiles=4), Calibration(), name="random@1", device="cpu")
    listed = json.loads((out / "corpus.json").read_text())
    files = [item["path"] for item in listed if item["class"] != PLACES]
    last = time.perf_counter()
    # One worker, so that the file that ends the process, if one does, is known.
    records = detector.stream([[Path(path) for path in files], out / "places"], workers=1, batch_size=1)
    while True:
        faulthandler.dump_traceback_later(hang, exit=True)
        record = next(records, None)
        if record is None:
            break
        now = time.perf_counter()
        facts = {"path": record.source, "outcome": "score" if record.ok else record.error, "seconds": now - last}
        print(json.dumps(facts), flush=True)
        last = now
    faulthandler.cancel_dump_traceback_later()
    print(json.dumps({"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}), flush=True)


def judge(out: Path, *, gigabytes: float = 8, hang: float = 600) -> dict[str, Any]:
    """Scores a corpus in a process of its own and compares each record with what had to come.

    Returns:
        `rows`: a Counter of outcomes for each class; `wrong`: what should not be, as sentences; `peak`: memory in MiB;
        `slowest`: seconds and path.
    """
    listed = json.loads((out / "corpus.json").read_text())
    command = [sys.executable, "-m", "tests.hostile", "score", str(out), "--gigabytes", str(gigabytes), "--hang", str(hang)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, capture_output=True, env=environment, check=False, stdin=subprocess.DEVNULL)
    *records, end = [json.loads(line) for line in done.stdout.decode().splitlines()] or [{}]
    wrong = []
    if done.returncode or "peak" not in end:
        behind = listed[min(len(records), len(listed) - 1)]["path"]
        wrong.append(f"status {done.returncode} at or behind {behind}: {done.stderr.decode(errors='replace')[-400:]}")
    if [record["path"] for record in records] != [item["path"] for item in listed]:
        wrong.append(f"expected {len(listed)} records in the order of the files, but got {len(records)}")
    names = dict.fromkeys((*CLASSES, PLACES, *(item["class"] for item in listed)))
    rows: dict[str, Counter[str]] = {name: Counter() for name in names}
    for item, record in zip(listed, records):
        outcome, expect = record["outcome"], item["expect"]
        rows[item["class"]].update([outcome, f"had to {expect}"])
        if (expect == "score" and outcome != "score") or (expect == "refuse" and outcome == "score"):
            wrong.append(f"{item['path']}: expected {expect!r}, but got {outcome!r}")
        if outcome not in ("score", *_ERRORS):
            wrong.append(f"{item['path']}: {outcome} is no error of an image")
    slowest = max(((record["seconds"], record["path"]) for record in records), default=(0.0, ""))
    return {"rows": rows, "wrong": wrong, "peak": end.get("peak", 0) // 1024, "slowest": slowest}


def table(rows: dict[str, Counter[str]]) -> str:
    """Markdown: a row for each class of files."""
    lines = [
        "| files | number | had to be refused | had to be scored | scored | " + " | ".join(_ERRORS) + " |",
        "|---|" + "---|" * (4 + len(_ERRORS)),
    ]
    total: Counter[str] = sum(rows.values(), Counter())
    for name, row in [*((name, row) for name, row in rows.items() if row), ("**all**", total)]:
        number = sum(row[f"had to {expect}"] for expect in ("score", "refuse", "any"))
        cells = [number, row["had to refuse"], row["had to score"], row["score"], *(row[error] for error in _ERRORS)]
        lines.append(f"| {name} | " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)
