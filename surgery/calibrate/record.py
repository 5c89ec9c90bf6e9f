"""What a plan remembers of calibration data: enough to read the same again, and to notice that it is not the same."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from surgery.calibrate.data import Data
from surgery.calibrate.preprocess import parsed
from surgery.errors import PlanError

_NUMBERS = {"images": 1, "positions": 1, "seed": 0}  # each with the least it may be


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


def settings_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `calibration` that a record stands for; raises PlanError for what is no record."""
    for name, least in _NUMBERS.items():
        if type(record.get(name)) is not int or record[name] < least:
            raise PlanError(f"the plan's calibration: {name} is {record.get(name)!r}; expected a number from {least}")
    if not isinstance(record.get("symmetric"), bool):
        raise PlanError(f"the plan's calibration: symmetric is {record.get('symmetric')!r}; expected true or false")
    stated = record.get("preprocess")
    found = None if stated is None else parsed(stated, "the plan's preprocess", Path())
    return {name: record[name] for name in (*_NUMBERS, "symmetric")} | {"preprocess": found}


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
