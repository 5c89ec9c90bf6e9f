"""A graph to lay out: two drawings in one, so that what both have stands at the same place in both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

Edge = tuple[int, int]


@dataclass(frozen=True)
class Graph:
    """Nodes 0 to n - 1, in a sensible order from left to right, and edges without a cycle.

    Attributes:
        drawings: for each node the drawings that it is in, as bits; nodes of different drawings may overlap.
        edges: each edge, from above to below, with the drawings that it is in.
        stiff: edges that are drawn straight down where any way can be found.
    """

    drawings: tuple[int, ...]
    edges: Mapping[Edge, int]
    stiff: frozenset[Edge] = frozenset()


def topological(count: int, edges: Iterable[Edge]) -> list[int] | None:
    """Return the nodes 0 to `count` - 1 with every edge pointing forward, small numbers early; None for a cycle."""
    below: list[list[int]] = [[] for _ in range(count)]
    waiting = [0] * count
    for upper, lower in edges:
        below[upper].append(lower)
        waiting[lower] += 1
    ready = [node for node in range(count) if not waiting[node]]
    heapify(ready)
    order: list[int] = []
    while ready:
        node = heappop(ready)
        order.append(node)
        for lower in below[node]:
            waiting[lower] -= 1
            if not waiting[lower]:
                heappush(ready, lower)
    return order if len(order) == count else None
