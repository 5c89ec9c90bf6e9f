"""A network read for comparing: its layers as plain values, and behind each its weights and what it computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import TYPE_CHECKING

from surgery.diff.difference import Layer, Shape, Side
from surgery.formats.wiring import Value, Wiring
from surgery.model import Model, Node, PerChannel, Refusal
from surgery.ops import Op, Scale, Stage

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

# What a layer reads: another's value, or by its name what comes from outside.
Ref = Value | str
Fields = tuple[tuple[str, str], ...]


@dataclass(frozen=True, eq=False, slots=True)
class Blob:
    """Weights of a layer. `read` gives them without copying where the file holds them so; None where none does."""

    name: str
    shape: Shape
    read: Callable[[], NDArray[Any]] | None

    @property
    def bare(self) -> Shape:
        """The shape without ones in front: old Caffe wrote every blob with four axes."""
        lead = next((i for i, size in enumerate(self.shape) if size != 1), len(self.shape))
        return self.shape[lead:]


@dataclass(frozen=True, eq=False, slots=True)
class Part:
    """What belongs to one layer beside its plain values; `training` are fields that no forward pass reads.

    `blobs` is None where not even their shapes are known. `unreadable` says why a file's numbers cannot be read, None
    where they can.
    """

    blobs: tuple[Blob, ...] | None = ()
    training: Fields = ()
    unreadable: str | None = None


@dataclass(frozen=True, eq=False)
class Network:
    """One of the two networks.

    `parts` go with the layers of `side`; `op` gives what layer number i computes if it is linear, `scale` if it scales.
    Where it `has_links`, what layers read and what they call it is compared; weights alone know of it by hearsay.
    """

    side: Side
    parts: Sequence[Part]
    op: Callable[[int], Op | None]
    scale: Callable[[int], Scale | None] = lambda place: None
    has_links: bool = True

    def stage(self, place: int) -> Stage | None:
        """Return what layer number `place` may be in a chain, None where it is no part of any."""
        return self.op(place) or self.scale(place)

    @property
    def layers(self) -> Sequence[Layer]:
        """The layers in running order."""
        return self.side.layers

    @cached_property
    def places(self) -> Mapping[str, int]:
        """The place of each layer, by key."""
        return {layer.key: i for i, layer in enumerate(self.layers)}

    @cached_property
    def wiring(self) -> Wiring:
        """Who makes what each layer reads."""
        return wired(self.layers)

    @cached_property
    def reads(self) -> Sequence[tuple[Ref, ...]]:
        """What each layer reads, in the order of its bottoms."""
        pairs = zip(self.layers, self.wiring.sources, strict=True)
        return [
            tuple(name if value is None else value for name, value in zip(layer.bottoms, sources, strict=True))
            for layer, sources in pairs
        ]

    @cached_property
    def readers(self) -> Mapping[Ref, Sequence[int]]:
        """The layers that read each value, in order."""
        found: dict[Ref, list[int]] = {}
        for i, refs in enumerate(self.reads):
            for ref in dict.fromkeys(refs):
                found.setdefault(ref, []).append(i)
        return found

    @cached_property
    def given(self) -> frozenset[Value]:
        """The values that are outputs of the network."""
        return frozenset(self.wiring.final[name] for name in self.side.outputs if name in self.wiring.final)

    def values(self, place: int) -> tuple[Value, ...]:
        """Return what layer number `place` makes."""
        return tuple(Value(place, slot) for slot in range(len(self.layers[place].tops)))


def wired(layers: Sequence[Layer]) -> Wiring:
    """Return the wiring of layers."""
    return Wiring([Node(layer.key, layer.type, layer.bottoms, layer.tops, None) for layer in layers])


def linked(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """Return layers with the keys of those that they read."""
    pairs = zip(layers, wired(layers).sources, strict=True)
    return tuple(
        replace(layer, sources=tuple("" if value is None else layers[value.node].key for value in sources))
        for layer, sources in pairs
    )


def operations(model: Model, nodes: Sequence[Node]) -> Callable[[int], Op | None]:
    """Return what gives the linear operation that a node computes, None for another."""

    def op(place: int) -> Op | None:
        found = model.format.lift(model, nodes[place])
        return None if isinstance(found, Refusal) else found

    return cache(op)


def scales(model: Model, nodes: Sequence[Node]) -> Callable[[int], Scale | None]:
    """Return what gives the scale without shift that a node computes, None for another."""

    def scale(place: int) -> Scale | None:
        found = model.format.scale(model, nodes[place])
        is_plain = isinstance(found, PerChannel) and found.input == 0 and not found.scale.shift.any()
        return found.scale if isinstance(found, PerChannel) and is_plain else None

    return cache(scale)
