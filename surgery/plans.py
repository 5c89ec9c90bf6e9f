"""A plan: which layers become what, bound to the files it was made for; JSON that a person can read and edit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgery.errors import PlanError
from surgery.factor import METHODS, Rank

FORMAT = 1


@dataclass(frozen=True)
class Cut:
    """Cut the layer `key` by `method` at `rank` (per group for grouped convolutions)."""

    key: str
    method: str
    rank: Rank


@dataclass(frozen=True)
class Left:
    """A layer that was asked for and left alone, and why."""

    key: str
    reason: str


@dataclass(frozen=True)
class Plan:
    """The cuts, the digest of the files they are for, and what the numbers depend on: BLAS threads and seed."""

    digest: str
    cuts: tuple[Cut, ...]
    left: tuple[Left, ...] = ()
    threads: int = 1
    seed: int = 0


def to_json(plan: Plan) -> str:
    """Return the plan as JSON text, one cut a line."""
    cuts = [
        {"layer": c.key, "method": c.method, "rank": c.rank[0] if len(c.rank) == 1 else list(c.rank)} for c in plan.cuts
    ]
    left = [{"layer": x.key, "reason": x.reason} for x in plan.left]
    head = {"format": FORMAT, "source": plan.digest, "threads": plan.threads, "seed": plan.seed}
    lines = [f"  {json.dumps(name)}: {json.dumps(value)}," for name, value in head.items()]
    text = "\n".join(["{", *lines, f'  "cuts": {_rows(cuts)},', f'  "left": {_rows(left)}', "}", ""])
    # A name that is not UTF-8 holds lone surrogates: \udcff, as this writes them, is JSON's spelling too.
    return text.encode("utf-8", "backslashreplace").decode()


def _rows(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return "[]"
    return "[\n" + ",\n".join("    " + json.dumps(row, ensure_ascii=False) for row in rows) + "\n  ]"


def from_json(text: str, path: Path | str) -> Plan:
    """Read a plan; raises PlanError that names the file and the entry."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PlanError(f"{path}: is not JSON: {error}") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        found = data.get("format") if isinstance(data, dict) else type(data).__name__
        raise PlanError(f'{path}: "format" is {found!r}; expected {FORMAT}, a plan that `surgery plan` wrote')
    cuts = tuple(_cut(entry, i, path) for i, entry in enumerate(_list(data, "cuts", path)))
    names = [cut.key for cut in cuts]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise PlanError(f"{path}: '{twice}' is cut twice; keep one entry")
    left = tuple(Left(_string(x, "layer", path), _string(x, "reason", path)) for x in _list(data, "left", path))
    threads, seed = _whole(data, "threads", 1, 1, path), _whole(data, "seed", 0, 0, path)
    return Plan(_string(data, "source", path), cuts, left, threads, seed)


def _cut(entry: Any, index: int, path: Path | str) -> Cut:
    if not isinstance(entry, dict):
        raise PlanError(f"{path}: cuts[{index}] is {entry!r}; expected an object with layer, method and rank")
    key, method = _string(entry, "layer", path), _string(entry, "method", path)
    if method not in METHODS:
        raise PlanError(f"method '{method}' is not known; choose one of {', '.join(METHODS)}", node=key)
    rank = entry.get("rank")
    ranks: list[Any] = rank if isinstance(rank, list) else [rank]
    if not ranks or not all(type(n) is int and n > 0 for n in ranks):
        raise PlanError(f"rank is {rank!r} in {path}; expected a whole number above 0, or a list of them", node=key)
    return Cut(key, method, tuple(ranks))


def _list(data: Mapping[str, Any], name: str, path: Path | str) -> list[Any]:
    value = data.get(name, [])
    if not isinstance(value, list):
        raise PlanError(f'{path}: "{name}" is {value!r}; expected a list')
    return value


def _string(data: Any, name: str, path: Path | str) -> str:
    value = data.get(name) if isinstance(data, dict) else None
    if not isinstance(value, str):
        raise PlanError(f'{path}: "{name}" is {value!r}; expected text')
    return value


def _whole(data: Mapping[str, Any], name: str, default: int, least: int, path: Path | str) -> int:
    value = data.get(name, default)
    if type(value) is not int or value < least:
        raise PlanError(f'{path}: "{name}" is {value!r}; expected a whole number from {least}')
    return value
