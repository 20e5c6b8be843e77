"""`quantise` and `export`: from a finished run to a detector that ships."""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

from ...calibration import Calibration
from ...preprocess import from_dict
from ..datasets import digest, take_split
from ..layouts import read_data
from .common import Commands, add_data, read_json


def add(commands: Commands) -> None:
    """Adds the parsers."""
    quantise = commands.add_parser("quantise", help="a run whose backbone is in 8 bits or fewer; to be evaluated after it")
    quantise.set_defaults(run=_quantise)
    quantise.add_argument("--run", dest="folder", required=True, type=Path)
    few = "values on either side of zero; default: 31, which are 6 bits. Fewer leave less to store once compressed"
    quantise.add_argument("--levels", type=int, default=31, help=few)
    quantise.add_argument("--out", required=True, type=Path, help="folder of the new run")

    export = commands.add_parser("export", help="weights file and manifest entry of a calibrated run")
    export.set_defaults(run=_export)
    export.add_argument("--run", dest="folder", required=True, type=Path)
    add_data(export)
    export.add_argument("--name", required=True)
    export.add_argument("--version", required=True, type=int)
    export.add_argument("--licence", default="Apache-2.0", help="SPDX expression; notices go into weights/LICENSES.md")
    export.add_argument("--preprocess", default=None, help="JSON; default: what the val scores were made with")
    export.add_argument("--weights-folder", type=Path, default=Path("aigidetect/weights"))
    export.add_argument("--backbone", default=None, help="name of a file of its own for the frozen tower or backbone")
    export.add_argument("--manifest", type=Path, default=Path("weights_manifest.json"))


def _quantise(options: argparse.Namespace) -> None:
    from ..quantise import deflated, quantise_run

    model = quantise_run(options.folder, options.out, options.levels)
    print(f"{model}: {model.stat().st_size:,} bytes, {deflated(model):,} in a wheel")


def _export(options: argparse.Namespace) -> None:
    from ..export import export

    samples = read_data(*options.data)
    facts = (
        json.loads(options.preprocess) if options.preprocess else read_json(options.folder / "evaluation.json")["preprocess"]
    )
    train, val = take_split(samples, "train"), take_split(samples, "val")
    entry = export(
        options.folder,
        options.weights_folder,
        options.manifest,
        name=options.name,
        version=options.version,
        preprocess=from_dict(facts),
        calibration=Calibration.from_dict(read_json(options.folder / "calibration.json")),
        provenance={
            "licence": options.licence,
            "data": f"{len(train)} pictures of {len({s.source for s in train})} sources to train, {len(val)} to calibrate",
            "data_sha256": digest([*train, *val]),
            **_how_made(options.folder),
        },
        backbone=options.backbone,
    )
    print(json.dumps(entry, indent=1))


def _how_made(run: Path) -> dict[str, Any]:
    if (run / "facts.json").exists():
        return {"made": read_json(run / "facts.json")}
    from ..backbone import RECORD, START
    from ..class_token import RECORD as FEATURES
    from ..fit import read_log
    from ..quantise import FACTS

    records = {"backbone": run / RECORD, "start": run / START, "features": run / FEATURES, "quantised": run / FACTS}
    begun = {what: read_json(path) for what, path in records.items() if path.exists()}
    return {"training_minutes": round(sum(_call_minutes(read_log(run))), 1), **begun}


def _call_minutes(rows: list[dict[str, float]]) -> list[float]:
    """Minutes of each call that worked on a run: the clock starts again at zero with every call."""
    ends = [a["seconds"] for a, b in itertools.pairwise(rows) if b["seconds"] < a["seconds"]]
    return [seconds / 60 for seconds in [*ends, *(row["seconds"] for row in rows[-1:])]]
