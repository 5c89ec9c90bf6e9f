"""Plans for a network that may lose a given accuracy: cut at several shares of the MACs, and measured at each."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from surgery.calibrate import calibration
from surgery.choose import Amount, Request
from surgery.errors import PlanError
from surgery.model import Model
from surgery.planning.case import Case
from surgery.planning.judging import drop_of, judged
from surgery.plans import Plan
from surgery.rewriting import rewrite

SEARCHES = 6  # shares that are tried after the first: one in 64 of what may remain


@dataclass(frozen=True)
class _Tried:
    """A plan, what it leaves of the MACs, and by how much the accuracy fell."""

    plan: Plan
    share: float
    drop: float


def within_drop(case: Case, plan: Callable[[Request], Plan]) -> Plan:
    """Return the plan with the fewest MACs whose accuracy, as measured, falls by no more than the request allows.

    Where the request has other budgets the plan that they make is the one, if it keeps to the accuracy. Raises
    PlanError, which says what can be met, where there is none.
    """
    request, means = case.request, case.means
    if means.data is None and means.tests is None:
        raise PlanError("--max-drop is measured on samples; give --calibrate or --evaluate")
    most = request.amount.max_drop or 0.0
    others = replace(request, amount=replace(request.amount, max_drop=None))
    if others.amount:
        first = _tried(case, plan(others))
        if first.drop <= most:
            return _noted(first)
        found = _search(case, plan, others, most, first.share, 1.0)
        best = f"; at {found.share:.2f} of the MACs it falls by {found.drop:.1%}" if found else ""
        raise PlanError(
            f"--max-drop {most:.3g} cannot be met with the other budgets: the accuracy falls by {first.drop:.1%}{best}"
        )
    found = _search(case, plan, others, most, 0.0, 1.0)
    if found is None:
        raise PlanError(f"--max-drop {most:.3g} cannot be met: every cut that was tried loses more")
    return _noted(found)


def _search(
    case: Case, plan: Callable[[Request], Plan], request: Request, most: float, low: float, high: float
) -> _Tried | None:
    """Return the plan with the smallest share of the MACs, between two, that keeps to the accuracy."""
    best = None
    for _ in range(SEARCHES):
        middle = (low + high) / 2
        bounded = replace(request, amount=Amount(macs=middle))
        try:
            made = plan(bounded)
        except PlanError:  # Fewer MACs than any plan leaves.
            low = middle
            continue
        tried = _tried(case, made)
        if tried.drop <= most:
            best, high = tried, min(middle, tried.share)
        else:
            low = middle
    return best


def _tried(case: Case, plan: Plan) -> _Tried:
    """Carry out a plan and measure it."""
    with tempfile.TemporaryDirectory(prefix="surgery-") as folder:
        cut = _carried_out(case, plan)
        files = cut.format.save(cut, Path(folder), "tried")
        found = judged(case.model, replace(case.source, files=files).load(), case.means, case.progress)
    before, after = (plan.predicted or {}).get("macs", (1, 1))
    return _Tried(plan, after / before, drop_of(found))


def _carried_out(case: Case, plan: Plan) -> Model:
    means = case.means
    if means.data is None or not plan.cuts:
        return rewrite(case.model, plan).model
    keys = tuple(key for cut in plan.cuts for key in cut.keys)
    settings = {"symmetric": means.symmetric, "seed": plan.seed, "progress": case.progress, **means.reading}
    with calibration(case.model, means.data, keys, **settings) as given:
        fitted = replace(plan, calibration=given.record, refit=means.refit)
        return rewrite(case.model, fitted, statistics_for=given.statistics_for).model


def _noted(tried: _Tried) -> Plan:
    """Return the plan with what was measured of it."""
    return replace(tried.plan, predicted={**(tried.plan.predicted or {}), "drop": tried.drop})
