"""Parts of `fast.py`: pictures, the plain pipeline to compare with, clocks, child processes and the convolution ceiling.

Run as a script, it is the child that is measured:
`python benchmarks/fast_parts.py memory|plain|ours|onnx|openvino DETECTOR FOLDER PICTURES [THREADS]`.
"""

import collections
import contextlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

import aigidetect
from aigidetect.backends import use_backend
from aigidetect.calibration import sigmoid
from aigidetect.errors import ExportError
from aigidetect.layers.low_rank import merge_low_rank
from aigidetect.layers.quantised import dequantise
from aigidetect.manifest import load_manifest
from aigidetect.preprocess import pad_to
from aigidetect.registry import build_network, entry_calibration, entry_preprocess
from aigidetect.state import load_into
from aigidetect.weights import load_state_dict

EXAMPLES = Path(__file__).parent.parent / "examples" / "images"
Facts = collections.namedtuple("Facts", "preprocess calibration")  # all that the plain way takes from the detector
MEGAPIXELS = (0.2, 0.4, 0.7, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0, 12.0)  # of the mixed folder


def make_picture(path, width, height, seed):
    """One of the examples, enlarged, with the noise of a sensor, so that its file has a usual size."""
    examples = sorted(EXAMPLES.glob("*photo*"))
    with Image.open(examples[seed % len(examples)]) as image:
        large = np.asarray(image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC))
    noise = np.random.default_rng(seed).integers(-6, 7, (256, width, 3), dtype=np.int16)
    rows = [(large[y : y + 256] + noise[: len(large) - y]).clip(0, 255).astype(np.uint8) for y in range(0, height, 256)]
    options = {"quality": 88} if path.suffix == ".jpg" else {"compress_level": 3}
    Image.fromarray(np.concatenate(rows)).save(path, **options)
    return path


def make_folder(root, kind, count):
    """Hard links to at most 24 pictures, two thirds of them JPEG; returns their paths in order."""
    root.mkdir(exist_ok=True)
    originals = root / ".originals"
    originals.mkdir(exist_ok=True)
    paths = []
    for i in range(count):
        n = i % 24
        original = originals / f"{n}.{'png' if n % 3 == 2 else 'jpg'}"
        if not original.exists():
            # Coprime to 12, so that PNG and JPEG come in all sizes.
            pixels = 1e6 * MEGAPIXELS[(5 * n + n // 12) % 12] if kind == "mixed" else 500 * 375
            width = round((pixels * 4 / 3) ** 0.5)
            make_picture(original, width, round(width * 3 / 4), n)
        path = root / f"{i:05}{original.suffix}"
        if not path.exists():
            os.link(original, path)
        paths.append(path)
    return paths


class PlainViews(Dataset):
    """Path -> the views of the detector's tiles, as torchvision's transforms make them: the whole picture is normalised."""

    def __init__(self, paths, tiles):
        self.paths, self.tiles = paths, tiles
        self.transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(tiles.mean, tiles.std)])

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, i):
        with Image.open(self.paths[i]) as image:
            pixels = pad_to(self.transform(image.convert("RGB")), self.tiles.size)
        size = self.tiles.size
        return torch.stack([pixels[:, y : y + size, x : x + size] for y, x in self.tiles.corners(*pixels.shape[-2:])])


def plain_network(name):
    """The detector's network as it was trained, without anything that was done for speed."""
    entry = load_manifest().get(name)
    state, _ = load_state_dict(entry, local_files_only=True)
    network = build_network(entry)
    load_into(network, merge_low_rank(dequantise(state)), origin=name)
    return network.eval()


