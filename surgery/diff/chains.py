"""Layers of one network that stand as chains of linear layers in another, found by what they read and by shapes.

No name decides: who made the networks does not matter. A name only settles which of several chains of one shape, behind
a stem that layers share, is which layer's.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from surgery.diff import chained, forms
from surgery.diff.network import Network, Ref
from surgery.ops import Op, Scale, Stage

MAX_LENGTH = 8  # layers of a chain
MAX_CHAINS = 1000  # that begin with one layer
MAX_TRIED = 32  # chains that are multiplied out to see which is the nearest to a layer


@dataclass(frozen=True)
class Chained:
    """The layer `whole` of one network and the layers in its place in the other, in running order."""

    whole: int
    chain: tuple[int, ...]


def chains(
    one: Network, wholes: Sequence[int], other: Network, reads: tuple[Ref, ...], taken: Collection[int]
) -> Iterator[Chained]:
    """Yield which of the layers `wholes` of `one` are chains of `other` that begin at the values `reads` there.

    Layers of `other` that are `taken` are no part of a chain.
    """
    ops = {whole: op for whole in wholes if (op := one.op(whole)) is not None}
    paths = _paths(other, reads, taken) if ops and reads else ()
    found = [(path, forms.composed(_stages(other, path))) for path in paths]
    for whole, op in ops.items() if found else ():
        path = _best(op, one.layers[whole].tops, other, found)
        if path is not None:
            yield Chained(whole, path)
            # What a chain ends with is no part of another; what it shares with others ends none.
            found = [each for each in found if each[0][-1] not in path and path[-1] not in each[0]]


def _paths(network: Network, reads: tuple[Ref, ...], taken: Collection[int]) -> Iterator[tuple[int, ...]]:
    """Yield the chains of at least two free linear layers that begin at `reads`, those of one first layer together."""
    for start in _free(network, reads, taken):
        pending: deque[tuple[int, ...]] = deque([(start,)] if network.op(start) is not None else [])
        for _ in range(MAX_CHAINS):
            if not pending:
                break
            path = pending.popleft()
            if len(path) > 1 and not isinstance(network.stage(path[-1]), Scale):
                yield path
            pending += [(*path, i) for i in _following(network, path, taken)]


def _following(network: Network, path: tuple[int, ...], taken: Collection[int]) -> list[int]:
    """Return the layers by which a chain may go on: none where anything else needs what its last layer makes."""
    values = network.values(path[-1])
    readers = {i for value in values for i in network.readers.get(value, ())}
    if len(path) == MAX_LENGTH or network.given.intersection(values):
        return []
    after = [i for i in _free(network, values, taken) if network.stage(i) is not None]
    return after if len(after) == len(readers) else []


def _free(network: Network, reads: tuple[Ref, ...], taken: Collection[int]) -> list[int]:
    """Return the free layers that read exactly these values."""
    return [i for i in network.readers.get(reads[0], ()) if i not in taken and network.reads[i] == reads]


def _best(
    op: Op, tops: tuple[str, ...], other: Network, found: Sequence[tuple[tuple[int, ...], forms.Form | None]]
) -> tuple[int, ...] | None:
    """Return the chain of the layer's shape; of several the one that makes its blobs, else the nearest to it."""
    wanted = forms.form_of(op)
    fitting = [path for path, form in found if form == wanted]
    named = [path for path in fitting if other.layers[path[-1]].tops == tops]
    if len(named or fitting) < 2:
        return next(iter(named or fitting), None)
    return min((named or fitting)[:MAX_TRIED], key=lambda path: _distance(op, _stages(other, path)))


def _distance(op: Op, stages: Sequence[Stage]) -> float:
    error = chained.multiplied(op, stages).relative_error
    return math.inf if error is None else error


def _stages(network: Network, path: Sequence[int]) -> list[Stage]:
    return [stage for stage in map(network.stage, path) if stage is not None]
