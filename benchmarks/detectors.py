"""Cost of each bundled detector: milliseconds a picture from file to verdict, as ratios within one run, and size on disk.

Usage: python benchmarks/detectors.py [--threads 2] [--repeats 9] [--picture examples/images/coffee-photo.jpg]
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

import aigidetect
from aigidetect.manifest import load_manifest


def milliseconds(detector, picture):
    start = time.perf_counter()
    detector.predict(picture)
    return (time.perf_counter() - start) * 1e3


def megabytes(entry):
    files = [entry.weights, entry.backbone] if entry.backbone else [entry.weights]
    return round(sum(file.bytes for file in files) / 1e6, 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--picture", type=Path, default=Path(__file__).parent.parent / "examples/images/coffee-photo.jpg")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    entries = [entry for entry in load_manifest() if entry.weights and entry.weights.file]
    detectors = {e.full_name: aigidetect.load_detector(e.full_name, device="cpu", local_files_only=True) for e in entries}
    views = {name: len(detector.predict(options.picture).view_logits) for name, detector in detectors.items()}
    # In turn, so that whatever else the machine does falls on all of them alike.
    times = {name: [] for name in detectors}
    for _ in range(options.repeats):
        for name, detector in detectors.items():
            times[name].append(milliseconds(detector, options.picture))
    median = {name: statistics.median(values) for name, values in times.items()}
    base = median.get("npr-ms-ca@1") or min(median.values())
    rows = {
        e.full_name: {
            "views": views[e.full_name],
            "ms_per_picture": round(median[e.full_name], 1),
            "times_npr_ms_ca": round(median[e.full_name] / base, 2),
            "megabytes": megabytes(e),
            "parameters": e.parameters,
        }
        for e in entries
    }
    print(json.dumps({"threads": options.threads, "picture": options.picture.name, "detectors": rows}, indent=1))


if __name__ == "__main__":
    main()
