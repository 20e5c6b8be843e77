"""Reads JSON strictly: no duplicate keys, no NaN, no infinities; objects field by field, with complaints that say where."""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn, TypeGuard

from .errors import ManifestError


def read_strict(text: str) -> object:
    """Value of a JSON document.

    Raises:
        ManifestError: A key occurs twice in one object, or a number is not finite.
        ValueError: Not JSON.
        RecursionError: Nested too deeply.
    """
    return json.loads(text, object_pairs_hook=_unique, parse_constant=_finite, parse_float=_finite)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            raise ManifestError(f"the key {key!r} occurs twice in one object; remove one of them.")
        found[key] = value
    return found


def _finite(literal: str) -> float:
    if not math.isfinite(number := float(literal)):  # also 1e999
        raise ManifestError(f"expected finite numbers only, but got {literal}.")
    return number


class Fields:
    """One JSON object, read field by field; complaints name the place, the field and what was expected."""

    def __init__(
        self, value: object, where: str, prefix: str, required: tuple[str, ...], optional: tuple[str, ...] = ()
    ) -> None:
        if not isinstance(value, dict):
            refuse(f"{where}, field {prefix.rstrip('.')!r}" if prefix else where, "an object", value)
        self.values: dict[str, object] = value
        self.where, self.prefix = where, prefix
        missing = [(key, "missing") for key in required if key not in value]
        unknown = [(key, "unknown") for key in value if key not in required + optional]
        for key, problem in missing + unknown:
            fields = ", ".join(required + optional)
            raise ManifestError(f"{where}, field {prefix + key!r}: {problem}; expected the fields {fields}.")

    def refuse(self, key: str, expected: str) -> NoReturn:
        refuse(f"{self.where}, field {self.prefix + key!r}", expected, self.values.get(key))

    def given(self, key: str) -> bool:
        return self.values.get(key) is not None

    def text(self, key: str, pattern: re.Pattern[str] | None = None, expected: str = "a text that is not empty") -> str:
        value = self.values.get(key)
        if not isinstance(value, str) or not (pattern.fullmatch(value) if pattern else value.strip()):
            self.refuse(key, expected)
        return value

    def whole(self, key: str) -> int:
        value = self.values.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            self.refuse(key, "a whole number of at least 1")
        return value

    def check_number(self, key: str, *, positive: bool = False) -> None:
        value = self.values.get(key)
        if not is_number(value) or (positive and value <= 0):
            self.refuse(key, "a positive number" if positive else "a number")

    def mapping(self, key: str) -> dict[str, Any]:
        value = self.values.get(key)
        return value if isinstance(value, dict) else self.refuse(key, "an object")

    def items(self, key: str) -> list[object]:
        value = self.values.get(key)
        return value if isinstance(value, list) else self.refuse(key, "a list")


def is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def refuse(where: str, expected: str, value: object) -> NoReturn:
    shown = json.dumps(value)
    raise ManifestError(f"{where}: expected {expected}, but got {shown if len(shown) <= 80 else shown[:80] + '...'}.")
