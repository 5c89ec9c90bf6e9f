"""Caffe layers as they are being made, and how they are put together from an ONNX node's operands."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

from surgery.convert.to_caffe.values import (
    Array,
    Constant,
    InexpressibleError,
    Operand,
    Padded,
    Permutation,
    Shape,
    Value,
    axes_in_memory,
    in_memory,
    plain,
    reshaped,
    transposed,
    varying,
)

Param = bool | int | float | str | Sequence[int] | Mapping[str, Sequence[int]]
MAX_NUMBERS = 2**31 - 1  # in one blob
MAX_AXES = 32  # of a blob
MAX_PARTS = 1024  # tops of a Slice that stands in for a Permute, which stock Caffe has not
MAX_INDICES = 1 << 20  # that are looked at one by one
MAX_REPEATS = 8  # bottoms of a Concat that are one blob; Tile, for more, is not known to all runtimes
_POSITIVE = {"AbsVal", "BNLL", "Exp", "ReLU", "Sigmoid", "Softmax", "Threshold"}


@dataclass(frozen=True, eq=False)
class Layer:
    """A V2 layer; a `str` among the parameters is an enum's name, a sequence a repeated field.

    `text` are more of its fields, a line for each, as a Caffe file had them.
    """

    name: str
    type: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    params: Mapping[str, Param] = field(default_factory=dict)
    blobs: tuple[Array, ...] = ()
    text: tuple[str, ...] = ()


@dataclass(eq=False)
class Builder:
    """Collects the layers of one node after another. Within a node, layers and blobs are `<node>_1`, `<node>_2`, ..."""

    taken: set[str]
    layers: list[Layer] = field(default_factory=list)
    _taken_from: dict[Value, tuple[Value, int, Sequence[int]]] = field(default_factory=dict)
    _name: str = ""
    _first: int = 0
    _count: int = 0

    def begin(self, name: str) -> None:
        """Start the layers of the node `name`."""
        self._name, self._first, self._count = name, len(self.layers), 0

    def restart(self) -> None:
        """Forget the layers that this node has got so far."""
        del self.layers[self._first :]

    def is_positive(self, value: Value) -> bool:
        """Say whether a value is known to have no number below 0: it comes from a layer that makes none."""
        maker = next((layer for layer in reversed(self.layers) if value.blob in layer.tops), None)
        return maker is not None and maker.type in _POSITIVE and "negative_slope" not in maker.params

    def finish(self, results: Sequence[Operand], tensors: Sequence[str]) -> list[Operand]:
        """End the node: blobs that are its outputs take their names, and the last layer takes the node's."""
        made = {top for layer in self.layers[self._first :] for top in layer.tops}
        names: dict[str, str] = {}
        for result, tensor in zip(results, tensors, strict=False):
            if tensor and isinstance(result, Value) and result.is_plain and result.blob in made - names.keys():
                names[result.blob] = tensor
        for i in range(self._first, len(self.layers)):
            layer = self.layers[i]
            is_last = i == len(self.layers) - 1
            self.layers[i] = replace(
                layer,
                name=self._name if is_last else layer.name,
                bottoms=tuple(names.get(blob, blob) for blob in layer.bottoms),
                tops=tuple(names.get(blob, blob) for blob in layer.tops),
            )
        renamed = [replace(r, blob=names.get(r.blob, r.blob)) if isinstance(r, Value) else r for r in results]
        for old, new in zip(results, renamed, strict=True):
            if isinstance(old, Value) and isinstance(new, Value) and old in self._taken_from:
                self._taken_from[new] = self._taken_from[old]
        return renamed

    def fresh(self) -> str:
        """Return a name that nothing has."""
        while True:
            self._count += 1
            name = f"{self._name}_{self._count}"
            if name not in self.taken:
                self.taken.add(name)
                return name

    def add(
        self,
        kind: str,
        bottoms: Sequence[Value],
        shape: Iterable[int],
        params: Mapping[str, Param] | None = None,
        blobs: Sequence[Array] = (),
    ) -> Value:
        """Add a layer of one top of `shape` that reads the bottoms' blobs as they lie, and return its top."""
        sizes = _checked(shape)
        for key, number in (params or {}).items():
            given = number if isinstance(number, Sequence) and not isinstance(number, str) else [number]
            if any(isinstance(n, int) and not -MAX_NUMBERS <= n <= MAX_NUMBERS for n in given):
                raise InexpressibleError(f"{key} would be {number}; Caffe's file holds {MAX_NUMBERS} at most")
        if any(blob.dtype.kind not in "fiub" for blob in blobs):
            raise InexpressibleError(f"its weights are {blobs[0].dtype.name}; Caffe's are float32")
        name = self.fresh()
        links = tuple(value.blob for value in bottoms)
        self.layers.append(Layer(name, kind, links, (name,), dict(params or {}), tuple(blobs)))
        return plain(name, sizes)

    def put_back(
        self, kind: str, bottoms: Sequence[Value], shapes: Sequence[Shape], text: tuple[str, ...]
    ) -> list[Value]:
        """Add a layer of any type that reads the bottoms' blobs, with its parameters as text; return its tops."""
        names = [self.fresh() for _ in shapes]
        links = tuple(value.blob for value in bottoms)
        self.layers.append(Layer(names[0], kind, links, tuple(names), text=text))
        return [plain(name, _checked(shape)) for name, shape in zip(names, shapes, strict=True)]

    def unary(self, kind: str, value: Value, params: Mapping[str, Param] | None = None) -> Value:
        """Add a layer that changes each number by itself: views stay as they are."""
        return replace(value, blob=self.add(kind, [value], value.stored, params).blob)

    def power(self, value: Value, *, scale: float = 1.0, shift: float = 0.0, power: float = 1.0) -> Value:
        """Add (shift + scale * x) ^ power, or nothing where that is x."""
        given = {"power": (power, 1.0), "scale": (scale, 1.0), "shift": (shift, 0.0)}
        params = {key: number for key, (number, default) in given.items() if number != default}
        return self.unary("Power", value, params) if params else value

    def filled(self, value: Value, number: float) -> Value:
        """Add a blob like the value's that holds one number everywhere."""
        return self.unary("Power", value, {"power": 1.0, "scale": 0.0, "shift": number})

    def eltwise(self, values: Sequence[Value], operation: str) -> Value:
        """Add SUM, PROD or MAX of values that lie in memory alike."""
        return replace(values[0], blob=self.add("Eltwise", values, values[0].stored, {"operation": operation}).blob)

    def scale(self, value: Value, factors: Array, shifts: Array | None = None) -> Value:
        """Multiply by numbers that broadcast against the tensor, and add others; drops what changes nothing."""
        result = value
        if np.any(factors != 1):
            result = self._by_constant("Scale", result, factors)
        if shifts is not None and np.any(shifts != 0):
            result = self._by_constant("Bias", result, shifts)
        return result

    def _by_constant(self, kind: str, value: Value, numbers: Array) -> Value:
        stored = in_memory(value, numbers)
        axes = varying(stored)
        if not axes:
            number = float(stored[(0,) * stored.ndim])
            return self.power(value, scale=number) if kind == "Scale" else self.power(value, shift=number)
        first, last = axes[0], axes[-1] + 1
        index = tuple(slice(None) if first <= axis < last else 0 for axis in range(stored.ndim))
        blob = np.ascontiguousarray(stored[index], np.float32)
        params: dict[str, Param] = {} if first == 1 else {"axis": first}
        if last - first != 1:
            params["num_axes"] = last - first
        made = self.add(kind, [value], value.stored, params, [blob])
        return replace(value, blob=made.blob)

    def view(self, value: Value, shape: Iterable[int]) -> Value:
        """Return the blob, whatever it stands for, in another shape; adds a Reshape unless it has it."""
        sizes = tuple(shape)
        if sizes == value.stored:
            return plain(value.blob, sizes)
        # A leading zero keeps the bottom's size: the net can still be given another batch.
        keeps_batch = bool(sizes) and bool(value.stored) and sizes[0] == value.stored[0]
        dims = (0, *sizes[1:]) if keeps_batch else sizes
        return self.add("Reshape", [value], sizes, {"shape": {"dim": dims}})

    def plain(self, operand: Operand) -> Value:
        """Return the operand as a blob that is the tensor, shape and all; adds the layers that takes."""
        value = self.value(operand)
        if not value.is_in_order:
            value = replace(self._sorted(value), kind=value.kind)
        return replace(self.view(value, value.shape), kind=value.kind)

    def value(self, operand: Operand) -> Value:
        """Return the operand as a blob seen through a view; padding is added, a constant becomes a Parameter."""
        if isinstance(operand, Value):
            return operand
        if isinstance(operand, Padded):
            return self._padded(operand)
        if operand.array.dtype.kind not in "fiub":
            raise InexpressibleError(f"a constant of {operand.array.dtype.name} has no place in a blob")
        made = self.add("Parameter", (), operand.shape, {"shape": {"dim": operand.shape}}, [operand.array])
        return made if operand.array.dtype.kind == "f" else replace(made, kind="integer")

    def by_axes(self, value: Value) -> tuple[Value, Permutation]:
        """Return a plain value and the permutation of it that `value` is, for what works along axes."""
        found = axes_in_memory(value)
        if found is None:
            value = self.plain(value)
            return value, tuple(range(len(value.shape)))
        shape, permutation = found
        return self.view(value, shape), permutation

    def take(self, value: Value, axis: int, indices: Sequence[int]) -> Value:
        """Return the tensor's slices `indices` along `axis`, cut out with Slice and put together with Concat.

        Slices of what was itself cut out come from where that was cut: to turn an axis twice takes no layer.
        """
        source, along, places = self._taken_from.get(value, (value, -1, ()))
        if along == axis:
            value, indices = source, _composed(places, indices)
        if len(indices) == value.shape[axis] and _runs(indices) == [(0, len(indices))]:
            return value
        result = self._cut_out(value, axis, indices)
        self._taken_from[result] = (value, axis, indices)
        return result

    def _cut_out(self, value: Value, axis: int, indices: Sequence[int]) -> Value:
        base, permutation = self.by_axes(value)
        place = permutation[axis]
        runs = _runs(indices)
        if len(runs) > MAX_PARTS:
            raise InexpressibleError(f"it would need a Slice of {len(runs)} parts; {MAX_PARTS} is the limit")
        points = sorted({edge for run in runs for edge in run} - {0, base.shape[place]})
        edges = [0, *points, base.shape[place]]
        sliced = self.slice(base, place, points)
        starts = dict(zip(edges, sliced, strict=False))
        parts = [part for start, stop in runs for part in (starts[edge] for edge in edges if start <= edge < stop)]
        return permuted(parts[0] if len(parts) == 1 else self.concat(parts, place), permutation)

    def slice(self, value: Value, axis: int, points: Sequence[int]) -> list[Value]:
        """Cut a plain value along `axis` before each of `points`."""
        if not points:
            return [value]
        edges = [0, *points, value.shape[axis]]
        names = [self.fresh() for _ in edges[1:]]
        params: dict[str, Param] = {"axis": axis, "slice_point": tuple(points)}
        self.layers.append(Layer(names[0], "Slice", (value.blob,), tuple(names), params))
        sizes = (stop - start for start, stop in pairwise(edges))
        shapes = [(*value.shape[:axis], size, *value.shape[axis + 1 :]) for size in sizes]
        return [plain(name, shape) for name, shape in zip(names, shapes, strict=True)]

    def concat(self, values: Sequence[Value], axis: int) -> Value:
        """Put plain values one after the other along `axis`."""
        first = values[0].shape
        total = sum(value.shape[axis] for value in values)
        return self.add("Concat", values, (*first[:axis], total, *first[axis + 1 :]), {"axis": axis})

    def _sorted(self, value: Value) -> Value:
        """Return the value with its numbers in memory as ONNX has them.

        Stock Caffe has no Permute. Two neighbouring axes change places when a Slice cuts one of them into single
        slices and a Concat joins these along the other.
        """
        sizes = list(value.factors)
        current = list(range(len(sizes)))
        result = value
        for i, factor in enumerate(value.order):
            place = current.index(factor)
            if place == i:
                continue
            before = math.prod(sizes[f] for f in current[:i])
            block = math.prod(sizes[f] for f in current[i:place])
            after = math.prod(sizes[f] for f in current[place + 1 :])
            result = self._swapped(result, before, block, sizes[factor], after)
            current.insert(i, current.pop(place))
        return reshaped(plain(result.blob, result.stored), value.shape)

    def _swapped(self, value: Value, before: int, a: int, b: int, after: int) -> Value:
        if min(a, b) > MAX_PARTS:
            raise InexpressibleError(
                f"its transpose does not fold away, and Caffe, which has no Permute, would need a Slice of {min(a, b)} "
                f"parts; {MAX_PARTS} is the limit"
            )
        if b <= a:
            parts = self.slice(self.view(value, (before, a, b, after)), 2, range(1, b))
            return self.concat(parts, 1)
        parts = self.slice(self.view(value, (before, a * b, 1, after)), 1, range(b, a * b, b))
        return self.concat(parts, 2)

    def _padded(self, padded: Padded) -> Value:
        """Add the padding: blocks of the fill joined on with Concat."""
        base, permutation = self.by_axes(padded.value)
        for axis, place in enumerate(permutation):
            for size, is_first in ((padded.begin[axis], True), (padded.end[axis], False)):
                if size:
                    blocks = self._blocks(base, place, size, padded.fill)
                    base = self.concat([*blocks, base] if is_first else [base, *blocks], place)
        return permuted(base, permutation)

    def _blocks(self, value: Value, axis: int, size: int, fill: float) -> list[Value]:
        """Return values that together are `size` slices along `axis` and hold the fill."""
        one = self.slice(value, axis, [1])[0] if value.shape[axis] > 1 else value
        block = self.filled(one, fill)
        if size <= MAX_REPEATS:
            return [block] * size
        shape = (*value.shape[:axis], size, *value.shape[axis + 1 :])
        return [self.add("Tile", [block], shape, {"axis": axis, "tiles": size})]