@torch.inference_mode()
def plain_records(network, detector, paths, batch_size, loaders):
    """Probabilities of the pictures, about `batch_size` views at a time through the network."""
    pictures = max(1, batch_size // detector.preprocess.max_tiles)
    loader = DataLoader(PlainViews(paths, detector.preprocess), pictures, num_workers=loaders, collate_fn=list)
    probabilities = []
    for stacks in loader:
        logits = network(torch.cat(stacks)).flatten().split([len(stack) for stack in stacks])
        probabilities += [sigmoid(detector.calibration.logit(tuple(row.tolist()))) for row in logits]
    return probabilities


def cpu_seconds():
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def timed(function):
    """(seconds, seconds of CPU with those of children, result)."""
    start, used = time.perf_counter(), cpu_seconds()
    result = function()
    return time.perf_counter() - start, cpu_seconds() - used, result


def in_turn(runs, arguments, repeats, of=min):
    """(name, argument) -> seconds of each function, which take turns, so that other work falls on all alike."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    times = {key: [] for key in itertools.product(runs, arguments)}
    for name, argument in times:
        runs[name](argument)
    for _ in range(repeats):
        for (name, argument), taken in times.items():
            start = clock()
            runs[name](argument)
            taken.append(clock() - start)
    return {key: of(taken) for key, taken in times.items()}


def child(command):
    """Runs a command to its end: output, seconds, seconds of CPU and peak of its resident memory."""
    start = time.perf_counter()
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL)
        # Not from the usage: there, a child's peak begins with that of its parent.
        peak, status = 0.0, None
        while status is None:
            with contextlib.suppress(OSError, KeyError):
                peak = peak_mib(process.pid)
            time.sleep(0.005)
            ended, found, usage = os.wait4(process.pid, os.WNOHANG)
            status = found if ended else None
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - start
        out.seek(0)
        output = out.read().decode()
    if process.returncode:
        raise SystemExit(f"{command} ended with status {process.returncode}.")
    cpu = usage.ru_utime + usage.ru_stime
    return {"command": command, "output": output, "seconds": seconds, "cpu_seconds": cpu, "peak_mib": peak}


def backends():
    """Names of the backends whose package is here; says which are left out."""
    found = []
    for name in ("onnx", "openvino"):
        try:
            aigidetect.backends.check_backend(name, "cpu", None)
            found.append(name)
        except ExportError as error:
            print(f"left out: {error}", file=sys.stderr)
    return found


def engines(detector):
    """Name -> the detector's network in each backend, for views of 224 pixels; graphs are made in a temporary folder."""
    made = {}
    with tempfile.TemporaryDirectory() as cache:
        for backend in backends():
            for dtype in (torch.float32, torch.bfloat16) if backend == "openvino" else (torch.float32,):
                tiles = aigidetect.Tiles(size=224)
                sized = aigidetect.Detector(detector.network, tiles, detector.calibration, device="cpu", dtype=dtype)
                name = backend if dtype == torch.float32 else f"{backend}_bfloat16"
                try:
                    use_backend(sized, backend, cache_dir=cache)
                    made[name] = sized.engine
                except ExportError as error:
                    print(f"left out {name}: {error}", file=sys.stderr)
    return made


def convolution_ceiling(network, repeats, batch=4):
    """Views a second if each convolution ran as fast as the fastest of its kernel size, and these rates in GFLOP/s."""
    seen = []
    modules = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    hooks = [m.register_forward_hook(lambda m, x, y: seen.append((m, x[0].shape[1:], y.shape[2:].numel()))) for m in modules]
    network(torch.zeros(1, 3, 224, 224))
    for hook in hooks:
        hook.remove()
    if not seen:
        return None, {}
    inputs = [torch.randn(batch, *shape).contiguous(memory_format=torch.channels_last) for _, shape, _ in seen]
    runs = {i: lambda _, i=i: seen[i][0](inputs[i]) for i in range(len(seen))}
    times = in_turn(runs, (batch,), 2 * repeats)
    work = [2e-9 * module.weight.numel() * positions for module, _, positions in seen]
    rates = {}
    for i, (module, _, _) in enumerate(seen):
        side = module.kernel_size[0]
        rates[side] = max(rates.get(side, 0.0), batch * work[i] / times[i, batch])
    seconds = sum(gflop / rates[module.kernel_size[0]] for gflop, (module, _, _) in zip(work, seen))
    return 1 / seconds, {f"{side}x{side}": round(rate, 1) for side, rate in rates.items()}


def publish(found, name, parameters, options):
    """Prints the figures and, if a file was asked for, puts them into it, keeping those of points not measured now."""
    machine = {"torch": torch.__version__.split("+")[0], "pillow": Image.__version__, "threads": options.threads}
    machine |= {"cores": len(os.sched_getaffinity(0)), "cpu": torch.backends.cpu.get_cpu_capability()}
    machine |= {"repeats": options.repeats}
    facts = {"parameters": parameters, **{point: {**figures, "machine": machine} for point, figures in found.items()}}
    if options.output:
        old = json.loads(options.output.read_text()) if options.output.exists() else {}
        old[name] = {**old.get(name, {}), **facts}
        options.output.write_text(json.dumps(old, indent=1) + "\n")
    print(json.dumps({name: facts}, indent=1))


def peak_mib(process="self"):
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) / 1024


def watch_memory(name, source, count):
    """Peak in MiB after a tenth of the pictures and after all; of a single file, before it and after it."""
    torch.set_num_threads(1)
    detector = aigidetect.load_detector(name, device="cpu", local_files_only=True)
    paths = sorted(source.glob("[0-9]*.*")) if source.is_dir() else [source]
    first = peak_mib()
    for number, _ in enumerate(detector.stream(itertools.islice(itertools.cycle(paths), count)), start=1):
        if number == count // 10:
            first = peak_mib()
    print(json.dumps([round(first, 1), round(peak_mib(), 1)]))


def score_folder(way, name, source, count):
    """Scores the folder once, after a few pictures to warm up: seconds, those of CPU, probabilities.

    Ways are "plain", "ours", and the names of backends.
    """
    paths, batch = sorted(source.glob("[0-9]*.*"))[:count], None
    if way != "plain":
        backend = None if way == "ours" else way
        detector = aigidetect.load_detector(name, device="cpu", local_files_only=True, backend=backend)
        score = lambda some: [record.probability for record in detector.stream(some)]  # noqa: E731
    else:
        facts, network = load_manifest().get(name), plain_network(name)
        detector = Facts(entry_preprocess(facts), entry_calibration(facts))
        few = paths[: max(8, count // 10)]
        trials = {size: timed(lambda n=size: plain_records(network, detector, few, n, 2))[0] for size in (4, 16, 64)}
        batch = min(trials, key=trials.get)
        score = lambda some: plain_records(network, detector, some, batch, 2)  # noqa: E731
    score(paths[:8])
    seconds, cpu, scores = timed(lambda: score(paths))
    print(json.dumps({"seconds": seconds, "cpu": cpu, "batch_size": batch, "scores": scores}))


if __name__ == "__main__":
    mode, detector_name, place, number = sys.argv[1:5]
    if mode == "memory":
        watch_memory(detector_name, Path(place), int(number))
    else:
        torch.set_num_threads(int(sys.argv[5]))
        score_folder(mode, detector_name, Path(place), int(number))
