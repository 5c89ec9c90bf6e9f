"""The facts of a cut, as one value that every report is made from: before and after, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from surgery.model import Model
from surgery.ops import collapse
from surgery.ops.arithmetic import multiplications
from surgery.output import TOOL
from surgery.plans import Plan
from surgery.rewriting import Made, Rewritten
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
    notes: Sequence[str] = (),
    measured: Mapping[str, Any] | None = None,
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
        "calibration": plan.calibration,
        "asked": plan.asked,
        "predicted": plan.predicted,
        "measured": measured,
        "layers": [_layer(before, after, result, made) for made in result.made],
        "left": [{"layer": left.key, "reason": left.reason} for left in plan.left],
        "notes": [*result.original.format.notes(result.original), *notes],
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
        "calibration": None,
        "asked": None,
        "predicted": None,
        "measured": None,
        "layers": [],
        "left": [],
        "notes": [],
        "verified": None,
    }


def _totals(surveyed: Survey) -> dict[str, int | None]:
    weight_bytes = None if surveyed.params is None else 4 * surveyed.params
    return {"params": surveyed.params, "macs": surveyed.macs, "weight_bytes": weight_bytes}


def _layer(before: Survey, after: Survey, result: Rewritten, made: Made) -> dict[str, Any]:
    cut, fitted = made.cut, made.fitted
    became = result.model.format.made(result.model)
    names = list(dict.fromkeys(name for key in cut.keys for name in became[key]))
    old, new = [before.facts[key] for key in cut.keys], [after.facts[name] for name in names]
    return {
        "layer": " + ".join(cut.keys),
        "method": cut.method,
        "options": dict(cut.options),
        "rank": list(cut.rank),
        "became": names,
        "params": [total([facts.params for facts in old]), total([facts.params for facts in new])],
        "macs": [total([facts.macs for facts in old]), total([facts.macs for facts in new])],
        "multiplications": _multiplications(before, made),
        "weight_error": fitted.fit.relative_error,
        "response_error": fitted.response_error,
        "refitted": fitted.refitted,
        "solver": fitted.fit.solver,
    }


def _multiplications(before: Survey, made: Made) -> int | None:
    """Return the multiplications of a forward pass that weights of -1, 0 and 1 leave; None without such weights."""
    if made.cut.method != "sdd":
        return None
    chain, facts = made.fitted.fit.chain, before.facts[made.cut.key]
    size, op = facts.input_size or (1, 1), collapse(chain)
    own = op.macs(size) // len(made.chains) if len(made.chains) > 1 else op.macs(size)
    return multiplications(chain, size) * ((facts.macs or 0) // own) if own else None


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
