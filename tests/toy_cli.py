"""The command line with the toy network, as a program of its own: `python -m tests.toy_cli predict ...`.

TOY_STOP_AFTER=n has the network wait for ever instead of scoring a picture after the first n, so that a run can be ended in
the middle, wherever the machine has got to.
"""

import os
import signal
import sys
import time

from aigidetect import Calibration, Detector, Tiles, registry
from aigidetect.cli import main

from .conftest import POINTS, Toy


class Stopping(Toy):
    """A toy that scores so many pictures of one view and then waits."""

    def __init__(self, pictures):
        super().__init__()
        self.left = pictures

    def forward(self, x):
        self.left -= len(x)
        while self.left < 0:
            time.sleep(0.01)
        return super().forward(x)


def toy(name=None, **options):
    network = Stopping(int(os.environ.get("TOY_STOP_AFTER", 10**9)))
    calibration = Calibration(temperature=0.05, thresholds=POINTS)
    sha256 = os.environ.get("TOY_SHA256", "a" * 64)
    return Detector(network, Tiles(size=16, max_tiles=1), calibration, name="toy@1", weights_sha256=sha256, device="cpu")


if __name__ == "__main__":
    registry.load_detector = toy
    # A test runner in the background may have been started with SIGINT ignored, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main())
