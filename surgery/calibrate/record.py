"""What a plan remembers of calibration data: enough to read the same again, and to notice that it is not the same."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from surgery.calibrate.data import Data
from surgery.calibrate.preprocess import parsed
from surgery.errors import PlanError

_NUMBERS = {"images": 1, "positions": 1, "seed": 0}  # each with the least it may be
_KINDS = {"symmetric": bool, "digest": str, "data": str}
_SPOKEN = {bool: "true or false", str: "text"}


def record_of(data: Data, *, positions: int, seed: int, symmetric: bool) -> dict[str, Any]:
    """Return the record of data and of what else statistics depend on, as JSON values."""
    return {
        "data": data.path.name,
        "images": data.count,
        "digest": data.digest,
        "preprocess": None if data.preprocess is None else data.preprocess.facts(),
        "positions": positions,
        "seed": seed,
        "symmetric": symmetric,
    }


def check_record(record: Mapping[str, Any], origin: str) -> None:
    """Raise PlanError, with its `origin`, for what `record_of` cannot have made, the preprocessing left out."""
    for name, least in _NUMBERS.items():
        value = record.get(name)
        if type(value) is not int or not least <= value < 1 << 63:
            raise PlanError(f"{origin}: {name} is {_shown(value)}; expected a number from {least}")
    for name, kind in _KINDS.items():
        if not isinstance(record.get(name), kind):
            raise PlanError(f"{origin}: {name} is {_shown(record.get(name))}; expected {_SPOKEN[kind]}")


def settings_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `calibration` that a record stands for; raises PlanError for what is no record."""
    check_record(record, "the plan's calibration")
    stated = record.get("preprocess")
    found = None if stated is None else parsed(stated, "the plan's preprocess", Path())
    return {name: record[name] for name in (*_NUMBERS, "symmetric")} | {"preprocess": found}


def _shown(value: object) -> str:
    return repr(value)[:60]


def differing(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str | None:
    """Return in what one record differs from another in what statistics depend on, None where in nothing."""
    if found["symmetric"] and not wanted.get("symmetric"):
        return "its fits make up for the cuts before each layer, which takes the images themselves (--calibrate)"
    for name in ("images", "positions", "seed", "symmetric"):
        if found[name] != wanted.get(name):
            return f"{name} is {wanted.get(name)} in the plan and {found[name]} here"
    if found["digest"] != wanted.get("digest"):
        there = str(wanted.get("digest"))
        return f"'{wanted.get('data')}' had the digest {there[:12]}, '{found['data']}' has {found['digest'][:12]}"
    return None
