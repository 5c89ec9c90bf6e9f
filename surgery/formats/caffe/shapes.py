"""Shapes, weights, operations and memory of every layer of a network, as Caffe would set it up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from math import prod

from surgery.errors import ParseError
from surgery.formats.caffe.layers import LAYERS, LayerType, Setup, ShapeError
from surgery.formats.caffe.network import Layer, Shape

FLOAT_BYTES = 4  # Caffe's tools run in single precision.


@dataclass(frozen=True)
class LayerShapes:
    """What is known of one layer; None stands for unknown, and `reason` says why something is.

    With `is_invalid` Caffe itself would refuse the layer. The numbers are those of `layers.base.Setup`.
    """

    bottoms: tuple[Shape | None, ...]
    tops: tuple[Shape | None, ...]
    blobs: tuple[Shape, ...] | None
    macs: int | None
    column_floats: int | None
    scratch_floats: int | None
    shares_memory: bool
    reason: str | None
    is_invalid: bool = False

    @property
    def params(self) -> int | None:
        """The number of weights."""
        return None if self.blobs is None else sum(map(prod, self.blobs))


@dataclass(frozen=True)
class Memory:
    """Bytes that a forward pass on the CPU keeps allocated.

    Caffe frees and reuses nothing: every top has its own memory unless it is in place or a view, and every layer its
    own buffers. Left out are buffers of one plane or less, what data layers read ahead, and gradients, which Caffe
    allocates on first use only.
    """

    weight_bytes: int
    activation_bytes: int
    column_bytes: int
    scratch_bytes: int

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.weight_bytes + self.activation_bytes + self.column_bytes + self.scratch_bytes


def infer(
    layers: Sequence[Layer],
    inputs: Mapping[str, Shape | None],
    weights: Mapping[str, tuple[Shape, ...]] | None = None,
) -> tuple[LayerShapes, ...]:
    """Return what is known of each layer, in order; nothing unknown or wrong stops the layers beside it.

    Args:
        layers: The layers of one phase, in file order, V0 ones upgraded.
        inputs: Shapes of the network's input blobs (None: not stated), and of any blob whose shape the user gives;
            they go before what a layer with such a top says.
        weights: Blob shapes by layer name from the weights file, for layers whose blobs cannot be told without.
    """
    blobs = _Blobs(inputs)
    return tuple(_layer(layer, blobs, weights or {}) for layer in layers)


def memory(layers: Sequence[Layer], shapes: Sequence[LayerShapes]) -> Memory | None:
    """Return the memory of a network from the result of `infer`, None where something in it is unknown."""
    if any(None in found.tops or found.blobs is None for found in shapes):
        return None
    return Memory(
        weight_bytes=FLOAT_BYTES * _weight_floats(layers, shapes),
        activation_bytes=FLOAT_BYTES * _activation_floats(layers, shapes),
        column_bytes=FLOAT_BYTES * sum(found.column_floats or 0 for found in shapes),
        scratch_bytes=FLOAT_BYTES * sum(found.scratch_floats or 0 for found in shapes),
    )


def _weight_floats(layers: Sequence[Layer], shapes: Sequence[LayerShapes]) -> int:
    """Return the weights, those shared by name once."""
    total, owned = 0, set()
    for layer, found in zip(layers, shapes, strict=True):
        for name, blob in zip_longest(layer.param_names, found.blobs or ()):
            if blob is None:
                continue  # Caffe refuses more `param` than blobs.
            total += 0 if name in owned else prod(blob)
            if name:
                owned.add(name)
    return total


def _activation_floats(layers: Sequence[Layer], shapes: Sequence[LayerShapes]) -> int:
    """Return the blobs that have memory of their own, the network's inputs included."""
    total, made = 0, set()
    for layer, found in zip(layers, shapes, strict=True):
        new = [*zip(layer.bottoms, found.bottoms, strict=True)]
        if not found.shares_memory:
            new += zip(layer.tops, found.tops, strict=True)
        for name, shape in new:
            if name not in made:  # A bottom is new only when it is an input, a top only when it is not in place.
                total += 0 if shape is None else prod(shape)
                made.add(name)
        made.update(layer.tops)
    return total


