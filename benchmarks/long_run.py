"""Memory of a long run: `aigidetect predict` over a folder of very many pictures, with a tiny network. Linux only.

Usage: python benchmarks/long_run.py [--entries 100000] [--folders 100] [--isolate SECONDS]

The pictures are hard links to a few files of 24x24 pixels, spread evenly over the folders. A process of its own scores them
into a file; its resident memory (VmRSS) and its peak (VmHWM) are read while that file grows. Printed are the peak up to the
first tenth of the pictures, the peak up to the last, and their ratio: 1 means that the length of the run does not matter.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image


def make_folder(root, entries, folders):
    """Hard links, at most `limit` to one file: file systems allow only so many."""
    limit, kept = 10_000, root / ".originals"
    kept.mkdir()
    rng = np.random.default_rng(0)
    for i in range(entries):
        original = kept / f"{i % 8}-{i // (8 * limit)}.png"
        if not original.exists():
            Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(original)
        folder = root / f"{i * folders // entries:05}"
        folder.mkdir(exist_ok=True)
        os.link(original, folder / f"{i:08}.png")


def memory(pid):
    """VmRSS and VmHWM in MiB; None once the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return None
    facts = {key: value.split() for key, _, value in (line.partition(":") for line in lines)}
    return tuple(int(facts[key][0]) / 1024 for key in ("VmRSS", "VmHWM")) if "VmRSS" in facts else None


def watch(process, out, entries):
    """(lines, VmRSS, VmHWM) at each hundredth, up to the last line: what torch takes when it ends is not counted."""
    samples, lines = [(0, 0.0, 0.0)], 0
    with out.open("rb") as file:
        while lines < entries and process.poll() is None:
            # Before the lines are counted, so that the figures never belong to a later state than they say.
            found = memory(process.pid)
            lines += file.read().count(b"\n")
            if found and lines * 100 // entries > samples[-1][0] * 100 // entries:
                samples.append((lines, *found))
            time.sleep(0.02)
    process.wait()
    return samples


def score(arguments):
    """The watched process: the command line, with a network of eight channels in place of published weights."""
    import torch
    from torch import nn

    from aigidetect import Calibration, Detector, Tiles, cli, registry

    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 1))
    tiny = Detector(network, Tiles(size=16, max_tiles=1), Calibration(), name="tiny", device="cpu")
    registry.load_detector = lambda name, **options: tiny
    return cli.main(["predict", "--batch-size", "64", *arguments])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--folders", type=int, default=100)
    parser.add_argument("--isolate", metavar="SECONDS", help="decode in processes, whose memory is not counted")
    options = parser.parse_args()
    more = ["--isolate", options.isolate] if options.isolate else []
    with tempfile.TemporaryDirectory() as root:
        make_folder(Path(root), options.entries, options.folders)
        out = Path(root) / "out.jsonl"
        out.touch()
        start = time.monotonic()
        command = [sys.executable, __file__, "--score", root, "--output", str(out), *more]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            samples = watch(process, out, options.entries)
        seconds = time.monotonic() - start
    first = next(peak for lines, _, peak in samples if lines >= options.entries / 10)
    whole = samples[-1][2]
    tenths = [next(rss for lines, rss, _ in samples if lines >= options.entries * i / 10) for i in range(1, 11)]
    figures = {
        "entries": samples[-1][0],
        "folders": options.folders,
        "status": process.returncode,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]), 1),
        "peak_mib_first_tenth": round(first, 1),
        "peak_mib": round(whole, 1),
        "ratio": round(whole / first, 4),
        "rss_mib_at_tenths": [round(rss, 1) for rss in tenths],
    }
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    sys.exit(score(sys.argv[2:]) if sys.argv[1:2] == ["--score"] else main())
