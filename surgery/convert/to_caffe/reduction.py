"""Reductions, softmax and argmax: what runs along axes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from surgery.convert.to_caffe.call import Call, axes_of, axis_of
from surgery.convert.to_caffe.convolution import dense_conv
from surgery.convert.to_caffe.layers import Builder, Param, permuted
from surgery.convert.to_caffe.pooling import whole_pool
from surgery.convert.to_caffe.values import InexpressibleError, Operand, Value, reshaped, transposed

# Operator -> Caffe's Reduction and the power of the result.
_OPERATIONS = {
    "ReduceMean": ("MEAN", 1.0),
    "ReduceSum": ("SUM", 1.0),
    "ReduceL1": ("ASUM", 1.0),
    "ReduceSumSquare": ("SUMSQ", 1.0),
    "ReduceL2": ("SUMSQ", 0.5),
    "ReduceMax": ("MAX", 1.0),
    "ReduceMin": ("MIN", 1.0),
}


def reduce(call: Call, out: Builder) -> list[Operand]:
    """Lower a Reduce operator."""
    value = out.value(call.operand(0))
    stated = call.integers(1, "axes", 13 if call.type == "ReduceSum" else 18)
    if not stated and call.integer("noop_with_empty_axes", 0):
        return [value]
    axes = axes_of(stated or range(len(value.shape)), len(value.shape))
    operation, exponent = _OPERATIONS[call.type]
    result = out.power(reduced(out, value, axes, operation), power=exponent)
    if call.integer("keepdims", 1):
        return [result]
    return [reshaped(result, tuple(size for axis, size in enumerate(value.shape) if axis not in axes))]


def reduced(out: Builder, value: Value, axes: Sequence[int], operation: str) -> Value:
    """Return SUM, ASUM, SUMSQ, MEAN, MAX or MIN over axes that stay with size 1."""
    kept = tuple(1 if axis in axes else size for axis, size in enumerate(value.shape))
    if operation == "MIN":
        return out.power(reduced(out, out.power(value, scale=-1.0), axes, "MAX"), scale=-1.0)
    base, permutation = out.by_axes(value)
    places = sorted(permutation[axis] for axis in axes if value.shape[axis] > 1)
    rank = len(base.shape)
    if rank == 4 and places == [1] and operation in ("SUM", "MEAN"):
        channels = base.shape[1]
        weight = np.full((1, channels), 1 if operation == "SUM" else 1 / channels, np.float32)
        return permuted(dense_conv(out, base, weight), permutation)
    rest = [axis for axis in range(rank) if axis not in places and base.shape[axis] > 1]
    if any(axis > place for axis in rest for place in places):
        return reshaped(_trailing(out, _reduced_last(out, base, rest, places), len(rest), operation), kept)
    first = min(places, default=rank)
    made = _trailing(out, base, first, operation)
    sizes = tuple(1 if axis in places else size for axis, size in enumerate(base.shape))
    return permuted(reshaped(made, sizes), permutation)


def _reduced_last(out: Builder, base: Value, rest: list[int], places: list[int]) -> Value:
    """Return a plain value whose reduced axes are the last ones, axes of one left out."""
    order = [*rest, *places]
    squeezed = reshaped(base, tuple(size for size in base.shape if size > 1))
    names = sorted(order)
    moved = transposed(squeezed, [names.index(axis) for axis in order])
    assert moved is not None
    return out.plain(moved)


def _trailing(out: Builder, value: Value, first: int, operation: str) -> Value:
    """Reduce a plain value from the axis `first` to the end; the result has the axes before."""
    shape = value.shape[:first]
    if first == len(value.shape):
        return {"ASUM": lambda: out.unary("AbsVal", value), "SUMSQ": lambda: out.power(value, power=2.0)}.get(
            operation, lambda: value
        )()
    if operation in ("MAX", "MEAN"):
        image = (1, math.prod(shape), 1, math.prod(value.shape[first:]))
        picture = value if first == 2 else out.view(value, image)
        return reshaped(whole_pool(out, picture, "AVE" if operation == "MEAN" else "MAX"), shape)
    return out.add("Reduction", [value], shape, {"operation": operation, "axis": first})


def softmax(call: Call, out: Builder) -> list[Operand]:
    """Lower a Softmax."""
    value, axis = softmax_axis(call, out.value(call.operand(0)))
    base, permutation = out.by_axes(value)
    place = permutation[axis]
    made = out.add("Softmax", [base], base.shape, {} if place == 1 else {"axis": place})
    return [reshaped(permuted(made, permutation), call.operand(0).shape)]


def softmax_axis(call: Call, value: Value) -> tuple[Value, int]:
    """Return the input and the axis of a Softmax; before opset 13 it takes all axes from its own on as one."""
    rank = len(value.shape)
    if call.opset >= 13:
        return value, axis_of(call.integer("axis", -1), rank)
    axis = axis_of(call.integer("axis", 1), rank) if rank > 1 or call.has("axis") else 0
    real = [i for i in range(axis, rank) if value.shape[i] > 1]
    if len(real) > 1:
        return reshaped(value, (math.prod(value.shape[:axis]), math.prod(value.shape[axis:]))), 1
    return value, real[0] if real else axis


def top_k(call: Call, out: Builder) -> list[Operand]:
    """Lower a TopK to two ArgMax layers: one gives places, the other values. Of equal numbers see `arg_max`."""
    value = out.value(call.operand(0))
    axis = axis_of(call.integer("axis", -1), len(value.shape))
    size, count = value.shape[axis], int(call.needed(1, "k").reshape(-1)[0])
    if not 0 < count <= size:
        raise InexpressibleError(f"it picks {count} of {size} numbers")
    is_largest = bool(call.integer("largest", 1))
    value = value if is_largest else out.power(value, scale=-1.0)
    values = _largest(out, value, axis, {"top_k": count, "out_max_val": True})
    values = values if is_largest else out.power(values, scale=-1.0)
    turned = _largest(out, out.take(value, axis, range(size)[::-1]), axis, {"top_k": count})
    return [values, replace(out.power(turned, scale=-1.0, shift=float(size - 1)), kind="integer")]


def _largest(out: Builder, value: Value, axis: int, params: Mapping[str, Param]) -> Value:
    """Add an ArgMax along an axis, which becomes as long as `top_k`."""
    base, permutation = out.by_axes(value)
    place, count = permutation[axis], params.get("top_k", 1)
    assert isinstance(count, int)
    shape = (*base.shape[:place], count, *base.shape[place + 1 :])
    return permuted(out.add("ArgMax", [base], shape, {**params, "axis": place}), permutation)


def arg_max(call: Call, out: Builder) -> list[Operand]:
    """Lower an ArgMax. Of equal numbers Caffe takes the last, ONNX as a rule the first: the axis is then turned."""
    value = out.value(call.operand(0))
    axis = axis_of(call.integer("axis", 0), len(value.shape))
    size = value.shape[axis]
    is_last = bool(call.integer("select_last_index", 0))
    if not is_last:
        value = out.take(value, axis, range(size)[::-1])
    result = _largest(out, value, axis, {})
    result = result if is_last else out.power(result, scale=-1.0, shift=float(size - 1))
    kept = result.shape if call.integer("keepdims", 1) else (*result.shape[:axis], *result.shape[axis + 1 :])
    return [replace(reshaped(result, kept), kind="integer")]
