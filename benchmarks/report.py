"""Size and memory of a report: `aigidetect.report.write_report` over many copies of the example pictures. Linux and macOS.

Usage: python benchmarks/report.py [--pictures 5000] [--heatmaps]

The pictures are links to those of `examples/images`. A network that costs next to nothing scores them, since neither size
nor memory depends on it. A process of its own writes the page; printed are the size of the page and the peak of its resident
memory, for all pictures and as a multiple of that for a tenth: 1 means that the number of pictures does not matter.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from aigidetect import Calibration, Detector, Tiles
from aigidetect.report import write_report

EXAMPLES = Path(__file__).parent.parent / "examples" / "images"


class Brightness(torch.nn.Module):
    """Bright is "AI-generated"."""

    def evidence(self, x):
        return torch.nn.functional.avg_pool2d(x.mean(dim=1), 16)

    def forward(self, x):
        return self.evidence(x).mean(dim=(1, 2))[:, None]


def write(folder, page, heatmaps):
    torch.set_num_threads(1)
    detector = Detector(Brightness(), Tiles(size=128, max_tiles=4), Calibration(), name="brightness", device="cpu")
    write_report(page, detector, folder, heatmaps=heatmaps)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"bytes": os.path.getsize(page), "peak": peak * (1 if sys.platform == "darwin" else 1024)}))


def measure(pictures, heatmaps):
    originals = sorted(EXAMPLES.glob("*.jpg"))
    with tempfile.TemporaryDirectory() as root:
        (folder := Path(root) / "pictures").mkdir()
        for i in range(pictures):
            os.symlink(originals[i % len(originals)], folder / f"{i:06}.jpg")
        command = [sys.executable, __file__, "--write", str(folder), str(Path(root) / "page.html")]
        command += ["--heatmaps"] if heatmaps else []
        return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=5000)
    parser.add_argument("--heatmaps", action="store_true")
    parser.add_argument("--write", nargs=2, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        write(*options.write, options.heatmaps)
        return
    few, all_ = (measure(n, options.heatmaps) for n in (max(1, options.pictures // 10), options.pictures))
    found = {
        "pictures": options.pictures,
        "heatmaps": options.heatmaps,
        "megabytes": round(all_["bytes"] / 1e6, 1),
        "kilobytes_per_picture": round(all_["bytes"] / 1e3 / options.pictures, 1),
        "peak_mib": round(all_["peak"] / 2**20),
        "peak_times_that_of_a_tenth": round(all_["peak"] / few["peak"], 2),
    }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
