"""The facts of a cut, as one value that every report is made from: before and after, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from surgery.model import Model
from surgery.output import TOOL
from surgery.plans import Plan
from surgery.rewriting import Rewritten
from surgery.survey import Survey, survey, total
from surgery.verify import Verdict

FORMAT = 1


def facts(
    before: Survey,
    cut: Model,
    result: Rewritten,
    plan: Plan,
    verdict: Verdict | None,
    files: Sequence[str],
    sources: Sequence[str],
) -> Mapping[str, Any]:
    """Return the report as plain JSON values; no times and no dates, so that equal inputs give equal reports.

    `cut` is the cut model as read back from its files; sizes count one forward pass of the files' own batch size.
    """
    after = survey(cut, ())
    return {
        "tool": TOOL,
        "format": FORMAT,
        "source": {"files": list(sources), "digest": plan.digest},
        "files": list(files),
        "totals": {"before": _totals(before), "after": _totals(after)},
        "layers": [_layer(before, after, result, cut_.key, cut_.method, cut_.rank) for cut_ in plan.cuts],
        "left": [{"layer": left.key, "reason": left.reason} for left in plan.left],
        "notes": list(result.original.format.notes(result.original)),
        "verified": _verified(verdict),
    }


def empty(plan: Plan, files: Sequence[str], sources: Sequence[str]) -> Mapping[str, Any]:
    """Return the report of files that were copied as they are."""
    return {
        "tool": TOOL,
        "format": FORMAT,
        "source": {"files": list(sources), "digest": plan.digest},
        "files": list(files),
        "totals": None,
        "layers": [],
        "left": [],
        "notes": [],
        "verified": None,
    }


def _totals(surveyed: Survey) -> dict[str, int | None]:
    weight_bytes = None if surveyed.params is None else 4 * surveyed.params
    return {"params": surveyed.params, "macs": surveyed.macs, "weight_bytes": weight_bytes}


def _layer(
    before: Survey, after: Survey, result: Rewritten, key: str, method: str, rank: tuple[int, ...]
) -> dict[str, Any]:
    made = result.model.format.made(result.model)[key]
    own, new = before.facts[key], [after.facts[name] for name in made]
    params, macs = [facts.params for facts in new], [facts.macs for facts in new]
    fit = result.fits[key]
    return {
        "layer": key,
        "method": method,
        "rank": list(rank),
        "became": list(made),
        "params": [own.params, total(params)],
        "macs": [own.macs, total(macs)],
        "weight_error": fit.relative_error,
        "solver": fit.solver,
    }


def _verified(verdict: Verdict | None) -> dict[str, Any] | None:
    if verdict is None:
        return None
    worst = verdict.worst
    return {
        "runtime": verdict.runtime,
        "reason": verdict.reason,
        "blobs": len(verdict.comparisons),
        "worst_blob": worst.blob,
        "worst_rel_l2": worst.rel_l2,
    }
