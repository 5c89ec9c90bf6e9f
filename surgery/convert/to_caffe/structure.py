"""What moves numbers and leaves them as they are: views, joins, cuts, padding, copies, look-ups."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from surgery.convert.to_caffe import constants
from surgery.convert.to_caffe.arithmetic import expanded
from surgery.convert.to_caffe.call import Call, axis_of
from surgery.convert.to_caffe.layers import Builder, permuted
from surgery.convert.to_caffe.values import (
    Constant,
    InexpressibleError,
    Operand,
    Padded,
    Value,
    reshaped,
    transposed,
)


def identity(call: Call, _: Builder) -> list[Operand]:
    """Lower an Identity: nothing."""
    return [call.operand(0)]


def cast(call: Call, out: Builder) -> list[Operand]:
    """Lower a Cast. Blobs hold float32: integers fit while they are below 2^24, truncation is left to an Embed."""
    operand = call.operand(0)
    value = operand if isinstance(operand, Value) else out.value(operand)
    kind = constants.dtype_of(call).kind
    if kind == "f":
        if constants.dtype_of(call) == np.float16:
            raise InexpressibleError("it rounds to float16, which Caffe has not")
        if value.kind == "truncated":
            raise InexpressibleError("it truncates numbers, which Caffe has no layer for")
        return [replace(value, kind="float")]
    if kind in "iu":
        return [replace(value, kind="integer" if value.kind == "integer" else "truncated")]
    raise InexpressibleError(f"it makes {constants.dtype_of(call).name}, which Caffe has not")


def shape(call: Call, _: Builder) -> list[Operand]:
    """Evaluate a Shape: sizes are known."""
    return [Constant(constants.shape_of(call, call.operand(0).shape))]


def size(call: Call, _: Builder) -> list[Operand]:
    """Evaluate a Size."""
    return [Constant(np.asarray(math.prod(call.operand(0).shape), np.int64))]


def reshape(call: Call, out: Builder) -> list[Operand]:
    """Lower Reshape, Flatten, Squeeze and Unsqueeze: another view."""
    value = out.value(call.operand(0))
    old = value.shape
    if call.type in ("Squeeze", "Unsqueeze"):
        return [reshaped(value, constants.squeezed(call, old))]
    if call.type == "Flatten":
        axis = call.integer("axis", 1)
        axis = len(old) if axis == len(old) else axis_of(axis, len(old))
        return [reshaped(value, (math.prod(old[:axis]), math.prod(old[axis:])))]
    wanted = [int(number) for number in call.needed(1, "shape").reshape(-1)]
    return [reshaped(value, constants.reshape_target(old, wanted, allow_zero=bool(call.integer("allowzero", 0))))]


def transpose(call: Call, out: Builder) -> list[Operand]:
    """Lower a Transpose: another view, of a padded tensor too."""
    operand = call.operand(0)
    rank = len(operand.shape)
    order = call.listed("perm", range(rank)[::-1]) or ()
    if sorted(order) != list(range(rank)):
        raise InexpressibleError(f"its perm {list(order)} is no order of {rank} axes")
    if isinstance(operand, Padded):
        inner = _transposed(out, operand.value, order)
        begin, end = (tuple(sizes[axis] for axis in order) for sizes in (operand.begin, operand.end))
        return [Padded(inner, begin, end, operand.fill)]
    return [_transposed(out, out.value(operand), order)]


def _transposed(out: Builder, value: Value, order: Sequence[int]) -> Value:
    found = transposed(value, order)
    return permuted(out.plain(value), tuple(order)) if found is None else found


def concat(call: Call, out: Builder) -> list[Operand]:
    """Lower a Concat; constants among its inputs become Parameters."""
    values = [out.value(operand) for operand in call.operands if operand is not None]
    axis = axis_of(call.integer("axis", 1), len(values[0].shape))
    if len({(*value.shape[:axis], *value.shape[axis + 1 :]) for value in values}) != 1:
        shapes = ", ".join(str(value.shape) for value in values[:10])
        raise InexpressibleError(f"its inputs {shapes} differ not only along axis {axis}")
    if len(values) == 1:
        return [values[0]]
    bases = [out.by_axes(value) for value in values]
    permutation = bases[0][1]
    if any(other != permutation for _, other in bases):
        bases = [(out.plain(value), tuple(range(len(value.shape)))) for value in values]
        permutation = bases[0][1]
    return [permuted(out.concat([base for base, _ in bases], permutation[axis]), permutation)]


def split(call: Call, out: Builder) -> list[Operand]:
    """Lower a Split."""
    value = out.value(call.operand(0))
    axis = axis_of(call.integer("axis", 0), len(value.shape))
    sizes = constants.split_sizes(call, value.shape[axis])
    if min(sizes) < 1 or len(sizes) < len(call.node.outputs):
        raise InexpressibleError(f"its parts are {sizes}; Caffe has no empty blobs")
    base, permutation = out.by_axes(value)
    points = [int(point) for point in np.cumsum(sizes)[:-1]]
    return [permuted(part, permutation) for part in out.slice(base, permutation[axis], points)]


def slice_(call: Call, out: Builder) -> list[Operand]:
    """Lower a Slice with any steps."""
    value = out.value(call.operand(0))
    for axis, indices in constants.sliced(call, value.shape).items():
        value = _taken(out, value, axis, indices)
    return [value]


def gather(call: Call, out: Builder) -> list[Operand]:
    """Lower a Gather: constant places are slices, computed rows of a constant matrix an Embed."""
    data, indices = call.operand(0), call.operand(1)
    axis = axis_of(call.integer("axis", 0), len(data.shape))
    if isinstance(data, Constant) and not isinstance(indices, Constant):
        return [_embedded(out, data, out.value(indices), axis)]
    if not isinstance(indices, Constant):
        raise InexpressibleError("both its data and its indices are computed; Caffe's Embed looks up constant rows")
    value = out.value(data)
    places = [int(i) + value.shape[axis] * (int(i) < 0) for i in indices.array.reshape(-1)]
    if not all(0 <= place < value.shape[axis] for place in places):
        raise InexpressibleError(f"it looks up {places} on an axis of {value.shape[axis]}")
    taken = _taken(out, value, axis, places)
    return [reshaped(taken, (*value.shape[:axis], *indices.shape, *value.shape[axis + 1 :]))]


def _taken(out: Builder, value: Value, axis: int, indices: Sequence[int]) -> Value:
    if not len(indices):
        raise InexpressibleError("it leaves nothing over; Caffe has no empty blobs")
    return out.take(value, axis, indices)


def _embedded(out: Builder, data: Constant, indices: Value, axis: int) -> Value:
    if axis != 0 or data.array.ndim != 2 or data.array.dtype.kind != "f":
        raise InexpressibleError(f"it looks up axis {axis} of a {data.shape}; Embed has rows of a matrix")
    rows, width = data.shape
    index = out.plain(indices)
    params = {"input_dim": rows, "num_output": width, "bias_term": False}
    return out.add("Embed", [index], (*index.shape, width), params, [data.array])


def pad(call: Call, out: Builder) -> list[Operand]:
    """Lower a Pad: kept aside for the convolution or pool behind it; what it cuts off is cut off here."""
    operand = call.operand(0)
    mode = call.text("mode", "constant")
    rank = len(operand.shape)
    if call.opset < 11:
        pads, fill = call.listed("pads") or (), call.number("value", 0.0)
    else:
        pads = tuple(int(n) for n in call.needed(1, "pads").reshape(-1))
        given = call.array(2, "value")
        fill = 0.0 if given is None or not given.size else float(given.reshape(-1)[0])
    axes = call.array(3, "axes") if call.opset >= 18 else None
    places = list(range(rank)) if axes is None else [axis_of(int(axis), rank) for axis in axes.reshape(-1)]
    if len(pads) != 2 * len(places):
        raise InexpressibleError(f"its pads are {list(pads)}; expected {2 * len(places)} numbers")
    begin, end = [0] * rank, [0] * rank
    for axis, before, after in zip(places, pads, pads[len(places) :], strict=False):
        begin[axis], end[axis] = before, after
    if any((*begin, *end)) and mode != "constant":
        raise InexpressibleError(f"it pads in the mode '{mode}'; Caffe has layers for constants only")
    return [_padded(out, operand, begin, end, fill)]


def _padded(out: Builder, operand: Operand, begin: Sequence[int], end: Sequence[int], fill: float) -> Operand:
    if isinstance(operand, Padded) and operand.fill == fill and min((*begin, *end), default=0) >= 0:
        first, last = (
            tuple(a + b for a, b in zip(old, new, strict=True))
            for old, new in ((operand.begin, begin), (operand.end, end))
        )
        return Padded(operand.value, first, last, fill)
    value = out.value(operand)
    for axis, (before, after) in enumerate(zip(begin, end, strict=True)):
        if before < 0 or after < 0:
            value = _taken(out, value, axis, range(max(0, -before), value.shape[axis] - max(0, -after)))
    inner = tuple(max(0, size) for size in begin), tuple(max(0, size) for size in end)
    return Padded(value, *inner, fill) if any((*inner[0], *inner[1])) else value


def expand(call: Call, out: Builder) -> list[Operand]:
    """Lower an Expand with Tile layers."""
    value = out.value(call.operand(0))
    wanted = [int(number) for number in call.needed(1, "shape").reshape(-1)]
    return [expanded(out, value, constants.broadcast_shape(value.shape, wanted))]


def tile(call: Call, out: Builder) -> list[Operand]:
    """Lower a Tile: one layer an axis."""
    value = out.value(call.operand(0))
    repeats = [int(number) for number in call.needed(1, "repeats").reshape(-1)]
    if len(repeats) != len(value.shape) or min(repeats, default=1) < 1:
        raise InexpressibleError(f"it repeats {value.shape} {repeats} times")
    for axis, count in enumerate(repeats):
        if count > 1:
            base, permutation = out.by_axes(value)
            place = permutation[axis]
            sizes = (*base.shape[:place], base.shape[place] * count, *base.shape[place + 1 :])
            value = permuted(out.add("Tile", [base], sizes, {"axis": place, "tiles": count}), permutation)
    return [value]


def depth_to_space(call: Call, out: Builder) -> list[Operand]:
    """Lower a DepthToSpace: views around a transpose."""
    value = out.value(call.operand(0))
    block = call.integer("blocksize", 1)
    if len(value.shape) != 4 or block < 1 or value.shape[1] % (block * block):
        raise InexpressibleError(f"it makes blocks of {block} from {value.shape}")
    n, c, h, w = value.shape
    inner = c // (block * block)
    if call.text("mode", "DCR") == "DCR":
        moved = _transposed(out, reshaped(value, (n, block, block, inner, h, w)), (0, 3, 4, 1, 5, 2))
    else:
        moved = _transposed(out, reshaped(value, (n, inner, block, block, h, w)), (0, 1, 4, 2, 5, 3))
    return [reshaped(moved, (n, inner, h * block, w * block))]


def space_to_depth(call: Call, out: Builder) -> list[Operand]:
    """Lower a SpaceToDepth: views around a transpose."""
    value = out.value(call.operand(0))
    block = call.integer("blocksize", 1)
    if len(value.shape) != 4 or block < 1 or value.shape[2] % block or value.shape[3] % block:
        raise InexpressibleError(f"it takes blocks of {block} from {value.shape}")
    n, c, h, w = value.shape
    order = (0, 3, 5, 1, 2, 4) if call.text("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    moved = _transposed(out, reshaped(value, (n, c, h // block, block, w // block, block)), order)
    return [reshaped(moved, (n, c * block * block, h // block, w // block))]
