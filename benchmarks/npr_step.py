"""Cost of the multi-scale NPR step, as ratios within one run: against interpolation pairs, and against the whole network.

Usage: python benchmarks/npr_step.py [--threads 2] [--batch 8] [--size 224]
"""

import argparse
import json
import statistics
import time

import torch
from torch.nn.functional import interpolate

from aigidetect.layers.fusion import SCALES, multi_scale_npr
from aigidetect.models.npr_resnet import VARIANTS, build


def by_interpolation(x, weights):
    fused = torch.zeros_like(x)
    for weight, scale in zip(weights, SCALES):
        down = interpolate(x, scale_factor=scale, mode="nearest", recompute_scale_factor=True)
        fused = fused + weight * (x - interpolate(down, scale_factor=1 / scale, mode="nearest", recompute_scale_factor=True))
    return fused


def seconds(function, repeats=15):
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


@torch.inference_mode()
def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=224)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    x = torch.randn(options.batch, 3, options.size, options.size)
    weights = torch.softmax(torch.ones(3), dim=0)
    network = build(**VARIANTS["npr-ms-ca"]).eval().to(memory_format=torch.channels_last)
    views = x.contiguous(memory_format=torch.channels_last)
    assert torch.equal(by_interpolation(x, weights), multi_scale_npr(x, weights))
    step = seconds(lambda: multi_scale_npr(views, weights))
    whole = seconds(lambda: network(views))
    result = {
        "threads": options.threads,
        "batch": options.batch,
        "size": options.size,
        "step_ms_per_view": step * 1e3 / options.batch,
        "network_ms_per_view": whole * 1e3 / options.batch,
        "step_share_of_network": step / whole,
        "interpolation_pairs_over_step": seconds(lambda: by_interpolation(views, weights)) / step,
    }
    print(json.dumps({key: round(value, 4) for key, value in result.items()}, indent=1))


if __name__ == "__main__":
    main()
