"""Give every node a row below all that feed it, and break edges into steps from one row to the next."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from surgery.diff.layout.graph import Edge, Graph, topological

# A network in which each of 1000 layers reads all before it has half a million edges through half of its rows each.
LARGEST_COUNT_OF_BENDS = 15_000


@dataclass(frozen=True)
class Layers:
    """A graph whose edges lead from a row to the next, made of a `Graph` and bends where its edges pass through rows.

    Attributes:
        rows: the nodes and bends of each row, left to right; bends are numbered after the nodes.
        row_of: the row of each.
        above: for each the nodes and bends in the row above that are joined to it; `below` likewise.
        drawings: the drawings that each is in, as bits.
        bends: for each edge of the graph its bends, one for each row it passes. An edge that is not here passes
            under whatever is in its way: there are too many.
        stiff: steps that are to run straight down.
    """

    rows: tuple[tuple[int, ...], ...]
    row_of: tuple[int, ...]
    above: tuple[tuple[int, ...], ...]
    below: tuple[tuple[int, ...], ...]
    drawings: tuple[int, ...]
    bends: dict[Edge, tuple[int, ...]]
    stiff: frozenset[Edge]
    nodes: int

    def is_bend(self, item: int) -> bool:
        """Whether `item` is where an edge passes through a row."""
        return item >= self.nodes


def layered(graph: Graph) -> Layers:
    """Return the graph in rows, each in the order of the nodes' numbers.

    Raises:
        ValueError: the graph has a cycle.
    """
    row_of = _rows(graph)
    drawings = list(graph.drawings)
    steps: list[tuple[int, int, bool]] = []
    bends: dict[Edge, tuple[int, ...]] = {}
    rank = list(map(float, range(len(row_of))))  # What a row is sorted by at first.
    for edge in sorted(graph.edges, key=lambda edge: (row_of[edge[1]] - row_of[edge[0]], edge)):
        upper, lower = edge
        passed = range(row_of[upper] + 1, row_of[lower])
        if len(row_of) + len(passed) > len(graph.drawings) + LARGEST_COUNT_OF_BENDS:
            break  # The edges are sorted: all that follow are as long or longer.
        bends[edge] = tuple(range(len(row_of), len(row_of) + len(passed)))
        row_of.extend(passed)
        drawings.extend([graph.edges[edge]] * len(passed))
        rank.extend([upper + 0.5] * len(passed))
        stops = (upper, *bends[edge], lower)
        steps.extend((a, b, bool(passed) and a != upper and b != lower) for a, b in pairwise(stops))
    stiff = frozenset((a, b) for a, b, inner in steps if inner) | (graph.stiff & bends.keys())
    rows: list[list[int]] = [[] for _ in range(max(row_of, default=-1) + 1)]
    for item in sorted(range(len(row_of)), key=lambda item: (rank[item], item)):
        rows[row_of[item]].append(item)
    above, below = _neighbours(len(row_of), steps)
    nodes = len(graph.drawings)
    return Layers(tuple(map(tuple, rows)), tuple(row_of), above, below, tuple(drawings), bends, stiff, nodes)


def _rows(graph: Graph) -> list[int]:
    """Return the row of each node: next below the lowest that feeds it; what nothing feeds, just above its readers."""
    order = topological(len(graph.drawings), graph.edges)
    if order is None:
        raise ValueError("a graph to be laid out has a cycle")
    below: list[list[int]] = [[] for _ in order]
    fed = [False] * len(order)
    for upper, lower in graph.edges:
        below[upper].append(lower)
        fed[lower] = True
    row_of = [0] * len(order)
    for node in order:
        for lower in below[node]:
            row_of[lower] = max(row_of[lower], row_of[node] + 1)
    for node in order:
        if not fed[node] and below[node]:
            row_of[node] = min(row_of[lower] for lower in below[node]) - 1
    return row_of


def _neighbours(
    count: int, steps: list[tuple[int, int, bool]]
) -> tuple[tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...]]:
    above: list[list[int]] = [[] for _ in range(count)]
    below: list[list[int]] = [[] for _ in range(count)]
    for upper, lower, _ in steps:
        above[lower].append(upper)
        below[upper].append(lower)
    return tuple(map(tuple, above)), tuple(map(tuple, below))