def _checked(shape: Iterable[int]) -> Shape:
    """Return a blob's shape; raises InexpressibleError where Caffe's blobs have no such."""
    sizes = tuple(shape)
    if math.prod(sizes) > MAX_NUMBERS:
        raise InexpressibleError(f"a blob of shape {sizes} is above Caffe's {MAX_NUMBERS} numbers")
    if len(sizes) > MAX_AXES:
        raise InexpressibleError(f"a blob of {len(sizes)} axes is above Caffe's {MAX_AXES}")
    return sizes


def permuted(value: Value, permutation: Permutation) -> Value:
    """Return a plain value seen with its axes in another order."""
    result = transposed(value, permutation)
    assert result is not None  # A plain value's axes are pieces of its memory.
    return result


def constant(operand: Operand | None, what: str) -> Array:
    """Return a constant's numbers; raises InexpressibleError where the operand depends on the input."""
    if not isinstance(operand, Constant):
        raise InexpressibleError(f"its {what} is computed, and Caffe takes only a constant there")
    return operand.array


def _composed(places: Sequence[int], indices: Sequence[int]) -> Sequence[int]:
    if isinstance(indices, range) and indices.step == 1:
        return places[indices.start : indices.stop]
    return [places[index] for index in indices]


def _runs(indices: Sequence[int]) -> list[tuple[int, int]]:
    """Return indices as ranges [start, stop)."""
    if isinstance(indices, range) and (indices.step == 1 or not indices):
        return [(indices.start, indices.stop)] if indices else []
    if len(indices) > MAX_INDICES:
        raise InexpressibleError(f"it picks {len(indices)} places one by one; {MAX_INDICES} is the limit")
    runs: list[tuple[int, int]] = []
    for index in indices:
        if runs and runs[-1][1] == index:
            runs[-1] = (runs[-1][0], index + 1)
        else:
            runs.append((index, index + 1))
    return runs
