"""What stands for an ONNX tensor on the way to Caffe: a blob seen through a view, a padded one, or a constant.

Reshapes and transposes cost nothing until a layer needs the numbers laid out as ONNX has them: that is how the
transposes of channel-last exporters vanish.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, ...]
Array = NDArray[Any]
Permutation = tuple[int, ...]
Kind = Literal["float", "integer", "truncated"]


MAX_COPY = 1 << 27  # numbers


class InexpressibleError(Exception):
    """A node that Caffe has no layers for; the text is the reason."""


@dataclass(frozen=True)
class Value:
    """The tensor of `shape` that is `blob.reshape(factors).transpose(order).reshape(shape)`; the blob has `stored`.

    `factors` has no ones, and neighbours in `order` that are neighbours in memory are one factor: a tensor that lies
    in memory as ONNX has it has at most one factor. Caffe's numbers are all float32: `kind` says whether they stand
    for float32 in ONNX too, for integers, or for integers once truncated.
    """

    blob: str
    stored: Shape
    shape: Shape
    factors: Shape
    order: Permutation
    kind: Kind = "float"

    @property
    def is_in_order(self) -> bool:
        """Whether the numbers lie in memory as ONNX has them."""
        return len(self.factors) <= 1

    @property
    def is_plain(self) -> bool:
        """Whether the blob is the tensor, shape and all."""
        return self.is_in_order and self.stored == self.shape


@dataclass(frozen=True)
class Padded:
    """A value with `begin` and `end` numbers of `fill` around it along each axis, which no layer has added yet."""

    value: Value
    begin: Shape
    end: Shape
    fill: float

    @property
    def shape(self) -> Shape:
        """The tensor's shape."""
        sizes = zip(self.begin, self.value.shape, self.end, strict=True)
        return tuple(before + size + after for before, size, after in sizes)


@dataclass(frozen=True, eq=False)
class Constant:
    """A tensor that does not depend on the network's input."""

    array: Array

    @property
    def shape(self) -> Shape:
        """The tensor's shape."""
        return self.array.shape


Operand = Value | Padded | Constant


def plain(blob: str, shape: Iterable[int]) -> Value:
    """Return the value that is all of a blob, as it is."""
    sizes = tuple(shape)
    total = math.prod(sizes)
    return Value(blob, sizes, sizes, (total,) if total > 1 else (), (0,) if total > 1 else ())


def reshaped(value: Value, shape: Iterable[int]) -> Value:
    """Return the value in another shape of as many numbers."""
    return replace(value, shape=tuple(shape))


def transposed(value: Value, permutation: Sequence[int]) -> Value | None:
    """Return the value with its axes in another order, None where its axes do not divide the memory evenly."""
    pieces = _pieces(value, value.shape)
    if pieces is None:
        return None
    shape = tuple(value.shape[axis] for axis in permutation)
    return _merged(value, [piece for axis in permutation for piece in pieces[axis]], shape)


def axes_in_memory(value: Value) -> tuple[Shape, Permutation] | None:
    """Return the shape in which the blob's axes are the tensor's in another order, and that order.

    `blob.reshape(shape).transpose(permutation)` is the tensor. None where an axis is in pieces.
    """
    if value.is_in_order:
        return value.shape, tuple(range(len(value.shape)))
    groups = _pieces(value, value.shape)
    if groups is None or any(_scattered(group) for group in groups):
        return None
    real = sorted((i for i, group in enumerate(groups) if group), key=lambda i: groups[i][0].key)
    places = _placed(value, real)
    permutation = tuple(places.index(axis) for axis in range(len(value.shape)))
    return tuple(value.shape[axis] for axis in places), permutation


def _placed(value: Value, real: list[int]) -> list[int]:
    """Return the tensor's axes in the blob's order: those of `real` as given, axes of one where the blob has ones."""
    ones = [axis for axis, size in enumerate(value.shape) if size == 1]
    sizes = [size for size in value.stored if size > 1]
    if len(value.stored) == len(value.shape) and sizes == [value.shape[axis] for axis in real]:
        queue, spare = iter(real), iter(ones)
        return [next(spare) if size == 1 else next(queue) for size in value.stored]
    places = list(real)
    for axis in ones:
        places.insert(axis, axis)
    return places


