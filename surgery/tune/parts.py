"""Which layers of a cut network each cut made, and what its method lets their weights be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from surgery.errors import PlanError
from surgery.model import Model, Refusal, Share, Splice
from surgery.ops import Op
from surgery.ops.stack import unstack
from surgery.plans import Cut
from surgery.tune.schedules import Step, operation

MASKED, SIGNED, TERNARY = "masked", "signed", "ternary"  # zeros stay zero; none is negative; -1, 0, 1, maybe scaled

Kinds = Mapping[int, frozenset[str]]


def _of_semi_nmf(method: Any, last: int) -> Kinds:
    return {0 if method.side == "first" else last: frozenset({SIGNED})}


def _of_nmtf(method: Any, last: int) -> Kinds:
    masked = {MASKED} if method.density < 1 else set()
    signed = {SIGNED} if method.algorithm != "free" else set()
    return {stage: frozenset(masked | (signed if stage in (0, last) else set())) for stage in range(last + 1)}


def _of_sdd(method: Any, last: int) -> Kinds:
    scale = {1: frozenset({SIGNED})} if method.form == "scale" else {}
    return {0: frozenset({TERNARY}), last: frozenset({TERNARY}), **scale}


# What a method binds, for its options and the number of its last stage; methods that are not here bind nothing.
_BOUND: Mapping[str, Callable[[Any, int], Kinds]] = {"semi-nmf": _of_semi_nmf, "nmtf": _of_nmtf, "sdd": _of_sdd}


@dataclass(frozen=True)
class Part:
    """A layer of the cut network: stage number `stage` of what the layer `origin` of the original became.

    Attributes:
        kinds: what binds its weight.
    """

    key: str
    origin: str
    stage: int
    kinds: frozenset[str]


@dataclass(frozen=True)
class Placed:
    """A cut and the layers that it made: of each layer that was cut those that compute it now, in running order."""

    cut: Cut
    chains: Mapping[str, tuple[Part, ...]]

    @property
    def parts(self) -> tuple[Part, ...]:
        """All layers that the cut made, shared ones once."""
        return tuple({part.key: part for chain in self.chains.values() for part in chain}.values())


def placed(original: Model, step: Step, cut: Model) -> tuple[Placed, ...]:
    """Return where the cuts of a step, made in `original`, lie in the network `cut`.

    Raises PlanError where they do not: the plan is for another network.
    """
    edited = original.edit(*(_edit(original, each) for each in step))
    names = original.format.made(edited)
    found = []
    there = {node.key for node in cut.nodes}
    for each in step:
        for name in (name for key in each.keys for name in names[key]):
            if name not in there:
                raise PlanError(f"the plan makes a layer '{name}', which the cut network does not have; give its own")
        found.append(Placed(each, {key: _chain(each, key, names[key]) for key in each.keys}))
    return tuple(found)


def _chain(cut: Cut, key: str, names: tuple[str, ...]) -> tuple[Part, ...]:
    bound = _BOUND.get(cut.method)
    kinds = bound(cut.configured, len(names) - 1) if bound else {}
    return tuple(Part(name, key, stage, kinds.get(stage, frozenset())) for stage, name in enumerate(names))


def _edit(model: Model, cut: Cut) -> Splice | Share:
    """Return the edit that a cut makes, its weights placeholders that take no memory: it is for the names alone."""
    ops = [_lifted(model, key) for key in cut.keys]
    template = cut.configured.template(operation(model, cut), cut.rank)
    if not cut.others:
        return Splice(cut.key, template)
    stem, heads = unstack(template, ops)
    return Share(cut.keys, stem, heads)


def _lifted(model: Model, key: str) -> Op:
    op = model.format.lift(model, model.node(key))
    if isinstance(op, Refusal):
        raise PlanError(f"cannot be cut: {op.reason}", key)
    return op
