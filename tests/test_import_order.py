"""Imports go one way, and importing the package stays light."""

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "aigidetect"
ORDER = [
    "errors", "prediction", "calibration", "files", "jpeg", "containers", "tiff", "images", "provenance", "sources",
    "preprocess", "state", "layers", "models", "json_fields", "manifest", "hub", "weights", "convert", "convert_spai",
    "convert_transformers", "unpickle", "checkpoint", "foreign", "convert_file", "fetch_foreign", "explain", "uncertainty",
    "stability", "prepare", "isolation", "pipeline", "engine", "conventions", "entries",
    "selftest", "config", "pretrained", "detector", "exporting", "backends", "installed", "registry", "lines", "output",
    "heatmaps", "report", "demo", "integrations", "completion", "help", "predict_command", "report_command",
    "export_command", "demo_command",
    "__init__", "training", "cli", "__main__",
]  # fmt: skip


def room(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


def imported_rooms(path: Path) -> set[str]:
    """Rooms of the package that a file imports, also inside functions."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.split(".")[0] == "aigidetect"]
            rooms |= {([*name.split("."), "__init__"])[1] for name in names}
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = list(parts[: len(parts) - node.level])
            module = base + (node.module.split(".") if node.module else [])
            rooms |= (
                {module[0]}
                if module
                else {
                    alias.name if (PACKAGE / alias.name).exists() or (PACKAGE / f"{alias.name}.py").exists() else "__init__"
                    for alias in node.names
                }
            )
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "aigidetect":
            rooms.add(([*node.module.split("."), "__init__"])[1])
    return rooms


def test_every_file_has_its_place_in_the_order():
    assert {room(path) for path in PACKAGE.rglob("*.py")} <= set(ORDER)


def test_no_file_imports_one_that_comes_later():
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {other}"
        for path in PACKAGE.rglob("*.py")
        for other in imported_rooms(path)
        if ORDER.index(other) > ORDER.index(room(path))
    ]
    assert not wrong


def test_models_know_neither_images_nor_weights_nor_the_manifest():
    for path in (PACKAGE / "models").glob("*.py"):
        assert imported_rooms(path) <= {"models", "layers"}, path.name


def test_the_detector_knows_no_names_and_no_files():
    assert not imported_rooms(PACKAGE / "detector.py") & {"manifest", "weights", "registry", "models"}


def test_importing_the_package_loads_no_model_no_training_and_no_hub_client():
    code = "import torch, sys; before = set(sys.modules); import aigidetect; print('\\n'.join(set(sys.modules) - before))"
    loaded = set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())
    assert not loaded & {"huggingface_hub", "sklearn", "torchvision", "tqdm", "httpx", "socket", "ray", "pyarrow", "gradio"}
    assert not {name for name in loaded if name.startswith(("aigidetect.training", "aigidetect.models.", "aigidetect.cli"))}
    foreign = ("unpickle", "checkpoint", "convert", "convert_file", "fetch_foreign")
    assert not {f"aigidetect.{name}" for name in foreign} & loaded


def test_only_the_commands_of_foreign_checkpoints_reach_the_reader_of_pickles():
    importers = {room: set() for room in ORDER}
    for path in PACKAGE.rglob("*.py"):
        for other in imported_rooms(path):
            importers[other].add(room(path))
    assert not importers["unpickle"]  # started as a process, never imported
    assert importers["checkpoint"] == {"convert_file"}
    assert importers["convert_file"] == {"cli", "fetch_foreign"}
    assert importers["fetch_foreign"] == {"cli"}


def test_no_package_file_can_unpickle_but_the_one_made_for_it():
    for path in set(PACKAGE.rglob("*.py")) - {PACKAGE / "unpickle.py"}:
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
            assert not {"pickle", "joblib", "dill"} & set(names), path
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) != ("torch", "load"), path
