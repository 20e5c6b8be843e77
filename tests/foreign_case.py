"""Checkpoints wrapped as others wrote theirs, hostile ones, and the reader of pickles without a process of its own."""

from __future__ import annotations

import builtins
import functools
import hashlib
import importlib.util
import json
import os
import pickle
import sys
import types
import zipfile
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from aigidetect import checkpoint

from . import test_npr_parity as npr_case

SOURCE = Path(checkpoint.__file__).with_name("unpickle.py")
_SPEC = importlib.util.spec_from_file_location("unpickle_under_test", SOURCE)
assert _SPEC is not None and _SPEC.loader is not None
unpickle = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(unpickle)


def read_here(path: Path, out: Path) -> dict[str, list[str]]:
    """Instead of `checkpoint._run_reader`: the same reading without a process, which takes seconds to import torch."""
    try:
        tensors, keys = unpickle.read(str(path), list(checkpoint.WRAPPERS))
        save_file(tensors, out)
    except Exception as error:
        return unpickle.explain(error)
    return {"keys": keys}


_YACS = types.ModuleType("yacs.config")
_YACS.CfgNode = type("CfgNode", (dict,), {"__module__": "yacs.config"})  # type: ignore[attr-defined]


def config_node(values: dict[str, object]) -> object:
    """An object whose pickle is that of a yacs.config.CfgNode, which is a dict with attributes."""
    sys.modules.update({"yacs": types.ModuleType("yacs"), "yacs.config": _YACS})
    node = _YACS.CfgNode(values)
    node.__dict__["__immutable__"] = True
    return node


class Attack:
    """Unpickling it calls a function."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call


def attacks(marker: Path) -> dict[str, Attack]:
    """Each would create `marker`, if it ran."""
    code = f"open({str(marker)!r}, 'w').close()"
    return {
        "os.system": Attack(os.system, f'echo ran > "{marker}"'),  # in the pickle: posix.system, or nt.system
        "eval": Attack(builtins.eval, code),
        "exec": Attack(builtins.exec, code),
        "os.mkdir": Attack(os.mkdir, str(marker)),
        "pickle.loads": Attack(pickle.loads, pickle.dumps(Attack(builtins.eval, code))),
    }


def raw_pickles(marker: Path) -> dict[str, bytes]:
    """Calls written by hand, under names that a pickle made by Python would not have."""
    argument = f"open({str(marker)!r}, 'w').close()".encode()
    text = b"X" + len(argument).to_bytes(4, "little") + argument
    names = (("os", "system"), ("posix", "system"), ("nt", "system"), ("__builtin__", "eval"), ("sys", "modules"))
    calls = {f"{m}.{n}": b"\x80\x02c%b\n%b\n%b\x85R." % (m.encode(), n.encode(), text) for m, n in names}
    return calls | {"stack global": b"\x80\x04\x8c\x05posix\x8c\x06system\x93%b\x85R." % text}


def hostile_files(folder: Path) -> list[Path]:
    """Every attack at every place of a checkpoint and in every format; they would create `folder / "ran"`."""
    state = {"fc1.weight": torch.zeros(1, 2)}
    paths = []
    for number, attack in enumerate(attacks(folder / "ran").values()):
        places = {
            "tensor": {"model": {**state, "fc1.bias": attack}},
            "beside": {"model": state, "config": config_node({"deep": [attack]})},
            "whole": attack,
        }
        for place, content in places.items():
            for kind in ("zip", "legacy", "plain"):
                paths.append(path := folder / f"{number}-{place}-{kind}.pth")
                if kind == "plain":
                    path.write_bytes(pickle.dumps(content, protocol=2 + number % 4))
                else:
                    torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    for number, content in enumerate(raw_pickles(folder / "ran").values()):
        paths.append(path := folder / f"raw-{number}.pth")
        path.write_bytes(content)
        torch.save(state, folder / "good.pth")
        parts = {"data.pkl": content}
        paths.append(rezipped(folder / "good.pth", folder / f"raw-{number}-zip.pth", zipfile.ZIP_STORED, parts))
    return paths


def rezipped(source: Path, target: Path, compression: int, replace: dict[str, bytes] | None = None) -> Path:
    """The archive of a checkpoint, written once more with another compression, or with other parts."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for part in old.infolist():
            name = part.filename.rpartition("/")[2]
            new.writestr(part.filename, (replace or {}).get(name, old.read(part)))
    return target


def saved(path: Path, content: object, *, legacy: bool = False) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def claiming(folder: Path, *, numel: int, legacy: bool) -> Path:
    """A checkpoint whose pickle claims a storage of `numel` numbers, and holds 77."""
    path = saved(folder / "claim.pth", {"x": torch.zeros(77)}, legacy=legacy)
    small, large = b"K\x4d", b"\x8a\x08" + numel.to_bytes(8, "little")
    if legacy:
        path.write_bytes(path.read_bytes().replace(small, large))
        return path
    with zipfile.ZipFile(path) as archive:
        pickled = archive.read("claim/data.pkl")
    assert small in pickled
    target = folder / "claiming.pth"
    return rezipped(path, target, zipfile.ZIP_STORED, {"data.pkl": pickled.replace(small, large)})


def stretched(folder: Path) -> Path:
    return saved(folder / "stretched.pth", {"model": {"x": torch.zeros(1).expand(1 << 20, 1 << 20)}})


def packed(folder: Path) -> Path:
    source = saved(folder / "zeros.pth", {"model": {"x": torch.zeros(1 << 22)}})
    target = rezipped(source, folder / "packed.pth", zipfile.ZIP_DEFLATED)
    assert target.stat().st_size < source.stat().st_size / 100
    return target


def overstated(folder: Path) -> Path:
    """The archive's directory says that its first part has two gigabytes."""
    content = bytearray(saved(folder / "a.pth", {"x": torch.zeros(9)}).read_bytes())
    entry = content.index(b"PK\x01\x02")
    content[entry + 24 : entry + 28] = (2**31 - 1).to_bytes(4, "little")
    (folder / "overstated.pth").write_bytes(content)
    return folder / "overstated.pth"


def git_blob(content: bytes) -> str:
    """What `git hash-object` prints."""
    return hashlib.sha1(b"blob " + str(len(content)).encode() + b"\0" + content).hexdigest()


def facts_of(path: Path) -> dict[str, object]:
    """What a converted file states about itself."""
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["aigidetect"])


@functools.cache
def npr_state(fixture: str) -> dict[str, torch.Tensor]:
    """State dict of an original NPR network; not to be changed."""
    return npr_case.original_state(npr_case.FIXTURES[fixture])


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """The same tensors under the same names."""
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())