def memory_order(value: Value, batch: int) -> Array | None:
    """Return where in memory each number of a row lies, with `batch` rows; None where rows are not apart in memory."""
    total = math.prod(value.shape)
    groups = _pieces(reshaped(value, (batch, total // batch)), (batch, total // batch))
    if groups is None:
        return None
    rows, rest = groups
    first = sorted([*rows, *rest], key=lambda piece: piece.key)
    if first[: len(rows)] != rows:
        return None
    inner = first[len(rows) :]
    places = np.arange(total // batch).reshape([piece.size for piece in inner])
    return places.transpose([inner.index(piece) for piece in rest]).reshape(-1)


def in_memory(value: Value, array: Array) -> Array:
    """Return `array`, which broadcasts against the tensor, laid out as the blob is, in the blob's shape."""
    whole = np.broadcast_to(array, value.shape)
    found = axes_in_memory(value)
    if found is not None and found[0] == value.stored:
        return whole.transpose(np.argsort(found[1]))  # No copy: the array may be far smaller than the tensor.
    if whole.size > MAX_COPY:
        raise InexpressibleError(f"its constant would have to be spread out over {whole.size} numbers")
    sizes = [value.factors[factor] for factor in value.order]
    back = [int(place) for place in np.argsort(value.order)]
    return whole.reshape(sizes).transpose(back).reshape(value.stored)


def varying(array: Array) -> list[int]:
    """Return the axes along which an array's numbers are not all the same."""
    # Along a broadcast axis nothing varies, and it need not be looked at in full.
    small = array[tuple(slice(0, 1) if step == 0 else slice(None) for step in array.strides)]
    return [axis for axis in range(small.ndim) if small.shape[axis] > 1 and _varies(small, axis)]


def _varies(array: Array, axis: int) -> bool:
    first = array.take([0], axis)
    return not bool(np.all((array == first) | (np.isnan(array) & np.isnan(first))))


@dataclass(frozen=True)
class _Piece:
    key: tuple[int, int]  # factor, and which part of it: sorted, they are in memory's order
    size: int


def _pieces(value: Value, shape: Shape) -> list[list[_Piece]] | None:
    """Return the pieces of memory that make up each axis of `shape`, or None where they do not divide evenly."""
    queue = [_Piece((factor, 0), value.factors[factor]) for factor in reversed(value.order)]
    groups: list[list[_Piece]] = []
    for size in shape:
        group: list[_Piece] = []
        while size > 1:
            if not queue:
                return None
            piece = queue.pop()
            if size % piece.size == 0:
                group.append(piece)
                size //= piece.size
            elif piece.size % size == 0:
                group.append(_Piece(piece.key, size))
                queue.append(_Piece((piece.key[0], piece.key[1] + 1), piece.size // size))
                size = 1
            else:
                return None
        groups.append(group)
    return groups


def _scattered(group: list[_Piece]) -> bool:
    """Say whether an axis's pieces are not one run of memory; pieces of one factor are neighbours in it."""
    return any(b.key != (a.key[0], a.key[1] + 1) for a, b in pairwise(group))


def _merged(value: Value, pieces: list[_Piece], shape: Shape) -> Value:
    """Return the value with these pieces in logical order, neighbours in memory joined."""
    memory = sorted(piece.key for piece in pieces)
    sizes = {piece.key: piece.size for piece in pieces}
    place = {key: i for i, key in enumerate(memory)}
    runs: list[list[int]] = []
    for piece in pieces:
        here = place[piece.key]
        if runs and runs[-1][-1] + 1 == here:
            runs[-1].append(here)
        else:
            runs.append([here])
    ordered = sorted(runs)
    factors = tuple(math.prod(sizes[memory[i]] for i in run) for run in ordered)
    return replace(value, shape=shape, factors=factors, order=tuple(ordered.index(run) for run in runs))
