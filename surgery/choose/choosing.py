"""From a request to a plan: which layers, by which policy, at what price, and what is left alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from surgery.choose.costs import Milliseconds, price
from surgery.choose.policies import POLICIES, Evidence, Network, check_policy, cut_at, policy_of, told
from surgery.choose.prediction import measure_of
from surgery.choose.ranks import rank_of
from surgery.choose.request import Request
from surgery.choose.selecting import Choice, select
from surgery.errors import PlanError
from surgery.plans import Cut, Left, Plan
from surgery.survey import Survey


def choose(survey: Survey, request: Request, digest: str, evidence: Evidence | None = None) -> Plan:
    """Return the plan for a request; raises PlanError when it names no layer or cannot be met."""
    choices, left = select(survey, request)
    policy, evidence = policy_of(request), evidence or Evidence()
    common = [choice for choice in choices if not choice.amount]
    if common:
        check_policy(policy, request, evidence)
    timed = evidence.milliseconds
    cuts = {cut.key: _repriced(survey, cut, timed) for cut in request.pinned}
    cuts |= {c.site.key: cut_at(c, c.method, rank_of(c, c.amount), timed) for c in choices if c.amount}
    network = Network(survey, request, evidence, tuple(common), tuple(cuts.values()))
    found = POLICIES[policy](network) if common else []
    cuts |= {cut.key: cut for cut in found if cut is not None}
    spared = "other layers serve the budget better" if cuts else "the network meets the budget as it is"
    for choice in choices:
        cut = cuts.get(choice.site.key)
        reason = spared if cut is None else _no_gain(choice, cut, request)
        if reason:
            cuts.pop(choice.site.key, None)
            left.append(Left(choice.site.key, reason))
    ordered = tuple(cuts[node.key] for node in survey.model.nodes if node.key in cuts)
    asked = {"policy": policy} | told(request) if common else None
    plan = Plan(digest, ordered, tuple(left), request.threads, request.seed, asked=asked)
    return replace(plan, predicted=_predicted(network, ordered))


def _repriced(survey: Survey, cut: Cut, timed: Milliseconds | None) -> Cut:
    """Return a pinned cut with the price that it has in this network."""
    site = next((site for site in survey.sites if site.key == cut.key), None)
    if site is None:
        raise PlanError("is pinned and cannot be cut; take the pin out", cut.key)
    if cut.others:
        return cut
    return replace(cut, price=price(site, cut.configured.template(site.op, cut.rank), timed))


def _no_gain(choice: Choice, cut: Cut, request: Request) -> str | None:
    """Return why a cut would not make its layer smaller, or None."""
    if request.force:
        return None
    ratios = (choice.amount or request.amount).ratios
    measure = "macs" if "macs" in ratios and "params" not in ratios else "params"
    before, after = next((before, after) for name, before, after in cut.price if name == measure)
    if after < before:
        return None
    limit = "x".join(map(str, choice.site.break_even[cut.method]))
    shown = "x".join(map(str, cut.rank))
    noun = "parameters" if measure == "params" else "MACs"
    return f"{cut.method} at rank {shown} would take {after} {noun} for {before}; below break-even is rank {limit}"


def _predicted(network: Network, cuts: Sequence[Cut]) -> dict[str, Any] | None:
    """Return what the plan is to come to: each measure before and after, and the error where all cuts have one."""
    if not cuts:
        return None
    found: dict[str, Any] = {}
    for name, before in network.totals.items():
        prices = [(b, a) for cut in cuts for measure, b, a in cut.price if measure == name]
        if len(prices) == len(cuts):
            found[name] = [before, before + sum(a - b for b, a in prices)]
    errors = [cut.error for cut in cuts]
    if None not in errors:
        found |= {"error": sum(error or 0.0 for error in errors), "of": measure_of(network.evidence.sensitivity)}
    return found
