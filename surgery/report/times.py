"""What a report says of times, which are measured once and never the same twice: only where they are given."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from surgery.report.blocks import Block, Table, Text
from surgery.report.numbers import NONE, figure
from surgery.report.timings import STEPS


def times(timings: Mapping[str, Any] | None) -> list[Block]:
    """Return forward passes with their spread, and seconds of each step of a cut; nothing without times."""
    return [] if timings is None else [*_passes(timings), *_steps(timings)]


def _passes(timings: Mapping[str, Any]) -> list[Block]:
    if not timings.get("models"):
        return []
    # Where two models have one name their folders tell them apart; the machine's others say nothing to a reader.
    heading = ("model", "runtime", "ms, median", "10 to 90 %", "fastest", "ratio to the first", "10 to 90 %")
    rows = tuple(
        (
            "/".join(PurePath(row["model"]).parts[-2:]),
            row["runtime"],
            *_spread(row["milliseconds"]),
            *_spread(row["ratio"])[:2],
        )
        for row in timings["models"]
    )
    ran = [
        *dict.fromkeys(row["version"] for row in timings["models"]),
        *(f"{name}: {timings[name]}" for name in ("machine", "threads", "rounds", "date") if name in timings),
    ]
    return [Table(heading, rows, frozenset(range(2, 7))), Text(f"A forward pass. {'; '.join(ran)}.")]


def _spread(spread: Mapping[str, float]) -> tuple[str, str, str]:
    return figure(spread["median"]), f"{figure(spread['p10'])} to {figure(spread['p90'])}", figure(spread["smallest"])


def _steps(timings: Mapping[str, Any]) -> list[Block]:
    rows = [(name, "", figure(timings[name])) for name in STEPS if name in timings]
    for layer, parts in timings.get("layers", {}).items():
        rows += [(name, layer, figure(seconds)) for name, seconds in parts.items()]
    heading = ("step", "layer", "seconds")
    return [Table(heading, tuple((a, b or NONE, c) for a, b, c in rows), frozenset({2}))] if rows else []
