"""Read measured times: what `surgery bench --json` prints, and the timings.json that `surgery compress` leaves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from surgery.errors import DataError

STEPS = ("rewrite", "write", "verify")  # of `surgery compress`, in seconds
SPREAD = ("smallest", "p10", "median", "p90")
_EXPECTED = "expected what `surgery bench --json` or `surgery compress` wrote"


def read_timings(text: str, path: Path) -> dict[str, Any]:
    """Return times as JSON values that reports can tell; raises DataError for anything else."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(path, f"is not JSON: {error}; {_EXPECTED}") from error
    if not isinstance(found, dict) or not {"models", *STEPS} & found.keys():
        raise DataError(path, f"holds no times; {_EXPECTED}")
    for i, row in enumerate(_list(found.get("models", []), "models", path)):
        _check_model(row, f"models[{i}]", path)
    for name in STEPS:
        if name in found:
            _number(found[name], name, path)
    for layer, parts in _object(found.get("layers", {}), "layers", path).items():
        for name, value in _object(parts, f"layers[{layer!r}]", path).items():
            _number(value, f"layers[{layer!r}].{name}", path)
    return found


def _check_model(row: Any, place: str, path: Path) -> None:
    for name in ("model", "runtime", "version"):
        if not isinstance(_object(row, place, path).get(name), str):
            raise DataError(path, f"{place}.{name} is {row.get(name)!r}; expected text")
    for name in ("milliseconds", "ratio"):
        spread = _object(row.get(name), f"{place}.{name}", path)
        for part in SPREAD:
            _number(spread.get(part), f"{place}.{name}.{part}", path)


def _object(value: Any, place: str, path: Path) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise DataError(path, f"{place} is {str(value)[:40]!r}; expected an object; {_EXPECTED}")
    return value


def _list(value: Any, place: str, path: Path) -> list[Any]:
    if not isinstance(value, list):
        raise DataError(path, f"{place} is {str(value)[:40]!r}; expected a list; {_EXPECTED}")
    return value


def _number(value: Any, place: str, path: Path) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) or value < 0:
        raise DataError(path, f"{place} is {str(value)[:40]!r}; expected a time; {_EXPECTED}")
