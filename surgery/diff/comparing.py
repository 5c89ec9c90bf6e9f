"""Two networks compared: what became of every layer, told in running order."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping, Sequence

from surgery.diff.difference import Change, Difference, Entry, Kind, Sizes
from surgery.diff.matching import Matching, match
from surgery.diff.network import Fields, Network, Ref
from surgery.diff.splits import chain_entries, top_change
from surgery.diff.weights import reweighed


def compare(a: Network, b: Network) -> Difference:
    """Compare two networks, weights by content."""
    found = match(a, b)
    alone = found.alone(a, b)
    moved = _moved(found.pairs)
    entries = [_pair(a, b, i, j, found, alone, is_moved=i in moved) for i, j in found.pairs.items()]
    entries += chain_entries(found.splits, a, b, "split")
    entries += chain_entries(found.merges, b, a, "merged")
    entries += [Entry("removed", (a.layers[i].key,), ()) for i in sorted(alone[0])]
    added = [Entry("added", (), (b.layers[j].key,)) for j in sorted(alone[1])]
    return Difference(a.side, b.side, _ordered(entries, added, a, b), tuple(_outside(a, b)), notes=tuple(_notes(a, b)))


def changes(before: Fields, after: Fields) -> Iterator[Change]:
    """Yield the fields that differ, sorted."""
    old, new = dict(before), dict(after)
    for name in sorted({*old, *new}):
        if old.get(name) != new.get(name):
            yield Change(name, old.get(name), new.get(name))


def _pair(
    a: Network,
    b: Network,
    i: int,
    j: int,
    found: Matching,
    alone: tuple[Collection[int], Collection[int]],
    *,
    is_moved: bool,
) -> Entry:
    one, other = a.layers[i], b.layers[j]
    told = [Change("type", one.type, other.type)] if one.type != other.type and one.type and other.type else []
    told += changes(one.fields, other.fields)
    has_links = a.has_links and b.has_links
    ends = zip(_looked_through(a, i, alone[0]), _looked_through(b, j, alone[1]), strict=False)
    are_same = len(one.bottoms) == len(other.bottoms) and all(_is_same(found, *pair) for pair in ends)
    if has_links and not are_same:
        told.append(Change("bottom", ", ".join(one.bottoms), ", ".join(other.bottoms)))
    new = reweighed(a.parts[i].blobs, b.parts[j].blobs)
    tops = top_change(one, other) if has_links else []
    kinds: dict[Kind, bool] = {
        "changed": bool(told or new),
        "renamed": one.key != other.key or bool(tops),
        "reordered": is_moved,
        "same": True,
    }
    kind = next(kind for kind, holds in kinds.items() if holds)
    training = changes(a.parts[i].training, b.parts[j].training)
    return Entry(kind, (one.key,), (other.key,), (*told, *tops), new, (), tuple(training), is_moved)


def _looked_through(network: Network, place: int, alone: Collection[int]) -> Iterator[Ref]:
    """Yield what a layer reads; where a layer that the other network lacks makes it, what that one reads first."""
    for ref in network.reads[place]:
        while not isinstance(ref, str) and ref.node in alone:
            reads = network.reads[ref.node]
            ref = reads[0] if reads else network.layers[ref.node].tops[ref.slot]
        yield ref


def _is_same(found: Matching, one: Ref, other: Ref) -> bool:
    # A layer that reads data and an input of the network are the same for those behind them.
    return found.values.get(one) == other or (isinstance(one, str) and one == other)


def _moved(pairs: Mapping[int, int]) -> set[int]:
    """Return the fewest layers of A without which all others come in the same order in both networks."""
    places = sorted(pairs)
    tails: list[int] = []  # The smallest last place in B of any run of each length.
    lengths = []
    for i in places:
        length = bisect_left(tails, pairs[i])
        tails[length : length + 1] = [pairs[i]]
        lengths.append(length)
    wanted, kept = len(tails) - 1, set()
    for i, length in zip(reversed(places), reversed(lengths), strict=True):
        if length == wanted:
            kept.add(i)
            wanted -= 1
    return set(places) - kept


def _ordered(entries: Sequence[Entry], added: Sequence[Entry], a: Network, b: Network) -> tuple[Entry, ...]:
    """Return entries as A runs; what B alone has comes behind what stands before it there."""
    entries = sorted(entries, key=lambda entry: min(a.places[key] for key in entry.a))
    holders = {key: i for i, entry in enumerate(entries) for key in entry.b}
    waiting = {entry.b[0]: entry for entry in added}
    behind: dict[int, list[Entry]] = {}
    before = -1
    for layer in b.layers:
        before = holders.get(layer.key, before)
        if layer.key in waiting:
            behind.setdefault(before, []).append(waiting[layer.key])
    result = behind.get(-1, [])
    for i, entry in enumerate(entries):
        result += [entry, *behind.get(i, ())]
    return tuple(result)


def _outside(a: Network, b: Network) -> Iterator[Change]:
    """Yield what differs in inputs and outputs."""
    if not (a.has_links and b.has_links):
        return
    first, second = dict(a.side.inputs), dict(b.side.inputs)
    if set(first) != set(second):
        yield Change("inputs", ", ".join(first) or None, ", ".join(second) or None)
    for name in first:
        if name in second and first[name] != second[name]:
            yield Change(f"shape of input {name}", _sizes(first[name]), _sizes(second[name]))
    if set(a.side.outputs) != set(b.side.outputs):
        yield Change("outputs", ", ".join(a.side.outputs) or None, ", ".join(b.side.outputs) or None)


def _sizes(sizes: Sizes | None) -> str | None:
    return None if sizes is None else "x".join(map(str, sizes)) or "scalar"


def _notes(a: Network, b: Network) -> Iterator[str]:
    for network, name in ((a, "a"), (b, "b")):
        for layer, part in zip(network.layers, network.parts, strict=True):
            if part.unreadable:
                yield f"{name}: the weights of '{layer.key}' are not compared: {part.unreadable}"
