"""One layer's rank from an amount that is meant for it alone: as given, by energy, or by shares of its own cost."""

from __future__ import annotations

from collections.abc import Mapping

from surgery.choose.costs import costs
from surgery.choose.request import Amount
from surgery.choose.selecting import Choice
from surgery.errors import PlanError
from surgery.factor import Method, Rank
from surgery.factor.base import largest_size
from surgery.survey import Site


def rank_for(site: Site, method: Method, amount: Amount) -> Rank:
    """Return the rank that an amount, shares counted of the layer's own cost, means; raises PlanError."""
    return rank_of(Choice(site, (method,), amount), amount)


def rank_of(choice: Choice, amount: Amount) -> Rank:
    """Return the rank of the preferred method for an amount; raises PlanError."""
    site, method = choice.site, choice.method
    largest = method.max_rank(site.op)
    if amount.rank:
        return _given(choice, amount.rank, largest)
    if amount.energy is not None:
        return method.rank_for_energy(site.op, amount.energy)
    size = size_for(site, method, amount.ratios)
    if size == 0:
        asked = ", ".join(f"{name}={value:g}" for name, value in amount.ratios.items())
        raise PlanError(f"{method.name} cannot reach {asked}: rank 1 takes more", site.key)
    return method.rank_at(site.op, size)


def size_for(site: Site, method: Method, shares: Mapping[str, float]) -> int:
    """Return the last step of the method's path that takes at most these shares of the layer's own cost, or 0."""
    if "macs" in shares and site.facts.macs is None:
        raise PlanError(f"--macs needs shapes: {site.facts.reason}", site.key)
    own = costs(site, site.op)
    limits = {name: share * own[name] for name, share in shares.items()}
    return largest_size(
        method, site.op, lambda chain: all(costs(site, chain)[name] <= limit for name, limit in limits.items())
    )


def _given(choice: Choice, rank: Rank, largest: Rank) -> Rank:
    if rank == (0,):
        return largest
    if choice.amount:  # Asked of this layer by name: a rank it does not have is a mistake.
        rank = rank * len(largest) if len(rank) == 1 else rank
    elif len(rank) == 1:  # Asked of the whole network: no layer takes more than it has.
        return tuple(min(rank[0], limit) for limit in largest)
    if len(rank) != len(largest):
        raise PlanError(f"{choice.method.name} takes {len(largest)} rank(s), found {len(rank)}", choice.site.key)
    return rank
