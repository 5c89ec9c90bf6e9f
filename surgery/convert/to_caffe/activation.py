"""What changes each number by itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from surgery.convert.to_caffe.call import Call
from surgery.convert.to_caffe.layers import Builder
from surgery.convert.to_caffe.values import Array, InexpressibleError, Operand, Value, in_memory, varying

Lowering = Callable[[Call, Builder], list[Operand]]

# Shifting by a bound and back costs one rounding of the bound: nothing next to small ones, and every runtime can.
_SMALL = 8.0
_NO_BOUND = 3.4e38


def layer(kind: str, **params: float) -> Lowering:
    """Return the lowering of an operator that is one layer with these parameters."""
    return lambda call, out: [out.unary(kind, out.value(call.operand(0)), dict(params))]


def power(*, scale: float = 1.0, exponent: float = 1.0) -> Lowering:
    """Return the lowering of an operator that is a Power layer."""
    return lambda call, out: [out.power(out.value(call.operand(0)), scale=scale, power=exponent)]


def leaky_relu(call: Call, out: Builder) -> list[Operand]:
    """Lower a LeakyRelu."""
    return [out.unary("ReLU", out.value(call.operand(0)), {"negative_slope": call.number("alpha", 0.01)})]


def elu(call: Call, out: Builder) -> list[Operand]:
    """Lower an Elu."""
    return [out.unary("ELU", out.value(call.operand(0)), {"alpha": call.number("alpha", 1.0)})]


def selu(call: Call, out: Builder) -> list[Operand]:
    """Lower a Selu: a scaled ELU."""
    alpha, gamma = call.number("alpha", 1.67326319217681884765625), call.number("gamma", 1.05070102214813232421875)
    return [out.power(out.unary("ELU", out.value(call.operand(0)), {"alpha": alpha}), scale=gamma)]


def celu(call: Call, out: Builder) -> list[Operand]:
    """Lower a Celu: alpha * ELU(x / alpha)."""
    alpha = call.number("alpha", 1.0)
    inner = out.power(out.value(call.operand(0)), scale=1 / alpha)
    return [out.power(out.unary("ELU", inner, {"alpha": 1.0}), scale=alpha)]


def prelu(call: Call, out: Builder) -> list[Operand]:
    """Lower a PRelu whose slopes are constant: one in all, one a channel, or any."""
    slope = call.needed(1, "slope")
    value = out.value(call.operand(0))
    if slope.size == 1:
        return [out.unary("ReLU", value, {"negative_slope": float(slope.reshape(-1)[0])})]
    stored = in_memory(value, slope)
    if set(varying(stored)) <= {1}:
        blob = np.ascontiguousarray(stored[tuple(slice(None) if axis == 1 else 0 for axis in range(stored.ndim))])
        return [replace(value, blob=out.add("PReLU", [value], value.stored, {}, [blob]).blob)]
    positive = out.unary("ReLU", value)
    negative = out.unary("ReLU", out.power(value, scale=-1.0))
    return [out.eltwise([positive, out.scale(negative, -slope)], "SUM")]


def clip(call: Call, out: Builder) -> list[Operand]:
    """Lower a Clip between constants."""
    low: float
    high: float
    if call.opset < 11:
        low, high = call.number("min", -math.inf), call.number("max", math.inf)
    else:
        least, most = call.array(1, "lower bound"), call.array(2, "upper bound")
        low = -math.inf if least is None else _single(least, "lower bound")
        high = math.inf if most is None else _single(most, "upper bound")
    return [clipped(out, out.value(call.operand(0)), low, high)]


def _single(array: Array, what: str) -> float:
    if array.size != 1:
        raise InexpressibleError(f"its {what} has the shape {array.shape}; expected one number")
    return float(array.reshape(())[()])


def clipped(out: Builder, value: Value, low: float, high: float) -> Value:
    """Return min(max(x, low), high); a bound at float32's end is none."""
    low = -math.inf if low <= -_NO_BOUND else low
    high = math.inf if high >= _NO_BOUND else high
    if low == 0:
        value = out.unary("ReLU", value)
        low = -math.inf
    if low > -math.inf and high < math.inf and max(abs(low), abs(high)) <= _SMALL and low < high:
        inside = out.unary("ReLU", out.power(value, shift=-low))
        rest = out.unary("ReLU", out.power(inside, scale=-1.0, shift=high - low))
        return out.power(rest, scale=-1.0, shift=high)
    if low > -math.inf:
        value = out.eltwise([value, out.filled(value, low)], "MAX")
    if high == math.inf:
        return value
    if abs(high) <= _SMALL:
        return out.power(out.unary("ReLU", out.power(value, scale=-1.0, shift=high)), scale=-1.0, shift=high)
    return lowest(out, [value, out.filled(value, high)])


