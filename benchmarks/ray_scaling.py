"""Ray Data on this machine against one process with one thread; every ratio is within one run.

Usage: python benchmarks/ray_scaling.py [--pictures 400] [--actors 1 2] [--output docs/benchmarks/ray.json]

Needs pip install 'aigidetect[ray]'. What a run costs before its first picture and after its last is measured by a run of few
pictures and taken off: rates are those of the pictures in between. `load` is that of the machine after each way: on a busy
machine, or one whose load changes, the ratios say nothing.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
os.environ.setdefault("OMP_NUM_THREADS", "1")

import fast_parts as parts
import ray
import torch

import aigidetect
from aigidetect.integrations.ray import score_files

FEW = 16


def one_process(detector, paths):
    start = time.perf_counter()
    records = list(detector.stream(paths))
    return time.perf_counter() - start, {record.source: record.logit for record in records}


def with_ray(name, paths, output, actors):
    start = time.perf_counter()
    records = score_files(paths, str(output), detector=name, actors=(actors, actors))
    seconds = time.perf_counter() - start
    return seconds, {row["source"]: row["logit"] for row in records.select_columns(["source", "logit"]).take_all()}


def measure(options, root):
    paths = [str(path) for path in parts.make_folder(root / "pictures", "small", options.pictures)]
    detector = aigidetect.load_detector(options.detector, device="cpu", local_files_only=True)
    one_process(detector, paths[:FEW])
    ways = {"one_process": lambda some, _: one_process(detector, some)}
    for n in options.actors:
        ways[f"ray_{n}"] = lambda some, place, n=n: with_ray(detector.name, some, place, n)
    found, scores = {}, {}
    for name, way in ways.items():
        few, _ = way(paths[:FEW], root / f"{name}-few")
        whole, scores[name] = way(paths, root / f"{name}-all")
        rate = (len(paths) - FEW) / (whole - few)
        found[name] = {"pictures_per_second": rate, "seconds": whole, "seconds_of_few": few, "load": os.getloadavg()[0]}
        found[name]["times_one_process"] = rate / found["one_process"]["pictures_per_second"]
        print(json.dumps({name: found[name]}), flush=True)
    expected = scores["one_process"]
    assert all(score.keys() == expected.keys() for score in scores.values()), "a picture has no record"
    found["largest_difference_of_logits"] = max(abs(s[key] - expected[key]) for s in scores.values() for key in expected)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detector", default="npr-ms-ca")
    parser.add_argument("--pictures", type=int, default=400)
    parser.add_argument("--actors", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--output", type=Path, help="a JSON file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    ray.init(num_cpus=max(options.actors), include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(options, Path(folder))
    ray.shutdown()
    machine = {"torch": torch.__version__.split("+")[0], "ray": ray.__version__, "cores": len(os.sched_getaffinity(0))}
    facts = {"detector": options.detector, "pictures": options.pictures, "few": FEW, **found}
    facts["machine"] = {**machine, "load_before": load}
    text = json.dumps(facts, indent=1) + "\n"
    if options.output:
        options.output.write_text(text)
    print(text, end="")


if __name__ == "__main__":
    main()
