"""What several commands share."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
DATA = "folder with an index.tsv or in a known layout, or a CSV file"


def add_data(parser: argparse.ArgumentParser) -> None:
    """Adds `--data`: one data set or several, in one option or in repeated ones."""
    parser.add_argument("--data", required=True, type=Path, nargs="+", action="extend", help=f"{DATA}; several are joined")


def read_json(path: Path) -> Any:
    """Content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Writes `content` as indented JSON."""
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
