"""Choose ranks layer by layer: as given, by energy, or so that every chosen layer keeps the same ratio."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from surgery.choose.request import Amount, Request, stored_options
from surgery.choose.sharing import joined, together
from surgery.errors import PlanError
from surgery.factor import Method, Rank
from surgery.factor.base import largest_size
from surgery.model import Refusal
from surgery.ops import Chain, Op
from surgery.plans import Cut, Left, Plan
from surgery.survey import Site, Survey

BISECTIONS = 40  # of a ratio between 0 and 1: far below one rank of any layer


@dataclass(frozen=True, eq=False)
class _Choice:
    """A site, the method that is to cut it, and how much of it is to remain."""

    site: Site
    method: Method
    amount: Amount


def choose(survey: Survey, request: Request, digest: str) -> Plan:
    """Return the plan for a request; raises PlanError when it names no layer or cannot be met."""
    choices, left = _select(survey, request)
    if request.share:
        choices = _shared(survey, choices)
    own = [choice for choice in choices if choice.amount]
    common = [choice for choice in choices if not choice.amount]
    if common and not request.amount:
        raise PlanError("how much is to remain? give --rank, --energy, --params or --macs, or one per layer", "request")
    ranks = {choice.site.key: _rank(choice, choice.amount) for choice in own}
    if request.amount.ratios:
        ranks |= _uniform(survey, own, ranks, common, request)
    else:
        ranks |= {choice.site.key: _rank(choice, request.amount) for choice in common}
    cuts = []
    for choice in choices:
        reason = None if request.force else _no_gain(choice, ranks[choice.site.key], request)
        if reason:
            left.append(Left(choice.site.key, reason))
        else:
            site, method = choice.site, choice.method
            cuts.append(Cut(site.key, method.name, ranks[site.key], stored_options(method), site.others))
    return Plan(digest, tuple(cuts), tuple(left), request.threads, request.seed)


def rank_for(site: Site, method: Method, amount: Amount) -> Rank:
    """Return the rank that an amount, shares counted of the layer's own cost, means; raises PlanError."""
    return _rank(_Choice(site, method, amount), amount)


def _select(survey: Survey, request: Request) -> tuple[list[_Choice], list[Left]]:
    """Return what is to be cut, and what was named and cannot be."""
    choices, left = [], []
    used = set()
    for entry in survey.entries:
        selector = next((s for s in reversed(request.selectors) if s.matches(entry.key)), None)
        if request.selectors and selector is None:
            continue
        used.add(selector)
        if isinstance(entry, Refusal):
            if selector is not None:
                left.append(Left(entry.key, entry.reason))
            continue
        names = (selector.methods if selector else ()) or request.methods
        name = next((name for name in names if name in entry.break_even), None)
        if name is None:
            reasons = "; ".join(f"{name}: {entry.refusals[name]}" for name in names if name in entry.refusals)
            left.append(Left(entry.key, reasons))
            continue
        method, amount = request.method(name, selector), selector.amount if selector else Amount()
        if reason := method.refusal(entry.op):
            left.append(Left(entry.key, f"{name}: {reason}"))
        else:
            choices.append(_Choice(entry, method, amount))
    for selector in request.selectors:
        if selector not in used and not any(selector.matches(entry.key) for entry in survey.entries):
            raise PlanError(f"no layer is named '{selector.pattern}'; `surgery inspect` lists the names")
    return choices, left


def _shared(survey: Survey, choices: Sequence[_Choice]) -> list[_Choice]:
    """Return the choices with those joined that are cut alike and can be cut as one layer."""
    by_key = {choice.site.key: choice for choice in choices}
    result = []
    for group in together(survey.model, [choice.site for choice in choices]):
        members = [by_key[site.key] for site in group]
        alike = len(members) > 1 and len({(choice.method, choice.amount) for choice in members}) == 1
        result += [replace(members[0], site=joined(group))] if alike else members
    return result


