"""Gemm and MatMul with a constant as InnerProduct."""

from __future__ import annotations

import math

import numpy as np

from surgery.convert.to_caffe.call import Call
from surgery.convert.to_caffe.layers import Builder, Param
from surgery.convert.to_caffe.values import (
    Array,
    Constant,
    InexpressibleError,
    Operand,
    Value,
    memory_order,
    reshaped,
)


def gemm(call: Call, out: Builder) -> list[Operand]:
    """Lower a Gemm: alpha and beta go into weight and bias; a bias that differs from row to row is added apart."""
    if call.integer("transA", 0):
        raise InexpressibleError("it transposes its computed input (transA), which InnerProduct cannot")
    weight = call.needed(1, "weight")
    if weight.ndim != 2:
        raise InexpressibleError(f"its weight has the shape {weight.shape}; expected two axes")
    alpha, beta = np.float32(call.number("alpha", 1.0)), np.float32(call.number("beta", 1.0))
    weight = weight if call.integer("transB", 0) else weight.T
    weight = weight if alpha == 1 else alpha * weight
    value = out.value(call.operand(0))
    if len(value.shape) != 2:
        raise InexpressibleError(f"its input has the shape {value.shape}; expected two axes")
    addend = call.optional(2)
    if isinstance(addend, Constant) and _is_row(addend.array, len(weight)):
        numbers = addend.array.astype(np.float32, copy=False).reshape(-1)
        numbers = numbers if beta == 1 else beta * numbers
        return [_product(out, value, weight, np.broadcast_to(numbers, len(weight)))]
    product = _product(out, value, weight, None)
    if addend is None:
        return [product]
    if isinstance(addend, Constant):
        return [out.scale(product, np.ones((), np.float32), beta * addend.array)]
    other = out.power(out.plain(addend), scale=float(beta))
    if other.shape != product.shape:
        raise InexpressibleError(f"it adds a computed {other.shape} to {product.shape}; Caffe adds equal shapes")
    return [out.eltwise([product, other], "SUM")]


def matmul(call: Call, out: Builder) -> list[Operand]:
    """Lower a MatMul by a constant matrix on the right."""
    if isinstance(call.operand(0), Constant):
        raise InexpressibleError("its left side is a constant; InnerProduct multiplies by a constant on the right")
    weight = call.needed(1, "right side")
    value = out.value(call.operand(0))
    if weight.ndim > 2 and math.prod(weight.shape[:-2]) == 1:
        weight = weight.reshape(weight.shape[-2:])
    if weight.ndim != 2 or not value.shape or value.shape[-1] != weight.shape[0]:
        raise InexpressibleError(f"it multiplies {value.shape} by {weight.shape}; InnerProduct takes one matrix")
    if len(value.shape) == 1:
        value = reshaped(value, (1, *value.shape))
        return [reshaped(_product(out, value, weight.T, None), (weight.shape[1],))]
    return [_product(out, value, weight.T, None)]


def product(out: Builder, value: Value, weight: Array) -> Value:
    """Multiply the last axis of a value by `weight` (out, in)."""
    return _product(out, value, weight, None)


def _is_row(array: Array, outputs: int) -> bool:
    return array.size in (1, outputs) and (array.ndim == 0 or array.shape[-1] == array.size)


def _product(out: Builder, value: Value, weight: Array, bias: Array | None) -> Value:
    """Add an InnerProduct over the last axis; a view of the input becomes an order of the weight's columns."""
    if weight.shape[1] != value.shape[-1]:
        raise InexpressibleError(f"its input has {value.shape[-1]} numbers a row, its weight takes {weight.shape[1]}")
    if len(value.shape) == 2 and len(value.stored) > 1 and value.stored[0] == value.shape[0]:
        places = memory_order(value, value.shape[0])
        if places is not None:
            weight = _by_memory(weight, places)
            return _layer(out, value, value.shape[:1], weight, bias, 1)
    value = out.plain(value)
    return _layer(out, value, value.shape[:-1], weight, bias, len(value.shape) - 1)


def _by_memory(weight: Array, places: Array) -> Array:
    if np.array_equal(places, np.arange(len(places))):
        return weight
    return weight[:, np.argsort(places)]


def _layer(out: Builder, value: Value, kept: tuple[int, ...], weight: Array, bias: Array | None, axis: int) -> Value:
    params: dict[str, Param] = {"num_output": weight.shape[0]}
    if axis != 1:
        params["axis"] = axis
    if bias is None:
        params["bias_term"] = False
    blobs = [weight] if bias is None else [weight, bias]
    return out.add("InnerProduct", [value], (*kept, weight.shape[0]), params, blobs)