def lowest(out: Builder, values: list[Value]) -> Value:
    """Return the smaller of values that lie in memory alike: Eltwise knows only the larger."""
    return out.power(out.eltwise([out.power(value, scale=-1.0) for value in values], "MAX"), scale=-1.0)


def hard_sigmoid(call: Call, out: Builder) -> list[Operand]:
    """Lower a HardSigmoid: clip(alpha * x + beta, 0, 1)."""
    return [_hard_sigmoid(out, out.value(call.operand(0)), call.number("alpha", 0.2), call.number("beta", 0.5))]


def _hard_sigmoid(out: Builder, value: Value, alpha: float, beta: float) -> Value:
    return clipped(out, out.power(value, scale=alpha, shift=beta), 0.0, 1.0)


def hard_swish(call: Call, out: Builder) -> list[Operand]:
    """Lower a HardSwish: x * clip(x / 6 + 1 / 2, 0, 1)."""
    value = out.value(call.operand(0))
    return [out.eltwise([value, _hard_sigmoid(out, value, 1 / 6, 0.5)], "PROD")]


def swish(call: Call, out: Builder) -> list[Operand]:
    """Lower a Swish: x * sigmoid(alpha * x)."""
    value = out.value(call.operand(0))
    gate = out.unary("Sigmoid", out.power(value, scale=call.number("alpha", 1.0)))
    return [out.eltwise([value, gate], "PROD")]


def mish(call: Call, out: Builder) -> list[Operand]:
    """Lower a Mish: x * tanh(softplus(x))."""
    value = out.value(call.operand(0))
    return [out.eltwise([value, out.unary("TanH", out.unary("BNLL", value))], "PROD")]


def softsign(call: Call, out: Builder) -> list[Operand]:
    """Lower a Softsign: x / (1 + |x|)."""
    value = out.value(call.operand(0))
    return [out.eltwise([value, out.power(out.unary("AbsVal", value), shift=1.0, power=-1.0)], "PROD")]


def thresholded_relu(call: Call, out: Builder) -> list[Operand]:
    """Lower a ThresholdedRelu: x where it is above alpha, else 0."""
    value = out.value(call.operand(0))
    gate = out.unary("Threshold", value, {"threshold": call.number("alpha", 1.0)})
    return [out.eltwise([value, gate], "PROD")]


def dropout(call: Call, out: Builder) -> list[Operand]:
    """Lower a Dropout, which does nothing in TEST phase but stays for those who train."""
    if call.used.intersection(call.node.outputs[1:]):
        raise InexpressibleError("its mask is used; Caffe's Dropout has none")
    if call.opset >= 12:
        training = call.array(2, "training_mode")
        if training is not None and bool(training.reshape(-1)[0]):
            raise InexpressibleError("it is in training mode and drops at random")
        given = call.array(1, "ratio")
        ratio = 0.5 if given is None else float(given.reshape(-1)[0])
    else:
        ratio = call.number("ratio", 0.5)
    value = out.value(call.operand(0))
    if not 0 < ratio < 1:
        return [value]
    return [out.unary("Dropout", value, {"dropout_ratio": ratio})]
