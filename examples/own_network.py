"""Builds a Detector from a network of your own: no registry, no manifest, no weights file."""

from pathlib import Path

import torch
from torch import nn

import aigidetect


class HighFrequencies(nn.Module):
    """A toy: the less high-frequency energy a view has, the higher its logit."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        energy = (x[..., 1:] - x[..., :-1]).abs().mean(dim=(1, 2, 3))
        return (0.2 - energy)[:, None] * 10


def main() -> None:
    preprocess = aigidetect.Tiles(size=128, max_tiles=4)
    detector = aigidetect.Detector(HighFrequencies(), preprocess, aigidetect.Calibration(), name="toy")
    for record in detector.stream(Path(__file__).parent / "images"):
        print(f"{record.probability:.3f}  {Path(record.source).name}")


if __name__ == "__main__":
    main()
