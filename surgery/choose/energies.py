"""Ranks by the product of the energies that the layers keep, as large as a limit allows.

Zhang et al. (2016), "Accelerating very deep convolutional networks for classification and detection", section 3.4.
There a layer's cost is proportional to its rank; here it is what the thinner layers take, or the uncut layer at full
rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

import numpy as np

from surgery.choose.instance import Infeasible
from surgery.ops import Float64Array


@dataclass(frozen=True, eq=False, slots=True)
class EnergyLayer:
    """A layer as the greedy sees it.

    Attributes:
        eigenvalues: (d,) of the covariance of its responses, none negative, largest first.
        costs: what it takes at ranks 1 to d; the last is that of the uncut layer where that is the better full rank.
    """

    eigenvalues: Float64Array
    costs: tuple[float, ...]


@dataclass(frozen=True, order=True, slots=True)
class _Step:
    """The next step down of a layer: the share of its energy lost for each unit of cost saved."""

    price: float
    layer: int
    rank: int


def select(layers: Sequence[EnergyLayer], limit: float) -> tuple[int, ...]:
    """Return one rank for each layer, 1 to d, such that all costs together are at most `limit`.

    From full ranks on, the step with the smallest (dE / E) / dC is taken, over all layers, until the limit is kept
    (equations 16 to 18). A step is to the rank below, as published, wherever costs are affine in the rank; where a
    layer uncut is cheaper than its largest ranks, to the rank at which the quotient is smallest, and in the last step
    no further down than the limit asks.

    Raises:
        Infeasible: even the cheapest ranks take more; the measure is called "cost".
    """
    least = sum(min(layer.costs) for layer in layers)
    if least > limit:
        raise Infeasible({"cost": least}, {"cost": limit})
    ranks = [len(layer.costs) for layer in layers]
    steps = [step for i, layer in enumerate(layers) if (step := _next(i, layer, ranks[i]))]
    heapify(steps)
    while steps and _total(layers, ranks) > limit:
        step = heappop(steps)
        i, layer = step.layer, layers[step.layer]
        over = _total(layers, ranks) - limit
        enough = [r for r in range(step.rank, ranks[i]) if layer.costs[ranks[i] - 1] - layer.costs[r - 1] >= over]
        ranks[i] = max(enough, default=step.rank)
        if following := _next(i, layer, ranks[i]):
            heappush(steps, following)
    return tuple(ranks)


def _total(layers: Sequence[EnergyLayer], ranks: Sequence[int]) -> float:
    return sum(layer.costs[rank - 1] for layer, rank in zip(layers, ranks, strict=True))


def _next(index: int, layer: EnergyLayer, rank: int) -> _Step | None:
    """Return the layer's best step down from `rank`, of equals the shortest, or None where none saves anything."""
    saved = layer.costs[rank - 1] - np.array(layer.costs[: rank - 1])
    kept = layer.eigenvalues[:rank]
    lost = np.cumsum(kept[:0:-1])[::-1] / (kept.sum() or 1.0)  # Summed from the small end, to keep its digits.
    prices = np.where(saved > 0, lost / np.where(saved > 0, saved, 1.0), np.inf)[::-1]
    if not np.isfinite(prices).any():
        return None
    steps = int(prices.argmin())
    return _Step(float(prices[steps]), index, rank - 1 - steps)
