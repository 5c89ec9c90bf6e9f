"""One request, or several that differ in one number, to plans."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from surgery.choose import Request, choose
from surgery.factor.threads import blas_threads
from surgery.formats import Source
from surgery.model import Model
from surgery.planning.accurate import within_drop
from surgery.planning.case import Case, Progress
from surgery.planning.means import NONE, Means
from surgery.planning.timed import timed_planner
from surgery.plans import Plan
from surgery.survey import survey


def make_plan(
    source: Source, model: Model, request: Request, means: Means = NONE, progress: Progress = lambda text, share: None
) -> Plan:
    """Return the plan for a request, with all measured that it takes; raises PlanError where it cannot be met.

    The plan does not say what data it is to be fitted to: that is for who carries it out.
    """
    case = Case(source, model, survey(model), request, means, progress)
    with blas_threads(request.threads):
        planner = _planner(case)
        return planner(request) if request.amount.max_drop is None else within_drop(case, planner)


def sweep(
    source: Source,
    model: Model,
    request: Request,
    shares: Sequence[float],
    means: Means = NONE,
    progress: Progress = lambda text, share: None,
) -> list[Plan]:
    """Return a plan for each share of the network's MACs; the other budgets of the request hold in each."""
    requests = [replace(request, amount=replace(request.amount, macs=share)) for share in shares]
    case = Case(source, model, survey(model), requests[0], means, progress)
    with blas_threads(request.threads):
        planner = _planner(case)
        return [planner(each) for each in requests]


def _planner(case: Case) -> Callable[[Request], Plan]:
    """Return what makes a plan for a request that says nothing of accuracy."""
    timed = timed_planner(case) if _bounds_time(case.request) else None

    def plan(request: Request) -> Plan:
        if timed is not None and _bounds_time(request):
            return timed(request)
        return choose(case.surveyed, request, case.digest, case.evidence)

    return plan


def _bounds_time(request: Request) -> bool:
    return bool({"speedup", "latency"} & {*request.amount.budgets})
