"""A small network, its recipe and twelve small pictures for the tests of `fit`."""

import json
from pathlib import Path

from PIL import Image

from aigidetect.training.recipe import Recipe

from .conftest import array

SMALL_MODELS = str(Path(__file__).parent / "small_models")
SMALL = Recipe(name="small", architecture="small", steps=6, batch_size=16, sizes=((1.0, 12),), consistency=0.5)
NEW_FIELDS = (
    "optimiser",
    "schedule",
    "drop_steps",
    "drop",
    "accumulate",
    "loss",
    "mean",
    "std",
    "teacher",
    "frozen_backbone",
)


def write_data(root):
    """Twelve pictures of four sources, all of the split "train", and their index."""
    rows = ["file\tlabel\tsource\tline\tsplit\tgroup\tstyle"]
    for i in range(12):
        label = ("real", "ai")[i % 2]
        Image.fromarray(array(20, 24, seed=i)).save(root / f"{i}.png")
        rows.append(f"{i}.png\t{label}\t{label}{i % 4}\tline\ttrain\tg{i}\tphoto")
    (root / "index.tsv").write_text("\n".join(rows) + "\n")
    return root


def older(recipe):
    """The JSON of a recipe as a version without the new fields wrote it."""
    return json.dumps({key: value for key, value in json.loads(recipe.to_json()).items() if key not in NEW_FIELDS})


def audited(folder):
    """The folder of a run whose data were audited, which takes longer than these trainings."""
    folder.mkdir()
    (folder / "audit.json").write_text('{"shortcuts": []}')
    return folder
