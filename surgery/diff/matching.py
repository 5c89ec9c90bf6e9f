"""Which layer of one network is which of another: by name, by content, by what it reads, and by its place."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

from surgery.diff.chains import Chained, chains
from surgery.diff.network import Network, Ref
from surgery.diff.weights import digest

Signature = tuple[object, ...]


@dataclass(frozen=True)
class Matching:
    """What belongs together, as places in the two networks.

    `values` leads from what layers of A read to the same in B. `splits` are layers of A as chains of B, `merges` layers
    of B as chains of A. A layer that is in none of the three is in one network only.
    """

    pairs: dict[int, int]
    values: dict[Ref, Ref]
    splits: tuple[Chained, ...]
    merges: tuple[Chained, ...]

    def alone(self, a: Network, b: Network) -> tuple[frozenset[int], frozenset[int]]:
        """Return the layers that are in one network only."""
        used = [{*self.pairs}, {*self.pairs.values()}]
        for side, found in enumerate((self.splits, self.merges)):
            used[side].update(each.whole for each in found)
            used[1 - side].update(place for each in found for place in each.chain)
        first, second = (frozenset(range(len(net.layers))) - own for net, own in zip((a, b), used, strict=True))
        return first, second


def match(a: Network, b: Network) -> Matching:
    """Match two networks."""
    matcher = _Matcher(a, b)
    matcher.feed()
    matcher.by_name(alike=True)
    matcher.by_content()
    matcher.spread()
    matcher.by_name(alike=False)
    matcher.spread()
    matcher.by_place()
    matcher.spread()
    return Matching(matcher.pairs, matcher.values, tuple(matcher.splits), tuple(matcher.merges))


@dataclass(eq=False)
class _Matcher:
    """One run; what is found early is not taken back."""

    a: Network
    b: Network
    pairs: dict[int, int] = field(default_factory=dict)
    values: dict[Ref, Ref] = field(default_factory=dict)
    back: dict[Ref, Ref] = field(default_factory=dict)
    splits: list[Chained] = field(default_factory=list)
    merges: list[Chained] = field(default_factory=list)
    used: tuple[set[int], set[int]] = field(default_factory=lambda: (set(), set()))

    @cached_property
    def signatures(self) -> tuple[list[Signature], list[Signature]]:
        """What layers that are the same but for their numbers have in common, for each layer of A and of B."""
        first, second = ([_signature(net, i) for i in range(len(net.layers))] for net in (self.a, self.b))
        return first, second

    def feed(self) -> None:
        """Pair the inputs: by name, the rest by position where as many are left."""
        first, second = ([name for name, _ in network.side.inputs] for network in (self.a, self.b))
        common = [name for name in first if name in second]
        left = [[name for name in names if name not in common] for names in (first, second)]
        self._same(common, common)
        if len(left[0]) == len(left[1]):
            self._same(*left)

    def by_name(self, *, alike: bool) -> None:
        """Pair layers of one name; with `alike` only those of one type whose weights have the same shapes."""
        for key, i in self.a.places.items():
            j = self.b.places.get(key)
            if j is not None and self._is_free(i, j) and (not alike or self._are_alike(i, j)):
                self._pair(i, j)

    def by_content(self) -> None:
        """Pair layers that alone hold the same weights."""
        free = [self._free(side) for side in (0, 1)]
        common = set.intersection(*({self.signatures[side][i] for i in free[side]} for side in (0, 1)))
        found: list[dict[Signature, list[int]]] = [{}, {}]
        for side, network in enumerate((self.a, self.b)):
            for i in free[side]:
                signature = self.signatures[side][i]
                content = digest(network.parts[i].blobs) if signature in common else None
                if content is not None:
                    found[side].setdefault((*signature, content), []).append(i)
        for key, (i, *others) in found[0].items():
            if not others and len(found[1].get(key, ())) == 1:
                self._pair(i, found[1][key][0])

    def spread(self) -> None:
        """Follow what is matched: layers that are chains on the other side, and twins that read the same."""
        before = -1
        while before != (before := len(self.used[0]) + len(self.used[1])):
            twins: dict[tuple[Ref, ...], dict[Signature, list[int]]] = {}
            for i in self._free(0):
                refs = self.a.reads[i]
                reads = tuple(self.values[ref] for ref in refs if ref in self.values)
                if i in self.used[0] or len(reads) < len(refs):
                    continue
                if refs not in twins:
                    # A factor may look like a layer beside the one that was cut, so chains come first.
                    self._chains(self.splits, 0, refs, reads)
                    self._chains(self.merges, 1, reads, refs)
                    twins[refs] = self._by_signature(
                        j for j in self._reading(1, reads) if self.b.layers[j].key not in self.a.places
                    )
                if i not in self.used[0] and self.a.layers[i].key not in self.b.places:
                    self._twin(i, twins[refs].get(self.signatures[0][i], []))

    def by_place(self) -> None:
        """Pair what is left with what is like it beside the same layer: forward along what is read, then back."""
        known: dict[Ref, dict[Signature, list[int]]] = {}
        for i in self._free(0):
            for value in (self.values[ref] for ref in self.a.reads[i] if ref in self.values):
                if value not in known:
                    known[value] = self._by_signature(self.b.readers.get(value, ()))
                self._first_alike(i, known[value])
        behind: dict[int, dict[Signature, list[int]]] = {}
        for i in reversed(self._free(0)):
            readers = (k for value in self.a.values(i) for k in self.a.readers.get(value, ()) if k in self.pairs)
            for k in (self.pairs[k] for k in readers):
                if k not in behind:
                    behind[k] = self._by_signature(ref.node for ref in self.b.reads[k] if not isinstance(ref, str))
                self._first_alike(i, behind[k])

    def _chains(self, found: list[Chained], side: int, reads: tuple[Ref, ...], others: tuple[Ref, ...]) -> None:
        """Find the layers of one side that read `reads` and are chains behind `others` on the other side."""
        one, other = (self.a, self.b)[side], (self.a, self.b)[1 - side]
        for each in chains(one, self._reading(side, reads), other, others, self.used[1 - side]):
            found.append(each)
            self.used[side].add(each.whole)
            self.used[1 - side].update(each.chain)
            a, b = (each.whole, each.chain[-1]) if side == 0 else (each.chain[-1], each.whole)
            self._same(self.a.values(a), self.b.values(b))

    def _by_signature(self, places: Iterable[int]) -> dict[Signature, list[int]]:
        found: dict[Signature, list[int]] = {}
        for j in places:
            found.setdefault(self.signatures[1][j], []).append(j)
        return found

    def _twin(self, i: int, waiting: list[int]) -> None:
        """Pair a layer with one of those that are like it, and take that from them: one of the same fields, if any."""
        fields = self.a.layers[i].fields
        j = next((j for j in waiting if self.b.layers[j].fields == fields), next(iter(waiting), None))
        if j is not None:
            waiting.remove(j)
            self._pair(i, j)

    def _first_alike(self, i: int, waiting: dict[Signature, list[int]]) -> None:
        """Pair a layer, if it is free, with the first free one that is like it."""
        alike = waiting.get(self.signatures[0][i], [])
        while alike and alike[0] in self.used[1]:
            alike.pop(0)
        if alike and i not in self.used[0]:
            self._pair(i, alike[0])

    def _reading(self, side: int, reads: tuple[Ref, ...]) -> list[int]:
        """Return the free layers of one side that read exactly these values; of none, those that read nothing."""
        network = (self.a, self.b)[side]
        readers = network.readers.get(reads[0], ()) if reads else range(len(network.layers))
        return [i for i in readers if i not in self.used[side] and network.reads[i] == reads]

    def _pair(self, i: int, j: int) -> None:
        self.pairs[i] = j
        self.used[0].add(i)
        self.used[1].add(j)
        self._same(self.a.values(i), self.b.values(j))

    def _same(self, first: Iterable[Ref], second: Iterable[Ref]) -> None:
        for one, other in zip(first, second, strict=False):
            self.values.setdefault(one, other)
            self.back.setdefault(other, one)

    def _free(self, side: int) -> list[int]:
        return [i for i in range(len((self.a, self.b)[side].layers)) if i not in self.used[side]]

    def _is_free(self, i: int, j: int) -> bool:
        return i not in self.used[0] and j not in self.used[1]

    def _are_alike(self, i: int, j: int) -> bool:
        return self.signatures[0][i] == self.signatures[1][j]


def _signature(network: Network, place: int) -> Signature:
    blobs = network.parts[place].blobs
    return (network.layers[place].type, None if blobs is None else tuple(blob.bare for blob in blobs))
