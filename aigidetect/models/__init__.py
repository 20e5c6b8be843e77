"""One file per architecture. The folder is the registry: a file with a function `build` is an architecture."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType


def list_architectures() -> list[str]:
    """Names of all architectures, sorted: the names of the files of this folder. Loads none of them."""
    return sorted(info.name for info in pkgutil.iter_modules(__path__))


def load_architecture(name: str) -> ModuleType:
    """The module of one architecture; its `build(...)` makes the network.

    Raises:
        KeyError: No such architecture; the message lists those that exist.
    """
    if name not in list_architectures():
        raise KeyError(f"Unknown architecture {name!r}; available: {', '.join(list_architectures())}.")
    return importlib.import_module(f"{__name__}.{name}")
