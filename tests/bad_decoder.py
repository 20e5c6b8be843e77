"""A decoding process whose decoder dies or hangs over certain files: `python -m tests.bad_decoder`."""

import os
import sys
import time
from pathlib import Path

from aigidetect import isolation

real = isolation.load_image


def load_image(source):
    name = Path(source).stem if isinstance(source, str) else ""
    if name == "dies":
        os._exit(7)
    if name == "hangs":
        time.sleep(600)
    print("a library that prints", flush=True)
    return real(source)


if __name__ == "__main__":
    isolation.load_image = load_image
    sys.exit(isolation.serve())
