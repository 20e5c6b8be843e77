"""Readers of the data sets that people have: folder layouts, CSV lists, and our index.

Folder layouts differ in nesting and names only, so one rule reads them all. Of the folders between the root and a file, the
innermost that names a class gives the label, one that names a split the split, and the outermost of the rest the source:

    <generator>/{train,val}/{ai,nature}        GenImage and Tiny-GenImage as distributed
    {train,val}/<generator>/{nature,ai}        Tiny-GenImage as the report rearranged it
    <generator>/[<category>/]{0_real,1_fake}   ForenSynths
    {real,ai}                                  your own pictures

References:
    | GenImage: A Million-Scale Benchmark for Detecting AI-Generated Image (Zhu et al., NeurIPS 2023)
    | CNN-generated images are surprisingly easy to spot... for now (Wang et al., CVPR 2020): ForenSynths
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path

from ..sources import IMAGE_SUFFIXES, iter_sources
from .datasets import AI, REAL, Sample, read_index

_LABELS = {
    "nature": REAL, "0_real": REAL, "real": REAL, "reals": REAL, "photo": REAL, "photos": REAL,
    "ai": AI, "1_fake": AI, "fake": AI, "fakes": AI, "generated": AI, "synthetic": AI,
}  # fmt: skip
_SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}

# Folder names of Tiny-GenImage -> the generators' short names.
_GENERATORS = {
    "imagenet_ai_0508_adm": "adm",
    "imagenet_ai_0419_biggan": "biggan",
    "imagenet_glide": "glide",
    "imagenet_midjourney": "midjourney",
    "imagenet_ai_0424_sdv5": "sdv5",
    "imagenet_ai_0419_vqdm": "vqdm",
    "imagenet_ai_0424_wukong": "wukong",
}


def read_data(*paths: str | Path) -> list[Sample]:
    """Samples of folders or CSV files, whichever of the known forms each has.

    Several data sets are read as one, in the given order. Groups are compared by name across all of them, so a picture and
    the fake that was made of it stay on one side of every split (`datasets.take_split`).

    Args:
        paths: Each a folder with an `index.tsv`, a folder in one of the layouts above, or a CSV file with the columns
            `image_path,split,is_ai,ai_model` or `image,class,split` (class 0 real, 1 AI-generated), whose relative paths
            start at the file's folder.

    Raises:
        FileNotFoundError: There is no such path.
        ValueError: Not one of these forms, or no pictures in it.
    """
    return [sample for path in paths for sample in _read_one(Path(path))]


def _read_one(path: Path) -> list[Sample]:
    if not path.exists():
        raise FileNotFoundError(f"There is no {path}; give a folder of pictures, or a CSV file.")
    if path.is_file():
        samples = list(_read_csv(path))
    elif (path / "index.tsv").is_file():
        samples = read_index(path)
    else:
        samples = list(_read_folders(path))
    if not samples:
        raise ValueError(
            f"{path} holds no labelled pictures: expected an index.tsv, or folders that are named {sorted(_LABELS)}, with "
            f"pictures that end in {sorted(IMAGE_SUFFIXES)}."
        )
    return samples


def _read_folders(root: Path) -> Iterator[Sample]:
    for item in iter_sources(root):
        path = Path(str(item))
        folders = path.relative_to(root).parts[:-1]
        labelled = [index for index, name in enumerate(folders) if name.lower() in _LABELS]
        if not labelled or path.suffix.lower() not in IMAGE_SUFFIXES:
            continue
        label = _LABELS[folders[labelled[-1]].lower()]
        rest = [name for index, name in enumerate(folders) if index != labelled[-1]]
        splits = [_SPLITS[name.lower()] for name in rest if name.lower() in _SPLITS]
        names = [name for name in rest if name.lower() not in _SPLITS] or [root.name]
        source = _GENERATORS.get(names[0], names[0])
        # A file name may come up in several folders, so the group is the path; ImageNet's names are unique by themselves.
        group = path.stem if path.stem.startswith(("ILSVRC2012_", "n0", "n1")) else str(path.relative_to(root))
        line = source if label == AI else "real"
        yield Sample(path, label, source, group, splits[0] if splits else "test", line, "unknown")


def _read_csv(path: Path) -> Iterator[Sample]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        columns = set(reader.fieldnames or ())
        for known, read in _CSV_ROWS.items():
            if set(known) <= columns:
                for number, row in enumerate(reader, start=2):
                    try:
                        yield read(path.parent, row)
                    except KeyError as error:
                        raise ValueError(f"Line {number} of {path}: {error} is not a known value.") from error
                return
    raise ValueError(f"{path} has the columns {sorted(columns)}; expected one of {[list(c) for c in _CSV_ROWS]}.")


def _report_row(folder: Path, row: dict[str, str]) -> Sample:
    label = {"true": AI, "false": REAL}[row["is_ai"].strip().lower()]
    file = folder / row["image_path"].replace("\\", "/")
    source = row["ai_model"] if label == AI else "real"
    return Sample(file, label, source, file.stem, _SPLITS[row["split"].lower()], source, "unknown")


def _spai_row(folder: Path, row: dict[str, str]) -> Sample:
    label = {"0": REAL, "1": AI}[row["class"].strip()]
    file = folder / row["image"].replace("\\", "/")
    name = "ai" if label == AI else "real"
    return Sample(file, label, name, file.stem, _SPLITS[row["split"].lower()], name, "unknown")


_CSV_ROWS: dict[tuple[str, ...], Callable[[Path, dict[str, str]], Sample]] = {
    ("image_path", "split", "is_ai", "ai_model"): _report_row,
    ("image", "class", "split"): _spai_row,
}
