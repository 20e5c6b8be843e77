"""Speed and memory of detectors, against the pipeline that people write first; every ratio is within one run. Linux.

Usage: python benchmarks/fast.py [--threads 2] [--pictures 500] [--repeats 3] [--output docs/benchmarks/fast.json]

    1  folders      folder to verdicts: Detector.stream against PIL, torchvision transforms, a DataLoader of two workers and
                    the network as it was trained, in float32 and NCHW, at its best batch size (`fast_parts.plain_records`)
                    and the same stream with each backend whose package is installed
    2  network      views of 224 pixels a second, against the fastest 1x1 and 3x3 convolution of the network's own shapes,
                    and in each backend
    3  single       a picture of 1 megapixel, warm, against the network alone; the command line and the import, cold
    4  memory       peak of a stream after a tenth of its pictures and after all; of one picture of 100 megapixels
    5  npr          share of the multi-scale NPR step

With one thread, times are seconds of CPU, which other work on the machine changes little; with more they are seconds.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

import fast_parts as parts
import torch

import aigidetect
from aigidetect.layers.folding import fold_batch_norms
from aigidetect.manifest import load_manifest


def folders(options, root):
    return {kind: folder(options, root / kind, kind) for kind in options.kinds}


def folder(options, root, kind):
    parts.make_folder(root, kind, options.pictures)
    facts = [options.detector, str(root), str(options.pictures), str(options.threads)]
    backends = parts.backends()
    taken = {way: [] for way in ("plain", "ours", *backends)}
    for _ in range(options.repeats):
        for name, runs in taken.items():
            # A process for each, because allocators keep habits, of which the other would profit.
            runs.append(json.loads(parts.child([sys.executable, parts.__file__, name, *facts])["output"]))
    wall, cpu = ({n: statistics.median(run[i] for run in runs) for n, runs in taken.items()} for i in ("seconds", "cpu"))
    scores = {name: runs[-1]["scores"] for name, runs in taken.items()}
    found = {
        way: {
            "pictures_per_second": options.pictures / wall[way],
            "times_plain": wall["plain"] / wall[way],
            "cpu_ms_per_picture": cpu[way] * 1e3 / options.pictures,
            "times_plain_in_cpu": cpu["plain"] / cpu[way],
            "largest_difference": max(abs(a - b) for a, b in zip(scores["plain"], scores[way], strict=True)),
        }
        for way in ("ours", *backends)
    }
    return {
        "pictures": options.pictures,
        "plain_batch_size": taken["plain"][-1]["batch_size"],
        "plain_pictures_per_second": options.pictures / wall["plain"],
        "plain_cpu_ms_per_picture": cpu["plain"] * 1e3 / options.pictures,
        **found.pop("ours"),
        "backends": found,
    }


@torch.inference_mode()
def network(detector, options):
    batches = options.batches
    views = {n: torch.randn(n, 3, 224, 224) for n in batches}
    last = {n: x.contiguous(memory_format=torch.channels_last) for n, x in views.items()}
    plain = parts.plain_network(options.detector)
    unfolded = parts.plain_network(options.detector).to(memory_format=torch.channels_last)
    folded = fold_batch_norms(detector.network)
    runs = {
        "nchw": lambda n: plain(views[n]),
        "channels_last": lambda n: unfolded(last[n]),
        "folded": lambda n: folded(last[n]),
        **{name: lambda n, run=engine: run(views[n]) for name, engine in parts.engines(detector).items()},
    }
    best = {(name, n): n / seconds for (name, n), seconds in parts.in_turn(runs, batches, options.repeats).items()}
    rows = {name: {str(n): round(best[name, n], 2) for n in batches} for name in runs}
    with torch.autocast("cpu", torch.bfloat16):
        low = parts.in_turn({"bf16": runs["folded"]}, batches, options.repeats)
    rows["folded_bfloat16"] = {str(n): round(n / seconds, 2) for (_, n), seconds in low.items()}
    ceiling, rates = parts.convolution_ceiling(folded, options.repeats)
    fastest = max(rows["folded"].values())
    return {
        "views_per_second_by_batch": rows,
        "convolution_gflops": rates,
        "ceiling": ceiling,
        "share_of_ceiling": fastest / ceiling if ceiling else None,
    }


@torch.inference_mode()
def single(detector, options, root):
    picture = parts.make_picture(root / "one.jpg", 1155, 866, 0)
    logits = detector.predict(picture).view_logits
    size = detector.preprocess.size
    folded = fold_batch_norms(detector.network)
    views = torch.randn(len(logits), 3, size, size).contiguous(memory_format=torch.channels_last)
    runs = {"predict": lambda n: detector.predict(picture), "network": lambda n: folded(views)}
    times = parts.in_turn(runs, (1,), 4 * options.repeats, of=statistics.median)
    cold = [parts.child([sys.executable, "-m", "aigidetect", "predict", "--detector", options.detector, str(picture)])]
    cold += [parts.child(cold[0]["command"]) for _ in range(options.repeats - 1)]
    imports = {"torch": [], "aigidetect": []}
    for _ in range(options.repeats):
        for name, taken in imports.items():
            taken.append(parts.child([sys.executable, "-c", f"import {name}"])["cpu_seconds"])
    fastest = {name: min(taken) for name, taken in imports.items()}
    return {
        "views": len(logits),
        "predict_ms": times["predict", 1] * 1e3,
        "network_ms": times["network", 1] * 1e3,
        "times_network": times["predict", 1] / times["network", 1],
        "cold_seconds": min(run["seconds"] for run in cold),
        "cold_cpu_seconds": min(run["cpu_seconds"] for run in cold),
        "cold_peak_mib": max(run["peak_mib"] for run in cold),
        "import_cpu_seconds": fastest["aigidetect"],
        "import_torch_cpu_seconds": fastest["torch"],
        "import_times_torch": fastest["aigidetect"] / fastest["torch"],
    }


def memory(options, root):
    script = [sys.executable, parts.__file__, "memory", options.detector]
    stream = parts.child([*script, str(root / "small"), str(options.stream)])
    first, whole = json.loads(stream["output"])
    large = parts.make_picture(root / "large.jpg", 12500, 8000, 0) if options.stream >= 1000 else root / "one.jpg"
    one = parts.child([*script, str(large), "1"])
    start, peak = json.loads(one["output"])
    return {
        "pictures": options.stream,
        "peak_mib_first_tenth": first,
        "peak_mib": whole,
        "ratio": whole / first,
        "large_picture": large.name,
        "mib_before_large_picture": start,
        "peak_mib_large_picture": peak,
    }


@torch.inference_mode()
def npr(detector, options):
    folded = fold_batch_norms(detector.network)
    step = getattr(folded, "npr", None)
    if step is None:
        return {}
    size = detector.preprocess.size
    views = torch.randn(8, 3, size, size).contiguous(memory_format=torch.channels_last)
    runs = {"step": lambda n: step(views), "network": lambda n: folded(views)}
    times = parts.in_turn(runs, (8,), 2 * options.repeats)
    return {"share_of_network": times["step", 8] / times["network", 8]}


def rounded(value):
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    return float(f"{value:.3g}") if isinstance(value, float) else value


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detector", default="npr-ms-ca")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pictures", type=int, default=500)
    parser.add_argument("--kinds", nargs="+", default=["mixed", "small"], help="of folders")
    parser.add_argument("--stream", type=int, default=5000, help="pictures of the run whose memory is read")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 8, 16])
    parser.add_argument("--points", nargs="+", default=["folders", "network", "single", "memory", "npr"])
    parser.add_argument("--output", type=Path, help="a JSON file; points that are not measured now are kept in it")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    detector = aigidetect.load_detector(options.detector, device="cpu", local_files_only=True)
    options.detector = detector.name
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        parts.make_folder(root / "small", "small", 2)
        parts.make_picture(root / "one.jpg", 1155, 866, 0)
        measure = {
            "folders": lambda: folders(options, root),
            "network": lambda: network(detector, options),
            "single": lambda: single(detector, options, root),
            "memory": lambda: memory(options, root),
            "npr": lambda: npr(detector, options),
        }
        found = {}
        for point in options.points:
            found[point] = rounded(measure[point]())
            print(json.dumps({point: found[point]}, indent=1), file=sys.stderr, flush=True)
    parts.publish(found, detector.name, load_manifest().get(detector.name).parameters, options)


if __name__ == "__main__":
    main()
