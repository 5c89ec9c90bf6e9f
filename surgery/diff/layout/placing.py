"""Give every item of ordered rows an x, so that long edges run straight down and items stand over their neighbours.

Brandes and Koepf, 2001: align each item with its median neighbour, from each of four corners, and take the middle of
the four results. Blocks are packed over the graph of their constraints, which needs no correction of shifts.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise

from surgery.diff.layout.graph import Edge, topological
from surgery.diff.layout.layering import Layers
from surgery.diff.layout.ordering import Rows

Gap = Callable[[int, int], float]


def placed(layers: Layers, rows: Rows, gap: Gap) -> tuple[float, ...]:
    """Return the x of every item, the middle of it; `gap` tells the least distance between two middles."""
    crossed = _crossed(layers, rows)
    results = []
    for is_upward in (False, True):
        for is_mirrored in (False, True):
            turned = tuple(row[::-1] for row in rows) if is_mirrored else rows
            turned = turned[::-1] if is_upward else turned
            neighbours = layers.below if is_upward else layers.above
            blocks = _aligned(turned, neighbours, layers.stiff, crossed)
            x = _packed(layers, turned, blocks, gap)
            results.append([-value for value in x] if is_mirrored else x)
    return _balanced(results)


def _crossed(layers: Layers, rows: Rows) -> frozenset[Edge]:
    """Return the steps that cross a stiff one; they give way."""
    found: set[Edge] = set()
    for upper, lower in pairwise(rows):
        top = {item: i for i, item in enumerate(upper)}
        bottom = {item: i for i, item in enumerate(lower)}
        steps = [(a, b) for a in upper for b in layers.below[a]]
        stiff = sorted((top[a], bottom[b]) for a, b in steps if (a, b) in layers.stiff)
        starts = [a for a, _ in stiff]
        # Where stiff steps cross each other, what lies between them crosses one of the two.
        left = [*accumulate((b for _, b in stiff), max, initial=-1)]
        right = [*accumulate((b for _, b in reversed(stiff)), min, initial=len(lower))][::-1]
        for a, b in steps:
            before, after = bisect_left(starts, top[a]), bisect_right(starts, top[a])
            if (a, b) not in layers.stiff and not left[before] <= bottom[b] <= right[after]:
                found.add((a, b))
    return frozenset(found)


def _aligned(
    rows: Rows, neighbours: Sequence[tuple[int, ...]], stiff: frozenset[Edge], crossed: frozenset[Edge]
) -> list[int]:
    """Return for each item the first of the block of items that stand in one line with it."""
    block = list(range(len(neighbours)))
    place: dict[int, int] = {}
    for row in rows:
        reached = -1
        for item in row:
            for other in _medians(item, neighbours[item], place, stiff):
                is_free = (other, item) not in crossed and (item, other) not in crossed
                if is_free and place[other] > reached:
                    block[item], reached = block[other], place[other]
                    break
        place = {item: i for i, item in enumerate(row)}
    return block


def _medians(item: int, others: tuple[int, ...], place: dict[int, int], stiff: frozenset[Edge]) -> list[int]:
    firm = [other for other in others if (other, item) in stiff or (item, other) in stiff]
    others = tuple(sorted(firm or others, key=place.__getitem__))
    middle = len(others) // 2
    return list(others[middle : middle + 1] if len(others) % 2 else others[max(middle - 1, 0) : middle + 1])


def _packed(layers: Layers, rows: Rows, block: list[int], gap: Gap) -> list[float]:
    """Return the x of every item: blocks as far left as they go, then moved right where room is left for them."""
    gaps: dict[Edge, float] = {}
    for row in rows:
        for drawing in (1, 2):
            there = [item for item in row if layers.drawings[item] & drawing]
            for a, b in pairwise(there):
                pair = (block[a], block[b])
                gaps[pair] = max(gaps.get(pair, 0.0), gap(a, b))
    order = topological(len(block), gaps)
    if order is None:  # Cannot be: no two blocks change sides.
        raise AssertionError("blocks of a layout cross")
    before: list[list[tuple[int, float]]] = [[] for _ in block]
    after: list[list[tuple[int, float]]] = [[] for _ in block]
    for (a, b), distance in gaps.items():
        before[b].append((a, distance))
        after[a].append((b, distance))
    x = [0.0] * len(block)
    for item in order:
        x[item] = max((x[a] + distance for a, distance in before[item]), default=0.0)
    for item in reversed(order):
        # What nothing holds on the left, hangs on what stands to the right of it.
        if not before[item] and after[item]:
            x[item] = min(x[b] - distance for b, distance in after[item])
    return [x[block[item]] for item in range(len(block))]


def _balanced(results: list[list[float]]) -> tuple[float, ...]:
    """Return the mean of the middle two of four results, each moved to where the narrowest of them stands."""
    narrowest = min(results, key=lambda x: max(x, default=0.0) - min(x, default=0.0))
    low, high = min(narrowest, default=0.0), max(narrowest, default=0.0)
    moved = []
    for i, x in enumerate(results):  # Those that were packed to the left have their left sides brought together.
        shift = high - max(x, default=0.0) if i % 2 else low - min(x, default=0.0)
        moved.append([value + shift for value in x])
    return tuple(sum(sorted(values)[1:3]) / 2 for values in zip(*moved, strict=True))
