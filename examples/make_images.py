"""Makes examples/images: four public-domain photographs and their reconstructions by a generator's decoder.

Usage: python examples/make_images.py SCIKIT_IMAGE_DATA TAEF2_FOLDER
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from aigidetect.training.aligned import load_taef2, reconstruct

PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")


def main(data: str, weights: str) -> None:
    autoencoder, out = load_taef2(weights), Path(__file__).parent / "images"
    out.mkdir(exist_ok=True)
    for name in PHOTOS:
        image = Image.open(Path(data) / name).convert("RGB")
        pixels = np.asarray(image)[: image.height // 8 * 8, : image.width // 8 * 8]
        versions = {"photo": pixels, "decoded": reconstruct(autoencoder, pixels)}
        for kind, version in versions.items():
            Image.fromarray(version).save(out / f"{Path(name).stem}-{kind}.jpg", quality=90)


if __name__ == "__main__":
    main(*sys.argv[1:])
