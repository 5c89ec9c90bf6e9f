"""The policies: how an amount that is meant for the whole network becomes a rank for each of its layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from surgery.choose.candidates import menu
from surgery.choose.costs import OPTIONS, Milliseconds, check_known, costs, price, priced, totals
from surgery.choose.energies import EnergyLayer, select
from surgery.choose.knapsack import Infeasible, solve
from surgery.choose.prediction import energy_lost, objective, predictor
from surgery.choose.ranks import rank_of
from surgery.choose.request import BUDGETS, Request, stored_options
from surgery.choose.selecting import Choice
from surgery.choose.tables import Candidate, Menu, Sensitivity
from surgery.choose.uniform import uniform
from surgery.choose.vbmf import ranks_by_vbmf
from surgery.errors import PlanError
from surgery.factor import Method, Rank
from surgery.plans import Cut
from surgery.survey import Survey


@dataclass(frozen=True, eq=False)
class Evidence:
    """What was measured that a choice may rest on.

    Attributes:
        sensitivity: what cuts do to the layers and to the network, None without data.
        milliseconds: what a layer, or a chain in its place, takes; None where no time is at stake.
        whole_ms: what the whole network takes.
        limit_ms: what it may take.
        is_made_up_for: whether each layer is to be fitted behind the cuts before it.
        menus: what may become of each layer, by key, filled in when first needed: for several choices that differ in
            their amounts only, all else being equal.
    """

    sensitivity: Sensitivity | None = None
    milliseconds: Milliseconds | None = None
    whole_ms: float = 0.0
    limit_ms: float = 0.0
    is_made_up_for: bool = False
    menus: dict[str, Menu] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Network:
    """A network, the layers that a policy is to choose ranks for, and the cuts that are settled already."""

    survey: Survey
    request: Request
    evidence: Evidence
    choices: tuple[Choice, ...]
    settled: tuple[Cut, ...]

    @property
    def totals(self) -> Mapping[str, float]:
        """What the uncut network takes, by measure."""
        timed = self.evidence.milliseconds is not None
        return totals(self.survey) | ({"ms": self.evidence.whole_ms} if timed else {})

    def own(self, choice: Choice) -> dict[str, float]:
        """What a layer takes as it is."""
        site = choice.site
        return priced(site, site.op, self.evidence.milliseconds) or costs(site, site.op)

    def cut(self, choice: Choice, rank: Rank) -> Cut:
        """Return the cut of a layer by its own method."""
        return cut_at(choice, choice.method, rank, self.evidence.milliseconds)

    @property
    def limits(self) -> Mapping[str, float]:
        """What the whole network may take, by measure."""
        amount = self.request.amount
        limits = {name: ratio * self.totals.get(name, 0.0) for name, ratio in amount.ratios.items()}
        if amount.size is not None:
            limits["bytes"] = amount.size
        if amount.activations is not None:
            limits["activations"] = amount.activations * self.totals.get("activations", 0.0)
        if amount.speedup is not None or amount.latency is not None:
            limits["ms"] = self.evidence.limit_ms
        check_known(self.survey, limits)
        return limits

    def rest(self, measure: str) -> float:
        """What all takes that is not to be chosen: other layers as they are, settled ones as cut."""
        ours = sum(self.own(choice).get(measure, 0.0) for choice in self.choices)
        saved = sum(before - after for cut in self.settled for name, before, after in cut.price if name == measure)
        return self.totals[measure] - ours - saved


Policy = Callable[[Network], list[Cut | None]]


def cut_at(choice: Choice, method: Method, rank: Rank, timed: Milliseconds | None) -> Cut:
    """Return the cut of a layer with its price; raises PlanError for a rank that it does not have."""
    site = choice.site
    try:
        chain = method.template(site.op, rank)
    except PlanError as error:
        raise PlanError(error.message, site.key) from error
    return Cut(site.key, method.name, rank, stored_options(method), site.others, price(site, chain, timed))


def policy_of(request: Request) -> str:
    """Return the policy that was asked for, else what suits the amount."""
    if request.policy:
        return request.policy
    if request.amount.rank:
        return "fixed"
    if request.amount.energy is not None:
        return "energy"
    # What layers lose that are cut as one is not measured.
    return "uniform" if request.share else "knapsack"


def check_policy(policy: str, request: Request, evidence: Evidence) -> None:
    """Raise PlanError unless the policy can serve the amount."""
    if policy not in POLICIES:
        raise PlanError(f"policy '{policy}' is not known; choose from {', '.join(POLICIES)}")
    amount = request.amount
    given = {"rank"} if amount.rank else {"energy"} if amount.energy is not None else {*amount.budgets}
    served = _SERVES[policy]
    if not given and served:
        raise PlanError("how much is to remain? give --rank, --energy, --macs, --params or another budget", "request")
    if not given <= {*served} or (policy == "energies" and len(given) > 1):
        wanted = f"takes {' or '.join(_option(name) for name in served)}" if served else "takes no amount"
        found = ", ".join(_option(name) for name in sorted(given))
        raise PlanError(f"policy {policy} {wanted}, found {found}; give another --policy or another amount")
    if policy in ("knapsack", "energies") and request.share and evidence.sensitivity is not None:
        raise PlanError(f"policy {policy} cannot tell what layers lose that are cut as one; leave out --share")
    if given & {"speedup", "latency"} and evidence.milliseconds is None:
        raise PlanError("a time is asked for and none was measured; `surgery plan` and `compress` do that")


def told(request: Request) -> dict[str, Any]:
    """Return what was asked for, as JSON values."""
    amount = request.amount
    if amount.rank:
        return {"rank": list(amount.rank)}
    return {"energy": amount.energy} if amount.energy is not None else dict(amount.budgets)


def _given(network: Network) -> list[Cut | None]:
    """Cut every layer at the rank, or the energy, that was given."""
    return [network.cut(choice, rank_of(choice, network.request.amount)) for choice in network.choices]


def _vbmf(network: Network) -> list[Cut | None]:
    return [network.cut(choice, ranks_by_vbmf(choice.method, choice.site.op)) for choice in network.choices]


def _uniform(network: Network) -> list[Cut | None]:
    rests = {name: network.rest(name) for name in network.limits}
    left = {name: limit - rests[name] for name, limit in network.limits.items()}
    ranks = uniform(network.choices, left, rests)
    return [network.cut(choice, rank) for choice, rank in zip(network.choices, ranks, strict=True)]


def _energies(network: Network) -> list[Cut | None]:
    """Zhang et al.'s (2016): the largest product of the energies kept, by the greedy of the paper."""
    ((measure, limit),) = network.limits.items()
    ranks = [
        [c.method.rank_at(c.site.op, size + 1) for size in range(max(c.method.max_rank(c.site.op)))]
        for c in network.choices
    ]
    layers = [_energy_layer(network, c, own, measure) for c, own in zip(network.choices, ranks, strict=True)]
    rest = network.rest(measure)
    try:
        chosen = select(layers, limit - rest)
    except Infeasible as error:
        raise PlanError(_unmet(network, {measure: rest + error.least["cost"]})) from None
    return [
        network.cut(c, own[rank - 1]) if rank < len(own) else None
        for c, own, rank in zip(network.choices, ranks, chosen, strict=True)
    ]


