"""A plan, or several along a curve, as a table for a reader; only the JSON is ever read back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from surgery.cli import tables
from surgery.plans import Cut, Plan

_MEASURES = {"macs": "MACs", "params": "params", "bytes": "bytes", "activations": "maps", "ms": "ms"}
_SHOWN = ("macs", "params", "ms")  # of each layer


def text(plan: Plan) -> str:
    """Return the plan for a terminal."""
    rows = _rows(plan)
    lines = [tables.table(rows, frozenset(range(2, len(rows[0]))))] if plan.cuts else []
    lines += [tables.printable(f"left alone: {left.key}: {left.reason}") for left in plan.left]
    return "\n".join([*lines, *_totals(plan)])


def markdown(plan: Plan) -> str:
    """Return the plan as Markdown."""
    head, *rows = _rows(plan)
    lines = ["# Plan", "", *(f"- {line}" for line in _totals(plan)), "", _row(head), "|---" * len(head) + "|"]
    lines += [_row(row) for row in rows]
    lines += ["", *(f"- `{_safe(left.key)}` is left alone: {_safe(left.reason)}" for left in plan.left)]
    return "\n".join(lines).rstrip() + "\n"


def curve(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the points of a trade-off curve for a terminal."""
    shown = [("MACs", "params", "predicted error", "layers cut")]
    for row in rows:
        error = row["error"]
        shown.append(
            (f"{row['macs']:.3f}", f"{row['params']:.3f}", "?" if error is None else f"{error:.4g}", str(row["cuts"]))
        )
    return tables.table(shown, frozenset(range(4)))


def _rows(plan: Plan) -> list[tuple[str, ...]]:
    names = [name for name in _SHOWN if any(measure == name for cut in plan.cuts for measure, _, _ in cut.price)]
    has_errors = any(cut.error is not None for cut in plan.cuts)
    head = ("layer", "method", "rank", *(_MEASURES[name] for name in names), *(("error",) if has_errors else ()))
    return [head, *(_cells(cut, names, has_errors=has_errors) for cut in plan.cuts)]


def _cells(cut: Cut, names: Sequence[str], *, has_errors: bool) -> tuple[str, ...]:
    price = {name: (before, after) for name, before, after in cut.price}
    shares = (f"{price[name][1] / price[name][0]:.1%}" if price.get(name, (0, 0))[0] else "" for name in names)
    error = ("" if cut.error is None else f"{cut.error:.2g}",) if has_errors else ()
    layer = tables.printable(" + ".join(cut.keys), 40) + (" (pinned)" if cut.pinned else "")
    method = " ".join([cut.method, *(f"{name}={value}" for name, value in cut.options)])
    return (layer, method, "x".join(map(str, cut.rank)), *shares, *error)


def _totals(plan: Plan) -> list[str]:
    from surgery.choose import ERROR_NAMES

    lines = []
    predicted = plan.predicted or {}
    for name, told in _MEASURES.items():
        if name in predicted:
            before, after = predicted[name]
            values = [_value(name, value) for value in (before, after)]
            share = f"  {after / before:.1%}" if before else ""
            lines.append(f"{told:7} {values[0]} -> {values[1]}{share}")
    if "timed" in predicted:
        before, after = predicted["timed"]
        lines.append(f"timed   {before:.4g} ms -> {after:.4g} ms, {before / after:.2f} times as fast")
    if "error" in predicted:
        lines.append(f"predicted error: {predicted['error']:.4g} ({ERROR_NAMES[predicted['of']]})")
    return lines


def _value(name: str, value: float) -> str:
    if name in ("bytes", "activations"):
        return tables.size(round(value))
    return f"{value:.4g}" if name == "ms" else tables.count(round(value))


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_safe(cell) for cell in cells) + " |"


def _safe(text: str) -> str:
    """Return text from a file without what Markdown would read as its own."""
    return tables.printable(text).replace("\\", "\\\\").replace("|", "\\|").replace("`", "'").replace("<", "&lt;")
