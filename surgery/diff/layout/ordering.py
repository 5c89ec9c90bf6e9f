"""Order each row so that few edges cross: sweep down and up, each item to the mean place of its neighbours.

Sugiyama, Tagawa and Toda, 1981. Edges of different drawings do not cross.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Sequence
from itertools import pairwise

from surgery.diff.layout.layering import Layers

Rows = tuple[tuple[int, ...], ...]
MOST_SWEEPS = 24
PATIENCE = 4  # Sweeps in a row that bring nothing.


def ordered(layers: Layers) -> Rows:
    """Return the rows of the graph, each in the order with the fewest crossings that was found."""
    best, fewest, stale = layers.rows, crossings(layers, layers.rows), 0
    rows = best
    for i in range(MOST_SWEEPS):
        if not fewest or stale == PATIENCE:
            break
        rows = _swept(rows, layers.above) if i % 2 == 0 else _swept(rows[::-1], layers.below)[::-1]
        count = crossings(layers, rows)
        stale = 0 if count < fewest else stale + 1
        if count < fewest:
            best, fewest = rows, count
    return best


def _swept(rows: Rows, neighbours: Sequence[tuple[int, ...]]) -> Rows:
    """Sort each row by the mean places of its items' neighbours in the row before; who has none, keeps its place."""
    placed: list[tuple[int, ...]] = []
    place: dict[int, int] = {}
    for row in rows:
        mean = {
            item: sum(place[x] for x in neighbours[item]) / len(neighbours[item]) if neighbours[item] else float(i)
            for i, item in enumerate(row)
        }
        placed.append(tuple(sorted(row, key=mean.__getitem__)))
        place = {item: i for i, item in enumerate(placed[-1])}
    return tuple(placed)


def crossings(layers: Layers, rows: Rows) -> int:
    """Return how many pairs of edges cross in the one drawing, and in the other."""
    return sum(_crossings(layers, upper, lower, drawing) for upper, lower in pairwise(rows) for drawing in (1, 2))


def _crossings(layers: Layers, upper: tuple[int, ...], lower: tuple[int, ...], drawing: int) -> int:
    place = {item: i for i, item in enumerate(lower)}
    ends: list[int] = []  # Lower ends of the edges so far, sorted.
    count = 0
    for item in upper:
        here = sorted(place[x] for x in layers.below[item] if layers.drawings[item] & layers.drawings[x] & drawing)
        count += sum(len(ends) - bisect_right(ends, end) for end in here)
        for end in here:
            insort(ends, end)
    return count