def _knapsack(network: Network) -> list[Cut | None]:
    menus = [_menu(network, choice) for choice in network.choices]
    rests = {name: network.rest(name) for name in network.limits}
    try:
        solution = solve(menus, {name: limit - rests[name] for name, limit in network.limits.items()})
    except Infeasible as error:
        raise PlanError(_unmet(network, {name: rests[name] + least for name, least in error.least.items()})) from None
    result: list[Cut | None] = []
    for choice, own, place in zip(network.choices, menus, solution.chosen, strict=True):
        chosen, kept = own.candidates[place], own.candidates[0]
        taken = tuple((name, kept.costs[name], chosen.costs[name]) for name in kept.costs)
        named = (choice.site.key, chosen.method, chosen.rank, chosen.options, choice.site.others)
        result.append(Cut(*named, taken, _predicted(network, choice, chosen)) if chosen.method else None)
    return result


def _predicted(network: Network, choice: Choice, chosen: Candidate) -> float | None:
    """Return what a cut is predicted to add to the error of the network's output, None for a layer that is kept."""
    if network.evidence.sensitivity is None:
        return chosen.error if chosen.method else None
    method = next((method for method in choice.methods if method.name == chosen.method), None)
    if method is None:
        return None
    return predictor(choice.site, method, network.evidence.sensitivity, network.request.seed)(chosen.rank)


def _menu(network: Network, choice: Choice) -> Menu:
    request, evidence = network.request, network.evidence
    if choice.site.key not in evidence.menus:
        evidence.menus[choice.site.key] = menu(
            choice,
            partial(
                objective,
                choice.site,
                sensitivity=evidence.sensitivity,
                seed=request.seed,
                is_made_up_for=evidence.is_made_up_for,
            ),
            multiple=request.multiple,
            force=request.force,
            timed=evidence.milliseconds,
        )
    return evidence.menus[choice.site.key]


def _energy_layer(network: Network, choice: Choice, ranks: Sequence[Rank], measure: str) -> EnergyLayer:
    site, method = choice.site, choice.method
    lost = energy_lost(site, method, network.evidence.sensitivity, network.request.seed)
    kept = np.array([1 - min(lost(rank), 1.0) for rank in ranks[:-1]] + [1.0])
    prices = [costs(site, method.template(site.op, rank))[measure] for rank in ranks[:-1]]
    return EnergyLayer(np.diff(kept, prepend=0.0), (*prices, costs(site, site.op)[measure]))


def _unmet(network: Network, least: Mapping[str, float]) -> str:
    """Return which budgets cannot be met, and what can."""
    told = []
    for name, limit in network.limits.items():
        found, whole = least.get(name, 0.0), network.totals[name]
        share = f"{found / whole:.3f} of the network remains at the least" if whole else "nothing of it is known"
        option = "--speedup" if name == "ms" and network.request.amount.speedup is not None else OPTIONS[name]
        told += [f"{option} cannot be met: {share}" + _absolute(name, found)] if found > limit else []
    return "; ".join(told) or "the budgets cannot be met together; each by itself can: raise one"


def _absolute(name: str, value: float) -> str:
    """Return a bound in the unit that it was given in, where that is not a share."""
    return {"bytes": f", {value / 1e6:.3g} MB", "ms": f", {value:.3g} ms"}.get(name, "")


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


POLICIES: Mapping[str, Policy] = {
    "fixed": _given,
    "energy": _given,
    "vbmf": _vbmf,
    "uniform": _uniform,
    "energies": _energies,
    "knapsack": _knapsack,
}
_SERVES = {
    "fixed": ("rank",),
    "energy": ("energy",),
    "vbmf": (),
    "uniform": ("macs", "params"),
    "energies": ("macs", "params"),
    "knapsack": BUDGETS,
}
