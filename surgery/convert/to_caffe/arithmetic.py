"""Operators of two tensors and more: Eltwise where shapes are equal, Scale and Bias where one is broadcast."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np

from surgery.convert.to_caffe.activation import clipped, lowest
from surgery.convert.to_caffe.call import Call
from surgery.convert.to_caffe.constants import broadcast_shape
from surgery.convert.to_caffe.layers import Builder, Param, permuted
from surgery.convert.to_caffe.values import (
    Array,
    Constant,
    InexpressibleError,
    Operand,
    Shape,
    Value,
    reshaped,
)


def add(call: Call, out: Builder) -> list[Operand]:
    """Lower an Add, or a Sum of any number."""
    values, constants = _parted(call, out)
    total = _sum(out, values)
    return [_with_constant(out, total, reduce(np.add, constants), "Bias") if constants else total]


def subtract(call: Call, out: Builder) -> list[Operand]:
    """Lower a Sub."""
    left, right = call.operand(0), call.operand(1)
    if isinstance(right, Constant):
        return [_with_constant(out, out.value(left), -right.array, "Bias")]
    negative = out.power(out.value(right), scale=-1.0)
    if isinstance(left, Constant):
        return [_with_constant(out, negative, left.array, "Bias")]
    return [_sum(out, [out.value(left), negative])]


def multiply(call: Call, out: Builder) -> list[Operand]:
    """Lower a Mul."""
    values, constants = _parted(call, out)
    result = reduce(lambda a, b: _pair(out, a, b, "Scale", "PROD"), values)
    return [_with_constant(out, result, reduce(np.multiply, constants), "Scale") if constants else result]


def divide(call: Call, out: Builder) -> list[Operand]:
    """Lower a Div: by a constant, or times the reciprocal."""
    left, right = call.operand(0), call.operand(1)
    if isinstance(right, Constant):
        with np.errstate(all="ignore"):
            return [_with_constant(out, out.value(left), 1 / right.array.astype(np.float64), "Scale")]
    inverse = out.power(out.value(right), power=-1.0)
    if isinstance(left, Constant):
        return [_with_constant(out, inverse, left.array, "Scale")]
    return [_pair(out, out.value(left), inverse, "Scale", "PROD")]


def mean(call: Call, out: Builder) -> list[Operand]:
    """Lower a Mean of several tensors."""
    (total,) = add(call, out)
    assert isinstance(total, Value)
    return [out.power(total, scale=1 / len(call.operands))]


def extreme(call: Call, out: Builder) -> list[Operand]:
    """Lower a Max or a Min."""
    values, constants = _parted(call, out)
    is_max = call.type == "Max"
    shape = broadcast_shape(*(operand.shape for operand in call.operands if operand is not None))
    alike = _alike(out, [expanded(out, value, shape) for value in values])
    if len(alike) > 1:
        alike = [out.eltwise(alike, "MAX") if is_max else lowest(out, alike)]
    if not constants:
        return [alike[0]]
    bound = np.asarray(reduce(np.maximum if is_max else np.minimum, constants), np.float32)
    if np.all(bound == bound.reshape(-1)[0]):
        number = float(bound.reshape(-1)[0])
        return [clipped(out, alike[0], number, np.inf) if is_max else clipped(out, alike[0], -np.inf, number)]
    bounds = out.scale(out.filled(alike[0], 0.0), np.ones((), np.float32), bound)
    return [out.eltwise([alike[0], bounds], "MAX") if is_max else lowest(out, [alike[0], bounds])]


def power(call: Call, out: Builder) -> list[Operand]:
    """Lower a Pow: a constant exponent, or a constant base."""
    base, exponent = call.operand(0), call.operand(1)
    if isinstance(exponent, Constant) and exponent.array.size == 1 and not isinstance(base, Constant):
        value = out.value(base)
        value = expanded(out, value, broadcast_shape(value.shape, exponent.shape))
        return [out.power(value, power=float(exponent.array.reshape(-1)[0]))]
    if isinstance(base, Constant) and base.array.size == 1 and base.array.reshape(-1)[0] > 0:
        return [out.unary("Exp", out.value(exponent), {"base": float(base.array.reshape(-1)[0])})]
    raise InexpressibleError("neither base nor exponent is one constant number; Caffe's Power and Exp need that")


def compare(call: Call, out: Builder) -> list[Operand]:
    """Lower a Greater or a Less than a constant number."""
    left, right = call.operand(0), call.operand(1)
    is_greater = call.type == "Greater"
    if isinstance(left, Constant):
        left, right, is_greater = right, left, not is_greater
    if not isinstance(right, Constant) or right.array.size != 1:
        raise InexpressibleError("it does not compare with one constant number, as Caffe's Threshold does")
    number = float(right.array.reshape(-1)[0])
    value = out.value(left)
    value = expanded(out, value, broadcast_shape(value.shape, right.shape))
    value = value if is_greater else out.power(value, scale=-1.0)
    return [out.unary("Threshold", value, {"threshold": number if is_greater else -number})]


def scaled_by(out: Builder, large: Value, small: Value) -> Value:
    """Multiply by a computed tensor that broadcasts."""
    return _pair(out, large, small, "Scale", "PROD")


def shifted_by(out: Builder, large: Value, small: Value) -> Value:
    """Add a computed tensor that broadcasts."""
    return _pair(out, large, small, "Bias", "SUM")


def _parted(call: Call, out: Builder) -> tuple[list[Value], list[Array]]:
    """Return the computed operands and the constant ones."""
    operands = [operand for operand in call.operands if operand is not None]
    constants = [operand.array for operand in operands if isinstance(operand, Constant)]
    return [out.value(operand) for operand in operands if not isinstance(operand, Constant)], constants


def _with_constant(out: Builder, value: Value, numbers: Array, kind: str) -> Value:
    value = expanded(out, value, broadcast_shape(value.shape, numbers.shape))
    exact = numbers.astype(np.float32)
    if kind == "Bias":
        return out.scale(value, np.ones((), np.float32), exact)
    return out.scale(value, exact)


def _sum(out: Builder, values: Sequence[Value]) -> Value:
    if len(values) == 1:
        return values[0]
    if len({value.shape for value in values}) == 1:
        return out.eltwise(_alike(out, values), "SUM")
    return reduce(lambda a, b: _pair(out, a, b, "Bias", "SUM"), values)


def _pair(out: Builder, one: Value, other: Value, kind: str, operation: str) -> Value:
    """Return the sum or the product of two values: Eltwise, or a Bias or Scale of two bottoms."""
    shape = broadcast_shape(one.shape, other.shape)
    if one.shape == other.shape:
        return out.eltwise(_alike(out, [one, other]), operation)
    large, small = (one, other) if one.shape == shape else (other, one)
    if large.shape != shape:
        return _pair(out, expanded(out, large, shape), small, kind, operation)
    base, permutation = out.by_axes(large)
    aligned = _permuted_back(out, reshaped(small, (1,) * (len(shape) - len(small.shape)) + small.shape), permutation)
    varying = [axis for axis, size in enumerate(aligned.shape) if size != 1]
    first, stop = (varying[0], varying[-1] + 1) if varying else (0, 0)
    target = tuple(base.shape[axis] if first <= axis < stop else 1 for axis in range(len(shape)))
    aligned = expanded(out, aligned, target)
    if target == base.shape:
        return permuted(out.eltwise([base, out.plain(aligned)], operation), permutation)
    params: dict[str, Param] = {"axis": first} if varying else {}
    second = out.view(out.plain(aligned), target[first:stop])
    return permuted(out.add(kind, [base, second], base.shape, params), permutation)


def _permuted_back(out: Builder, value: Value, permutation: Sequence[int]) -> Value:
    """Return the value with its axes in the order of the blob that `permutation` is a view of."""
    back = [int(axis) for axis in np.argsort(permutation)]
    if back == sorted(back):
        return value
    return permuted(out.plain(value), tuple(back))


def _alike(out: Builder, values: Sequence[Value]) -> list[Value]:
    """Return values of one shape so that they lie in memory alike."""
    first = values[0]
    if all((v.stored, v.factors, v.order) == (first.stored, first.factors, first.order) for v in values):
        return list(values)
    if all(value.is_in_order for value in values):
        return [reshaped(out.view(value, value.shape), value.shape) for value in values]
    return [out.plain(value) for value in values]


def expanded(out: Builder, value: Value, shape: Shape) -> Value:
    """Return the value broadcast to `shape` with Tile layers."""
    value = reshaped(value, (1,) * (len(shape) - len(value.shape)) + value.shape)
    for axis, size in enumerate(shape):
        if value.shape[axis] != size:
            base, permutation = out.by_axes(value)
            place = permutation[axis]
            tiled = (*base.shape[:place], size, *base.shape[place + 1 :])
            made = out.add("Tile", [base], tiled, {"axis": place, "tiles": size})
            value = permuted(made, permutation)
    return value
