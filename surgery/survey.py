"""What can be cut in a network, by which method, and why the rest cannot."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from surgery.factor import METHODS, Method, Rank, break_even
from surgery.model import Facts, Model, Node, Refusal
from surgery.ops import Chain, Conv2d, Op

Geometry = tuple[object, ...]


@dataclass(frozen=True, eq=False)
class Site:
    """A node that at least one method can cut.

    `break_even` holds, for each method that can, the largest rank on its path that has fewer weights than the layer;
    `refusals` holds the reasons of the others. `others` are nodes that are to be cut with it: `op` and `facts` are then
    those of all together.
    """

    node: Node
    op: Op
    facts: Facts
    break_even: Mapping[str, Rank]
    refusals: Mapping[str, str]
    others: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The node's key."""
        return self.node.key

    def macs(self, op: Op | Chain) -> int:
        """Return the multiply-accumulates of `op`, or of a chain, in this node's place for one forward pass."""
        size = self.facts.input_size or (1, 1)
        own = self.op.macs(size)
        return op.macs(size) * ((self.facts.macs or 0) // own) if own else 0


@dataclass(frozen=True, eq=False)
class Survey:
    """All nodes of a model in order, each either a Site or a Refusal."""

    model: Model
    facts: Mapping[str, Facts]
    entries: tuple[Site | Refusal, ...]

    @property
    def sites(self) -> tuple[Site, ...]:
        """The nodes that can be cut."""
        return tuple(entry for entry in self.entries if isinstance(entry, Site))

    @property
    def params(self) -> int | None:
        """Numbers in all weights, None where a layer's are not known."""
        return total([facts.params for facts in self.facts.values()])

    @property
    def macs(self) -> int | None:
        """Multiply-accumulates of one forward pass, None where a shape is missing."""
        return total([facts.macs for facts in self.facts.values()])

    def missing_shape(self) -> str | None:
        """Return the first reason why MACs are not known."""
        return next((f.reason for f in self.facts.values() if f.macs is None), None)


def total(counts: Sequence[int | None]) -> int | None:
    """Return the sum of counts, None where one is not known."""
    return None if None in counts else sum(count for count in counts if count is not None)


def survey(model: Model, methods: Sequence[Method] | None = None) -> Survey:
    """Look at every node of an uncut model with every method (default: all)."""
    chosen = tuple(METHODS.values()) if methods is None else tuple(methods)
    facts = model.format.facts(model)
    seen: dict[Geometry, tuple[dict[str, Rank], dict[str, str]]] = {}
    entries = tuple(_entry(model, node, facts[node.key], chosen, seen) for node in model.nodes)
    return Survey(model, facts, entries)


def _entry(
    model: Model,
    node: Node,
    facts: Facts,
    methods: Iterable[Method],
    seen: dict[Geometry, tuple[dict[str, Rank], dict[str, str]]],
) -> Site | Refusal:
    op = model.format.lift(model, node)
    if isinstance(op, Refusal):
        return op
    geometry = _geometry(op)
    if geometry not in seen:  # Networks repeat their shapes: what is found for one holds for all.
        seen[geometry] = _gains(op, methods)
    gains, refusals = seen[geometry]
    if not gains:
        return Refusal(node.key, node.type, "; ".join(f"{name}: {reason}" for name, reason in refusals.items()))
    return Site(node, op, facts, gains, refusals)


def _gains(op: Op, methods: Iterable[Method]) -> tuple[dict[str, Rank], dict[str, str]]:
    gains, refusals = {}, {}
    for method in methods:
        reason = method.refusal(op)
        rank = None if reason else break_even(method, op)
        if rank is not None:
            gains[method.name] = rank
        else:
            refusals[method.name] = reason or "nothing to gain: even rank 1 has as many weights as the layer"
    return gains, refusals


def _geometry(op: Op) -> Geometry:
    if isinstance(op, Conv2d):
        return op.weight.shape, op.stride, op.padding, op.dilation, op.groups
    return op.weight.shape
