"""What one layer sets up in Caffe: the types that the table of layers is made of."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from surgery.formats.caffe.network import Layer, Shape
from surgery.formats.caffe.schema import kind_of
from surgery.formats.caffe.text import Message

Shapes = tuple[Shape, ...]


class ShapeError(ValueError):
    """Caffe would refuse the layer; the message says what was found and what was expected, without the layer's name."""


@dataclass(frozen=True)
class Setup:
    """What Caffe's LayerSetUp and Reshape make of one layer.

    `tops` has at least one entry per named top, None where only data or a file outside the network tell the shape;
    `blobs` is None where forks disagree and the file does not tell which one it is for. In both cases `reason` says
    why. Floats are counts of 4-byte numbers.
    """

    tops: tuple[Shape | None, ...]
    blobs: Shapes | None = ()
    macs: int = 0  # multiply-accumulates of one forward pass over all bottoms, batch included
    column_floats: int = 0  # the im2col buffer of the CPU path: one image's, and every layer keeps its own
    scratch_floats: int = 0  # other buffers of an activation's size that a forward pass in TEST phase allocates
    shares_memory: bool = False  # tops are views of bottoms
    reason: str | None = None


@dataclass(frozen=True)
class LayerType:
    """How Caffe sets up one type of layer.

    `setup` gets shapes for all bottoms and raises ShapeError where Caffe refuses. `bottoms` and `tops` are the smallest
    and largest count allowed, None for no limit. With `blobs_vary` forks share the name and not the blobs: where there
    is a weights file, its shapes count.
    """

    setup: Callable[[Layer, Shapes], Setup]
    bottoms: tuple[int, int | None] = (1, 1)
    tops: tuple[int, int | None] = (1, 1)
    blobs_vary: bool = False


def is_in_place(layer: Layer) -> bool:
    """Return whether the first top is the first bottom; Caffe compares equal positions only."""
    return bool(layer.tops) and layer.tops[:1] == layer.bottoms[:1]


def text(shape: Shape) -> str:
    """Return a shape as messages show it, `1x3x224x224`."""
    return "x".join(map(str, shape)) if shape else "a scalar"


def axis_of(shape: Shape, axis: int, field: str = "axis") -> int:
    """Return `axis` counted from the front; ShapeError when the shape has no such axis."""
    if not -len(shape) <= axis < len(shape):
        raise ShapeError(f"{field} {axis} is outside the input {text(shape)}, which has {len(shape)} axes")
    return axis % len(shape)


def four(shape: Shape) -> tuple[int, int, int, int]:
    """Return (N, C, H, W), absent trailing axes as 1: Caffe's legacy accessors num() ... width()."""
    if len(shape) > 4:
        raise ShapeError(f"the input {text(shape)} has {len(shape)} axes; at most 4 are possible")
    n, c, h, w = (*shape, 1, 1, 1, 1)[:4]
    return n, c, h, w


def image(shape: Shape) -> tuple[int, int, int, int]:
    """Return (N, C, H, W) of an input that must have exactly four axes."""
    if len(shape) != 4:
        raise ShapeError(f"the input {text(shape)} has {len(shape)} axes; expected 4 (N, C, H, W)")
    return four(shape)


def positive(value: int, field: str) -> int:
    """Return `value`; ShapeError when it is not above zero."""
    if value <= 0:
        raise ShapeError(f"{field} is {value}; expected at least 1")
    return value


def params(layer: Layer, name: str) -> Message:
    """Return the block of that name, an empty one where V1 has no such block."""
    message = layer.message.message(name)
    kind = kind_of("LayerParameter", name)
    return message if message.type or kind is None else replace(message, type=kind.type)


def unread(layer: Layer, param: Message, *names: str) -> Setup | None:
    """Return a setup with unknown tops when a fork's field that changes the shape is given, else None."""
    given = [name for name in names if param.has(name)]
    if not given:
        return None
    return Setup((None,) * len(layer.tops), reason=f"what a fork's field {given[0]} does to its shape is not known")


def same_shapes(bottoms: Shapes) -> Shape:
    """Return the shape that all bottoms must have."""
    for index, shape in enumerate(bottoms):
        if shape != bottoms[0]:
            raise ShapeError(f"bottom {index} is {text(shape)}; expected {text(bottoms[0])} as in bottom 0")
    return bottoms[0]


def size(shape: Shape) -> int:
    """Return the number of elements."""
    return math.prod(shape)