class _Blobs:
    """The shapes of all blobs made so far, and for the unknown ones where that begins."""

    def __init__(self, given: Mapping[str, Shape | None]) -> None:
        self.given = {name: shape for name, shape in given.items() if shape is not None}
        self.shapes = dict(given)
        self.origins = {
            name: f"input '{name}': the file states no shape; {_hint(name)}"
            for name, shape in given.items()
            if shape is None
        }

    def make(self, name: str, shape: Shape | None, origin: str) -> Shape | None:
        """Enter one top; what the user gives goes before what the layer says."""
        self.shapes[name] = self.given.get(name, shape)
        if self.shapes[name] is None:
            self.origins[name] = origin
        return self.shapes[name]


@dataclass(frozen=True)
class _Outcome:
    """A layer's setup, or None and why. `origin` is the reason of the first unknown blob among the bottoms."""

    setup: Setup | None
    reason: str = ""
    origin: str = ""
    is_invalid: bool = False


def _layer(layer: Layer, blobs: _Blobs, weights: Mapping[str, tuple[Shape, ...]]) -> LayerShapes:
    """Return what is known of one layer and enter its tops into `blobs`."""
    bottoms = tuple(blobs.shapes.get(name) for name in layer.bottoms)
    outcome = _outcome(layer, bottoms, blobs)
    setup = outcome.setup or Setup(tops=(), blobs=None)
    reason = outcome.reason and f"'{layer.name}' ({layer.type}): {outcome.reason}"
    tops = []
    for index, name in enumerate(layer.tops):
        shape = setup.tops[index] if index < len(setup.tops) else None
        hinted = reason if outcome.is_invalid else f"{reason}; {_hint(name)}"
        tops.append(blobs.make(name, shape, outcome.origin or hinted))
    first = next((name for name, shape in zip(layer.tops, tops, strict=True) if shape is None), None)
    if outcome.origin:
        reason = f"behind {outcome.origin}"
    elif first is not None:
        reason = blobs.origins[first]
    weight_blobs = setup.blobs
    if layer.name in weights and (weight_blobs is None or LAYERS[layer.type].blobs_vary):
        weight_blobs = weights[layer.name]
    is_known = outcome.setup is not None and first is None and weight_blobs is not None
    return LayerShapes(
        bottoms=bottoms,
        tops=tuple(tops),
        blobs=weight_blobs,
        macs=setup.macs if outcome.setup else None,
        column_floats=setup.column_floats if outcome.setup else None,
        scratch_floats=setup.scratch_floats if outcome.setup else None,
        shares_memory=setup.shares_memory,
        reason=None if is_known else reason,
        is_invalid=outcome.is_invalid,
    )


def _outcome(layer: Layer, bottoms: tuple[Shape | None, ...], blobs: _Blobs) -> _Outcome:
    """Set the layer up as far as its type and its bottoms are known."""
    missing = [name for name in layer.bottoms if name not in blobs.shapes]
    if missing:
        reason = f"unknown bottom blob '{missing[0]}'; no layer before this one and no input makes it"
        return _Outcome(None, reason, is_invalid=True)
    layer_type = LAYERS.get(layer.type)
    if layer_type is None:
        return _Outcome(None, "its output shape is not known to this tool")
    if layer.generation == 0:
        return _Outcome(None, "it is written in the format of 2013; upgrade the file first")
    fault = _wrong_counts(layer, layer_type)
    if fault:
        return _Outcome(None, fault, is_invalid=True)
    known = tuple(shape for shape in bottoms if shape is not None)
    if len(known) < len(bottoms):
        return _Outcome(None, origin=blobs.origins[layer.bottoms[bottoms.index(None)]])
    try:
        setup = layer_type.setup(layer, known)
    except ShapeError as error:
        return _Outcome(None, str(error), is_invalid=True)
    except ParseError as error:
        return _Outcome(None, f"{error.path}:{error.line}:{error.column}: {error.message}", is_invalid=True)
    return _Outcome(setup, setup.reason or "")


def _wrong_counts(layer: Layer, layer_type: LayerType) -> str | None:
    """Return what is wrong with the number of bottoms or tops."""
    for what, found, (least, most) in (
        ("bottom", len(layer.bottoms), layer_type.bottoms),
        ("top", len(layer.tops), layer_type.tops),
    ):
        if found < least or (most is not None and found > most):
            expected = f"{least}" if least == most else f"at least {least}" if most is None else f"{least} to {most}"
            return f"{found} {what}{'' if found == 1 else 's'}; expected {expected}"
    return None


def _hint(name: str) -> str:
    return f"give --shape {name}=N,C,H,W"
