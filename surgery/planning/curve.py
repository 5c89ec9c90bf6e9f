"""The trade-off curve of several plans: what remains against what is lost, as JSON, table and plots."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from surgery.choose import ERROR_NAMES
from surgery.output import REPORT, TOOL, staged
from surgery.plans import Plan, to_json

FORMAT = 1


def write(folder: Path, shares: Sequence[float], plans: Sequence[Plan]) -> list[dict[str, Any]]:
    """Write the plans, sweep.json, sweep.md and, as SVG and PNG, the curve into a new folder; return its points."""
    from surgery.plotting import Point, trade_off

    rows = [row(share, plan) for share, plan in zip(shares, plans, strict=True)]
    of = next((row["of"] for row in rows if row["of"]), "log energy")
    with staged(folder) as staging:
        for share, plan in zip(shares, plans, strict=True):
            text = to_json(replace(plan, predicted={**(plan.predicted or {}), "sweep": rows}))
            (staging / f"plan-{share:g}.json").write_text(text, encoding="utf-8", errors="backslashreplace")
        (staging / "sweep.json").write_text(json.dumps({"format": FORMAT, "of": of, "points": rows}, indent=1) + "\n")
        (staging / "sweep.md").write_text(_markdown(rows))
        points = [Point("knapsack", row["macs"], row["error"]) for row in rows if row["error"] is not None]
        names = {"x_label": "share of the MACs that remains", "y_label": f"predicted {ERROR_NAMES[of]}"}
        for name in ("sweep.svg", "sweep.png"):
            trade_off(points, staging / name, title="", **names)
        files = sorted([*(path.name for path in staging.iterdir()), REPORT])
        (staging / REPORT).write_text(json.dumps({"tool": TOOL, "files": files}, indent=1) + "\n")
    return rows


def row(share: float, plan: Plan) -> dict[str, Any]:
    """Return a point of the curve as JSON values: what was asked for, what remains, what is predicted to be lost."""
    predicted = plan.predicted or {}
    remains = {name: _ratio(predicted.get(name)) for name in ("macs", "params")}
    of = predicted.get("of")
    return {"asked": share, **remains, "error": predicted.get("error"), "of": of, "cuts": len(plan.cuts)}


def _ratio(pair: Sequence[float] | None) -> float:
    """Return what remains; all of it where nothing is cut."""
    return pair[1] / pair[0] if pair and pair[0] else 1.0


def _markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = ["| MACs asked | MACs | params | predicted error | layers cut |", "|---|---|---|---|---|"]
    for each in rows:
        error = "?" if each["error"] is None else f"{each['error']:.4g}"
        lines.append(f"| {each['asked']:g} | {each['macs']:.3f} | {each['params']:.3f} | {error} | {each['cuts']} |")
    return "\n".join(lines) + "\n"
