"""The uniform policy: every layer keeps the same share of its own cost, as large as the network's budget allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from surgery.choose.costs import OPTIONS, costs
from surgery.choose.ranks import size_for
from surgery.choose.selecting import Choice
from surgery.errors import PlanError
from surgery.factor import Rank

BISECTIONS = 40  # of a ratio between 0 and 1: far below one rank of any layer


def uniform(choices: Sequence[Choice], limits: Mapping[str, float], whole: Mapping[str, float]) -> list[Rank]:
    """Return a rank for each layer so that all together take at most `limits`, by measure.

    `whole` is what the rest of the network takes, for the message of the PlanError that is raised where rank 1
    everywhere takes too much.
    """
    shares = {name: _share(choices, name, limit, whole[name]) for name, limit in limits.items()}
    return [_rank(choice, shares) for choice in choices]


def _share(choices: Sequence[Choice], name: str, limit: float, rest: float) -> float:
    """Return the largest ratio at which the layers together take at most `limit`."""

    def taken(share: float) -> float:
        return sum(_remaining(choice, name, share) for choice in choices)

    low, high = 0.0, 1.0
    least = taken(low)
    if least > limit:
        own = rest + sum(costs(choice.site, choice.site.op)[name] for choice in choices)
        reachable = (rest + least) / own
        raise PlanError(f"{OPTIONS[name]} cannot be met: with rank 1 everywhere {reachable:.3f} of the network remains")
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if taken(middle) <= limit else (low, middle)
    return low


def _rank(choice: Choice, shares: Mapping[str, float]) -> Rank:
    return choice.method.rank_at(choice.site.op, max(1, size_for(choice.site, choice.method, shares)))


def _remaining(choice: Choice, name: str, share: float) -> float:
    """Return a layer's cost after the cut, or its own where the cut would not make it smaller."""
    site = choice.site
    cut = choice.method.template(site.op, _rank(choice, {name: share}))
    return min(costs(site, cut)[name], costs(site, site.op)[name])