def _rank(choice: _Choice, amount: Amount) -> Rank:
    """Return the rank that an amount means for one layer."""
    site, method = choice.site, choice.method
    largest = method.max_rank(site.op)
    if amount.rank:
        return _given_rank(choice, amount.rank, largest)
    if amount.energy is not None:
        return method.rank_for_energy(site.op, amount.energy)
    size = _size(choice, amount.ratios)
    if size == 0:
        asked = ", ".join(f"{name}={value:g}" for name, value in amount.ratios.items())
        raise PlanError(f"{method.name} cannot reach {asked}: rank 1 takes more", site.key)
    return method.rank_at(site.op, size)


def _given_rank(choice: _Choice, rank: Rank, largest: Rank) -> Rank:
    if rank == (0,):
        return largest
    if choice.amount:  # Asked of this layer by name: a rank it does not have is a mistake.
        rank = rank * len(largest) if len(rank) == 1 else rank
    elif len(rank) == 1:  # Asked of the whole network: no layer takes more than it has.
        return tuple(min(rank[0], limit) for limit in largest)
    if len(rank) != len(largest):
        raise PlanError(f"{choice.method.name} takes {len(largest)} rank(s), found {len(rank)}", choice.site.key)
    return rank


def _params(op: Op | Chain) -> int:
    return op.params


def _costs(site: Site) -> dict[str, Callable[[Op | Chain], int]]:
    return {"params": _params, "macs": site.macs}


def _size(choice: _Choice, ratios: Mapping[str, float]) -> int:
    """Return the last step of the method's path that keeps every ratio, or 0."""
    site = choice.site
    if "macs" in ratios and site.facts.macs is None:
        raise PlanError(f"--macs needs shapes: {site.facts.reason}", site.key)
    limits = [(cost, ratios[name] * cost(site.op)) for name, cost in _costs(site).items() if name in ratios]
    return largest_size(choice.method, site.op, lambda chain: all(cost(chain) <= limit for cost, limit in limits))


def _uniform(
    survey: Survey, own: list[_Choice], ranks: Mapping[str, Rank], common: list[_Choice], request: Request
) -> dict[str, Rank]:
    """Return ranks that give all `common` layers the same ratios, as large as the network's ratios allow."""
    shares = {}
    for name, ratio in request.amount.ratios.items():
        total = survey.params if name == "params" else survey.macs
        if total is None:
            raise PlanError(f"--{name} needs every layer's shape: {survey.missing_shape()}")
        fixed = total - sum(_costs(c.site)[name](c.site.op) for c in [*own, *common])
        fixed += sum(_remaining(c, ranks[c.site.key], name) for c in own)
        shares[name] = _share(common, name, ratio * total - fixed, total, fixed)
    return {c.site.key: c.method.rank_at(c.site.op, max(1, _size(c, shares))) for c in common}


def _share(common: list[_Choice], name: str, budget: float, total: int, fixed: int) -> float:
    """Return the largest ratio at which the layers together take at most `budget`."""

    def taken(share: float) -> int:
        return sum(_remaining(c, c.method.rank_at(c.site.op, max(1, _size(c, {name: share}))), name) for c in common)

    low, high = 0.0, 1.0
    least = taken(low)
    if least > budget:
        reachable = (fixed + least) / total
        raise PlanError(f"--{name} cannot be met: with rank 1 everywhere {reachable:.3f} of the network remains")
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if taken(middle) <= budget else (low, middle)
    return low


def _remaining(choice: _Choice, rank: Rank, name: str) -> int:
    """Return a layer's cost after the cut, or its own where the cut would not make it smaller."""
    cost = _costs(choice.site)[name]
    return min(cost(choice.method.template(choice.site.op, rank)), cost(choice.site.op))


def _no_gain(choice: _Choice, rank: Rank, request: Request) -> str | None:
    """Return why cutting at `rank` would not make the layer smaller, or None."""
    site, method = choice.site, choice.method
    ratios = (choice.amount or request.amount).ratios
    measure = "macs" if "macs" in ratios and "params" not in ratios else "params"
    cost = _costs(site)[measure]
    before, after = cost(site.op), cost(method.template(site.op, rank))
    if after < before:
        return None
    limit = "x".join(map(str, site.break_even[method.name]))
    shown = "x".join(map(str, rank))
    noun = "parameters" if measure == "params" else "MACs"
    return f"{method.name} at rank {shown} would take {after} {noun} for {before}; below break-even is rank {limit}"
