"""Layers that stand as chains on the other side, as entries: one for each, or one for all that share layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from surgery.diff import chained
from surgery.diff.chains import Chained
from surgery.diff.difference import Change, Difference, Entry, Kind, Layer, Part, Reweighed
from surgery.diff.network import Network

MAX_WORK = 10**10  # multiplications of a spectrum that is still computed: some seconds


def chain_entries(found: Sequence[Chained], one: Network, other: Network, kind: Kind) -> Iterator[Entry]:
    """Yield the entries of layers of `one` that are chains of `other`; for "merged" the chains are A's."""
    for group in _sharing(found):
        parts: list[Part] = []
        changes: list[Change] = []
        weights: list[Reweighed] = []
        for each in group:
            part, bias = _part(each, one, other, group)
            parts.append(part)
            ends = one.layers[each.whole], other.layers[each.chain[-1]]
            changes += top_change(*(ends if kind == "split" else ends[::-1]))
            weights += bias if kind == "split" else [replace(b, before=b.after, after=b.before) for b in bias]
        wholes = tuple(one.layers[each.whole].key for each in group)
        places = sorted({place for each in group for place in each.chain})
        chain = tuple(other.layers[place].key for place in places)
        a, b = (wholes, chain) if kind == "split" else (chain, wholes)
        yield Entry(kind, a, b, tuple(changes), tuple(weights), tuple(parts))


def top_change(one: Layer, other: Layer) -> list[Change]:
    """Return that two layers call what they make otherwise, if they do."""
    tops = ", ".join(one.tops), ", ".join(other.tops)
    return [Change("top", *tops)] if tops[0] != tops[1] else []


def with_spectra(difference: Difference, a: Network, b: Network) -> Difference:
    """Return the difference with the spectra of the layers that are chains, but for those that take over MAX_WORK."""
    sides: Mapping[Kind, Network] = {"split": a, "merged": b}
    entries = tuple(
        replace(entry, parts=tuple(_seen(part, sides[entry.kind]) for part in entry.parts)) if entry.parts else entry
        for entry in difference.entries
    )
    return replace(difference, entries=entries)


def _seen(part: Part, network: Network) -> Part:
    op = network.op(network.places[part.whole])
    if part.factored.relative_error is None or op is None:
        return part
    rows, columns = len(op.weight), op.weight_params // len(op.weight)
    if min(rows, columns) * rows * columns > MAX_WORK:
        return part
    return replace(part, factored=replace(part.factored, spectra=chained.spectra(op, part.factored.shape)))


def _sharing(found: Sequence[Chained]) -> list[list[Chained]]:
    """Return chains in groups that begin with the same layer."""
    groups: dict[int, list[Chained]] = {}
    for each in sorted(found, key=lambda each: each.whole):
        groups.setdefault(each.chain[0], []).append(each)
    return list(groups.values())


def _part(each: Chained, one: Network, other: Network, group: Sequence[Chained]) -> tuple[Part, tuple[Reweighed, ...]]:
    op, stages = one.op(each.whole), [stage for stage in map(other.stage, each.chain) if stage is not None]
    assert op is not None  # Only linear layers are found as chains.
    own = [one.parts[each.whole], *(other.parts[place] for place in each.chain)]
    is_known = all(blob.read for part in own for blob in part.blobs or ())
    product = chained.multiplied(op, stages) if is_known else None
    keys = [other.layers[place].key for place in each.chain]
    shared = {place for rest in group if rest is not each for place in rest.chain}
    common = [key for key, place in zip(keys, each.chain, strict=True) if place in shared]
    factored = chained.factored(stages, keys, common, product)
    bias = chained.bias_change(op, product) if product else ()
    return Part(one.layers[each.whole].key, tuple(keys), factored), bias
