"""Scores a folder and prints the pictures most likely to be generated first.

Usage: python examples/score_folder.py [FOLDER]
"""

import sys
from pathlib import Path

import aigidetect


def main(folder: str) -> None:
    detector = aigidetect.load_detector("npr-ms-ca")
    records = list(detector.stream(folder))
    for record in sorted((r for r in records if r.ok), key=lambda r: -r.probability):
        print(f"{record.probability:.3f}  {record.verdict:<7} {record.source}")
    for record in records:
        if not record.ok:
            print(f"failed         {record.source}: {record.message}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else str(Path(__file__).parent / "images"))
