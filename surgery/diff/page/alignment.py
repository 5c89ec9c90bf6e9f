"""Make one graph of two networks: a layer and what it became share a place, a cut layer spans its chain's places."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from surgery.diff.difference import Difference, Entry, Layer, Side
from surgery.diff.layout import Graph
from surgery.diff.layout.graph import topological

A, B = 1, 2
Key = tuple[int, str]  # Which network, and its layer or the `input_key` of what no layer makes.
Pair = tuple[Key, tuple[Key, ...]]  # A layer, and those it became on the other side: one, or a chain.


@dataclass(frozen=True)
class Line:
    """An edge of one network: which, from where to where, and the places it joins."""

    network: int
    upper: str
    lower: str
    places: tuple[int, int]


@dataclass(frozen=True)
class Alignment:
    """Two networks in one graph of places.

    Attributes:
        spans: for each layer and input of either network the first and last place that it takes.
        lines: the edges of both networks; those that a layer later in running order feeds are left out.
    """

    graph: Graph
    spans: dict[Key, tuple[int, int]]
    lines: tuple[Line, ...]


def input_key(blob: str) -> str:
    """Return what stands for an input of a network that no layer makes; no layer is called so."""
    return f"\0{blob}"


def aligned(difference: Difference) -> Alignment:
    """Return both networks in one graph; where a match would need a layer above itself, it is not aligned."""
    sides = ((A, difference.a), (B, difference.b))
    position = {(network, key): i for network, side in sides for i, key in enumerate(_keys(side))}
    pairs = _pairs(difference, position)
    kept = _increasing(pairs, position)
    one_to_one = [(whole, chain[:1]) for whole, chain in kept]
    for attempt in (pairs + _facing(difference, pairs), pairs, kept, one_to_one):
        found = _joined(difference, position, attempt)
        if found is not None:
            return found
    raise AssertionError("two sequences do not merge")  # Cannot be: the last attempt keeps the order of both.


def _keys(side: Side) -> list[str]:
    """Return the names of the inputs that layers read, then those of the layers."""
    read = [blob for layer in side.layers for blob, source in _sources(layer.bottoms, layer.sources) if not source]
    return [*dict.fromkeys(map(input_key, read)), *(layer.key for layer in side.layers)]


def _sources(bottoms: Sequence[str], sources: Sequence[str]) -> list[tuple[str, str]]:
    return list(zip(bottoms, sources, strict=False))


def _pairs(difference: Difference, position: dict[Key, int]) -> list[Pair]:
    inputs = [key for network, key in position if network == A and (B, key) in position and key.startswith("\0")]
    pairs: list[Pair] = [((A, key), ((B, key),)) for key in inputs]
    return pairs + [pair for entry in difference.entries for pair in _matches(entry)]


def _matches(entry: Entry) -> list[Pair]:
    network, other = (B, A) if entry.kind == "merged" else (A, B)
    if entry.kind not in ("split", "merged"):
        return [((A, entry.a[0]), ((B, entry.b[0]),))] if entry.a and entry.b else []
    pairs = []
    for part in entry.parts:
        # What several chains begin with stands above all of them.
        own = [key for key in part.chain if key not in part.factored.shared] or part.chain[-1:]
        pairs.append(((network, part.whole), tuple((other, key) for key in own)))
    return pairs


def _facing(difference: Difference, pairs: list[Pair]) -> list[Pair]:
    """Return layers of either side that became nothing, but read what is matched: they stand face to face."""
    ends = [(whole, chain[-1]) for whole, chain in pairs]
    other_of = {a: b for pair in ends for a, b in (pair, pair[::-1])}
    taken = {key for whole, chain in pairs for key in (whole, *chain)}
    waiting: dict[Key, list[Key]] = {}
    for layer in difference.b.layers:
        if (B, layer.key) not in taken:
            waiting.setdefault(_first_source(B, layer), []).append((B, layer.key))
    found: list[Pair] = []
    for layer in difference.a.layers:
        facing = waiting.get(other_of.get(_first_source(A, layer), (A, "")))
        if (A, layer.key) not in taken and facing:
            other_of[A, layer.key] = facing[0]
            found.append(((A, layer.key), (facing.pop(0),)))
    return found


def _first_source(network: int, layer: Layer) -> Key:
    source = next(iter(layer.sources), "")
    return network, source or input_key(next(iter(layer.bottoms), ""))


def _increasing(pairs: list[Pair], position: dict[Key, int]) -> list[Pair]:
    """Return the most pairs that stand in the same order on both sides (a longest increasing subsequence)."""
    ends = sorted((_ends(pair, position), i) for i, pair in enumerate(pairs))
    tails: list[int] = []
    tops: list[int] = []
    before: dict[int, int | None] = {}
    for (_, there), i in ends:
        k = bisect_left(tails, there)
        before[i] = tops[k - 1] if k else None
        tails[k : k + 1], tops[k : k + 1] = [there], [i]
    kept: list[Pair] = []
    i_or_none = tops[-1] if tops else None
    while i_or_none is not None:
        kept.append(pairs[i_or_none])
        i_or_none = before[i_or_none]
    return kept[::-1]


def _ends(pair: Pair, position: dict[Key, int]) -> tuple[int, int]:
    """Return where a pair stands on either side; its first layer counts."""
    by_network = {network: position[network, key] for network, key in (pair[0], pair[1][0])}
    return by_network[A], by_network[B]


def _joined(difference: Difference, position: dict[Key, int], pairs: list[Pair]) -> Alignment | None:
    """Return the graph in which these pairs share places, None where it has a cycle."""
    spans, drawings = _spans(difference, position, pairs)
    edges: dict[tuple[int, int], int] = {}
    lines = []
    for network, side in ((A, difference.a), (B, difference.b)):
        for layer in side.layers:
            for blob, source in _sources(layer.bottoms, layer.sources):
                upper, lower = (network, source or input_key(blob)), (network, layer.key)
                if position.get(upper, len(position)) < position[lower]:
                    places = (spans[upper][1], spans[lower][0])
                    lines.append(Line(network, upper[1], lower[1], places))
                    edges[places] = edges.get(places, 0) | network
    stiff = {(spans[a][0], spans[b][0]) for _, chain in pairs for a, b in pairwise(chain)}
    for pair in stiff:
        edges[pair] = A | B  # What stands beside a chain stands beside the layer it faces.
    if topological(len(drawings), edges) is None:
        return None
    return Alignment(Graph(tuple(drawings), edges, frozenset(stiff)), spans, tuple(dict.fromkeys(lines)))


def _spans(
    difference: Difference, position: dict[Key, int], pairs: list[Pair]
) -> tuple[dict[Key, tuple[int, int]], list[int]]:
    """Return the places of everything, numbered in running order, and which networks are drawn at each."""
    chain_of = dict(pairs)
    taken = {key: whole for whole, chain in pairs for key in chain}
    spans: dict[Key, tuple[int, int]] = {}
    drawings: list[int] = []

    def take(key: Key) -> None:
        if key in spans or key not in position:
            return
        if key in chain_of:
            for part in chain_of[key]:
                spans[part] = (len(drawings), len(drawings))
                drawings.append(A | B)
            spans[key] = (spans[chain_of[key][0]][0], spans[chain_of[key][-1]][0])
        elif key in taken:
            take(taken[key])
        else:
            spans[key] = (len(drawings), len(drawings))
            drawings.append(key[0])

    for key in [key for key in position if key[1].startswith("\0")]:
        take(key)
    for entry in difference.entries:
        for key in [*((A, name) for name in entry.a), *((B, name) for name in entry.b)]:
            take(key)
    for key in position:
        take(key)
    return spans, drawings
