"""A plan: which layers become what, bound to the files it was made for; JSON that a person can read and edit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgery.errors import PlanError
from surgery.factor import METHODS, Method, Rank, with_options

FORMAT = 3
READABLE = (1, 2, 3)  # 1 had no options, shared cuts or calibration, 2 no prices, pins or forbidden layers.
_FIELDS = frozenset({"format", "source", "threads", "seed", "calibration", "refit", "asked", "predicted"})
_FIELDS_OF_A_PLAN = _FIELDS | {"cuts", "left"}
_FIELDS_OF_A_CUT = frozenset({"layer", "method", "rank", "options", "price", "error", "pinned"})
_FIELDS_OF_WHAT_IS_LEFT = frozenset({"layer", "reason", "forbidden"})

Price = tuple[tuple[str, float, float], ...]


@dataclass(frozen=True)
class Cut:
    """Cut the layer `key` by `method` at `rank` (per group for grouped convolutions).

    `options` are the method's own, sorted by name. The layers `others` read what `key` reads and are cut with it, as
    one layer of all their outputs: they share all factors but the last.

    Attributes:
        price: measure, what the layer takes of it, and what the cut one does.
        error: what the cut is predicted to add to the network's error, None where nothing was predicted.
        pinned: whether planning again keeps this cut as it is.
    """

    key: str
    method: str
    rank: Rank
    options: tuple[tuple[str, str], ...] = ()
    others: tuple[str, ...] = ()
    price: Price = ()
    error: float | None = None
    pinned: bool = False

    @property
    def keys(self) -> tuple[str, ...]:
        """All layers that are cut."""
        return (self.key, *self.others)

    @property
    def price_by_measure(self) -> Mapping[str, tuple[float, float]]:
        """What the layer takes of each measure, and what the cut one does."""
        return {name: (before, after) for name, before, after in self.price}

    @property
    def configured(self) -> Method:
        """The method with its options set; raises PlanError for options that it does not have."""
        return with_options(METHODS[self.method], dict(self.options))


@dataclass(frozen=True)
class Left:
    """A layer that was asked for and left alone, and why; planning again never cuts one that is `forbidden`."""

    key: str
    reason: str
    forbidden: bool = False


@dataclass(frozen=True)
class Plan:
    """The cuts, the digest of the files they are for, and what the numbers depend on: BLAS threads, seed and data.

    `calibration` says which data the cuts are fitted to and how it is read, None where they follow from the weights
    alone; with `refit` all factors that may are fitted to it, not only those of methods that use data themselves.

    Attributes:
        asked: the policy and the budgets that ranks were chosen by, for a reader; None for a plan without such.
        predicted: of what the errors of the cuts are, their sum, and before and after of all that was counted.
    """

    digest: str
    cuts: tuple[Cut, ...]
    left: tuple[Left, ...] = ()
    threads: int = 1
    seed: int = 0
    calibration: Mapping[str, Any] | None = None
    refit: bool = False
    asked: Mapping[str, Any] | None = None
    predicted: Mapping[str, Any] | None = None


def to_json(plan: Plan) -> str:
    """Return the plan as JSON text, one cut a line."""
    cuts = [_cut_as_json(cut) for cut in plan.cuts]
    left = [_left_as_json(x) for x in plan.left]
    head: dict[str, Any] = {"format": FORMAT, "source": plan.digest, "threads": plan.threads, "seed": plan.seed}
    if plan.calibration is not None:
        head |= {"calibration": plan.calibration, "refit": plan.refit}
    head |= {name: value for name in ("asked", "predicted") if (value := getattr(plan, name)) is not None}
    lines = [f"  {json.dumps(name)}: {json.dumps(value)}," for name, value in head.items()]
    text = "\n".join(["{", *lines, f'  "cuts": {_rows(cuts)},', f'  "left": {_rows(left)}', "}", ""])
    # A name that is not UTF-8 holds lone surrogates: \udcff, as this writes them, is JSON's spelling too.
    return text.encode("utf-8", "backslashreplace").decode()


def _cut_as_json(cut: Cut) -> dict[str, Any]:
    layer: Any = list(cut.keys) if cut.others else cut.key
    row = {"layer": layer, "method": cut.method, "rank": cut.rank[0] if len(cut.rank) == 1 else list(cut.rank)}
    row |= {"options": dict(cut.options)} if cut.options else {}
    row |= {"price": {name: [before, after] for name, before, after in cut.price}} if cut.price else {}
    row |= {"error": cut.error} if cut.error is not None else {}
    return row | ({"pinned": True} if cut.pinned else {})


def _left_as_json(left: Left) -> dict[str, Any]:
    return {"layer": left.key, "reason": left.reason} | ({"forbidden": True} if left.forbidden else {})


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
    if not isinstance(data, dict) or type(data.get("format")) is not int or data["format"] not in READABLE:
        found = data.get("format") if isinstance(data, dict) else type(data).__name__
        raise PlanError(f'{path}: "format" is {found!r}; expected {FORMAT}, a plan that `surgery plan` wrote')
    _check_fields(data, _FIELDS_OF_A_PLAN, "", path)
    cuts = tuple(_cut(entry, i, path) for i, entry in enumerate(_list(data, "cuts", path)))
    names = [name for cut in cuts for name in cut.keys]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise PlanError(f"{path}: '{twice}' is cut twice; keep one entry")
    left = tuple(_left(entry, i, path) for i, entry in enumerate(_list(data, "left", path)))
    threads, seed = _whole(data, "threads", 1, 1, path), _whole(data, "seed", 0, 0, path)
    objects = {name: data.get(name) for name in ("calibration", "asked", "predicted")}
    for name, value in objects.items():
        if not (value is None or isinstance(value, dict)):
            raise PlanError(f'{path}: "{name}" is {value!r}; expected an object, as `surgery plan` wrote it')
    _check_asked(objects["asked"] or {}, path)
    _check_predicted(objects["predicted"] or {}, path)
    refit = _flag(data, "refit", str(path))
    return Plan(_string(data, "source", path), cuts, left, threads, seed, refit=refit, **objects)


def _check_fields(data: Mapping[str, Any], known: frozenset[str], place: str, path: Path | str) -> None:
    """Raise PlanError for a field that no plan has: a misspelt one would be passed over in silence."""
    strange = next((name for name in data if name not in known), None)
    if strange is not None:
        raise PlanError(f'{path}: {place}"{strange}" is not a field of plans; known are {", ".join(sorted(known))}')


def _cut(entry: Any, index: int, path: Path | str) -> Cut:
    if not isinstance(entry, dict):
        raise PlanError(f"{path}: cuts[{index}] is {entry!r}; expected an object with layer, method and rank")
    _check_fields(entry, _FIELDS_OF_A_CUT, f"cuts[{index}] has ", path)
    key, *others = _layers(entry, path)
    method = _string(entry, "method", path)
    if method not in METHODS:
        raise PlanError(f"method '{method}' is not known; choose one of {', '.join(METHODS)}", node=key)
    rank = entry.get("rank")
    ranks: list[Any] = rank if isinstance(rank, list) else [rank]
    if not ranks or not all(type(n) is int and n > 0 for n in ranks):
        raise PlanError(f"rank is {rank!r} in {path}; expected a whole number above 0, or a list of them", node=key)
    options = entry.get("options", {})
    if not isinstance(options, dict) or not all(isinstance(value, str) for value in options.values()):
        raise PlanError(f"options are {options!r} in {path}; expected an object of texts", node=key)
    place = f"{path}: cuts[{index}]"
    price, pinned = _price(entry.get("price", {}), place), _flag(entry, "pinned", place)
    error = entry.get("error")
    if not (error is None or _is_number(error)):
        raise PlanError(f"{place}: error is {error!r}; expected a number")
    chosen = (key, method, tuple(ranks), tuple(sorted(options.items())), tuple(others))
    cut = Cut(*chosen, price, error, pinned)
    try:
        _ = cut.configured
    except PlanError as error:
        raise PlanError(error.message, node=key) from error
    return cut


def _price(price: Any, place: str) -> Price:
    if not isinstance(price, dict) or not all(
        isinstance(pair, list) and len(pair) == 2 and all(map(_is_number, pair)) for pair in price.values()
    ):
        raise PlanError(f"{place}: price is {price!r}; expected two numbers for each measure, before and after")
    return tuple((name, before, after) for name, (before, after) in price.items())


def _check_asked(asked: Mapping[str, Any], path: Path | str) -> None:
    """Raise PlanError for what reports cannot tell of what was asked for."""
    for name, value in asked.items():
        kind = {"policy": "text", "rank": "numbers"}.get(name, "a number")
        fits = {"text": isinstance(value, str), "numbers": _are_numbers(value)}.get(kind, _is_number(value))
        if not fits:
            raise PlanError(f'{path}: asked "{name}" is {value!r}; expected {kind}')


def _check_predicted(predicted: Mapping[str, Any], path: Path | str) -> None:
    """Raise PlanError for what reports cannot tell of what was predicted: most are before and after of a measure."""
    for name, value in predicted.items():
        if name == "sweep":
            fits = isinstance(value, list) and all(_is_point(point) for point in value)
        elif name == "of":
            fits = isinstance(value, str)
        else:
            fits = _is_number(value) if name in ("error", "drop") else _are_numbers(value) and len(value) == 2
        if not fits:
            raise PlanError(f'{path}: predicted "{name}" is {str(value)[:60]}; expected what `surgery plan` wrote')


def _is_point(point: Any) -> bool:
    """Return whether a value is a point of a sweep, as `surgery.planning.curve` makes it."""
    return (
        isinstance(point, dict)
        and all(_is_number(point.get(name)) for name in ("asked", "macs", "params", "cuts"))
        and (point.get("error") is None or _is_number(point["error"]))
    )


def _are_numbers(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_number, value))


def _is_number(value: object) -> bool:
    # NaN and infinities are JSON to Python; no number that plans hold is one, or comes near.
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e300 <= value <= 1e300


def _left(entry: Any, index: int, path: Path | str) -> Left:
    key, reason = _string(entry, "layer", path), _string(entry, "reason", path)
    _check_fields(entry, _FIELDS_OF_WHAT_IS_LEFT, f"left[{index}] has ", path)
    return Left(key, reason, _flag(entry, "forbidden", f"{path}: left[{index}]"))


def _flag(data: Mapping[str, Any], name: str, place: str) -> bool:
    value = data.get(name, False)
    if not isinstance(value, bool):
        raise PlanError(f'{place}: "{name}" is {value!r}; expected true or false')
    return value


def _layers(entry: Mapping[str, Any], path: Path | str) -> list[str]:
    """Return the names of the layers of a cut: one, or a list of such that share factors."""
    layers = entry.get("layer")
    if isinstance(layers, list) and layers and all(isinstance(name, str) for name in layers):
        return layers
    return [_string(entry, "layer", path)]


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
