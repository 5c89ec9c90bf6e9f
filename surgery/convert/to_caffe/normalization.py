"""BatchNormalization and its relatives."""

from __future__ import annotations

import numpy as np

from surgery.convert.to_caffe.arithmetic import scaled_by, shifted_by
from surgery.convert.to_caffe.call import Call, axes_of, axis_of
from surgery.convert.to_caffe.layers import Builder, Param, permuted
from surgery.convert.to_caffe.reduction import reduced, softmax_axis
from surgery.convert.to_caffe.values import Array, InexpressibleError, Operand, Value, reshaped


def batch_normalization(call: Call, out: Builder) -> list[Operand]:
    """Lower a BatchNormalization to BatchNorm and Scale."""
    if call.integer("training_mode", 0) or call.used.intersection(call.node.outputs[1:]):
        raise InexpressibleError("it is in training mode; only stored statistics are expressible")
    if call.opset < 9 and not call.integer("spatial", 1):
        raise InexpressibleError("its spatial is 0: statistics of each place, which Caffe has not")
    names = ("scale", "bias", "mean", "variance")
    scale, bias, mean, variance = (call.needed(i, name).reshape(-1) for i, name in enumerate(names, 1))
    value, permutation = out.by_axes(out.value(call.operand(0)))
    channels = value.shape[1] if len(value.shape) > 1 else 0
    if any(array.size != channels for array in (scale, bias, mean, variance)):
        raise InexpressibleError(f"its statistics are not of the {channels} channels of its input {value.shape}")
    if permutation.index(1) != 1:
        value, permutation = out.plain(call.operand(0)), tuple(range(len(value.shape)))
    params = {"use_global_stats": True, "eps": call.number("epsilon", 1e-5)}
    blobs = [mean, variance, np.ones(1, np.float32)]
    result = out.add("BatchNorm", [value], value.shape, params, blobs)
    across = (channels, *([1] * (len(value.shape) - 2)))
    return [permuted(_affine(out, result, scale.reshape(across), bias.reshape(across)), permutation)]


def _affine(out: Builder, value: Value, scale: Array, bias: Array) -> Value:
    """Add one Scale with a bias, as Caffe's networks have it behind a BatchNorm."""
    if scale.size == 1:
        return out.scale(value, scale, bias)
    blobs = [np.ascontiguousarray(array.reshape(-1), np.float32) for array in (scale, bias)]
    return out.add("Scale", [value], value.shape, {"bias_term": True}, blobs)


def instance_normalization(call: Call, out: Builder) -> list[Operand]:
    """Lower an InstanceNormalization: a BatchNorm over one picture's channels with its own statistics."""
    value = out.plain(call.operand(0))
    scale, bias = call.needed(1, "scale").reshape(-1), call.needed(2, "bias").reshape(-1)
    batch, channels, *sizes = value.shape
    if scale.size != channels or bias.size != channels:
        raise InexpressibleError(f"its scale and bias are not of the {channels} channels of its input {value.shape}")
    flat = out.view(value, (1, batch * channels, *sizes))
    params = {"use_global_stats": False, "eps": call.number("epsilon", 1e-5)}
    # Statistics that are stored and not used; Caffe wants the blobs.
    unused = [np.zeros(batch * channels, np.float32)] * 2 + [np.zeros(1, np.float32)]
    made = out.add("BatchNorm", [flat], flat.shape, params, unused)
    across = (channels, *([1] * len(sizes)))
    return [_affine(out, out.view(made, value.shape), scale.reshape(across), bias.reshape(across))]


def layer_normalization(call: Call, out: Builder) -> list[Operand]:
    """Lower a LayerNormalization over the last axes, step by step."""
    if call.used.intersection(call.node.outputs[1:]):
        raise InexpressibleError("its mean or deviation is used")
    value = out.plain(call.operand(0))
    axes = range(axis_of(call.integer("axis", -1), len(value.shape)), len(value.shape))
    average = reduced(out, value, axes, "MEAN")
    centred = shifted_by(out, value, out.power(average, scale=-1.0))
    variance = reduced(out, out.power(centred, power=2.0), axes, "MEAN")
    inverse = out.power(variance, shift=call.number("epsilon", 1e-5), power=-0.5)
    shifts = call.array(2, "bias")
    return [out.scale(scaled_by(out, centred, inverse), call.needed(1, "scale"), shifts)]


def lrn(call: Call, out: Builder) -> list[Operand]:
    """Lower an LRN across channels."""
    size = call.integer("size", 0)
    if size < 1 or size % 2 == 0:
        raise InexpressibleError(f"its size is {size}; Caffe takes odd ones")
    value = out.plain(call.operand(0))
    if len(value.shape) != 4:
        raise InexpressibleError(f"its input has the shape {value.shape}; Caffe's LRN takes four axes")
    params: dict[str, Param] = {
        "local_size": size,
        "alpha": call.number("alpha", 0.0001),
        "beta": call.number("beta", 0.75),
        "norm_region": "ACROSS_CHANNELS",
        "k": call.number("bias", 1.0),
    }
    return [out.add("LRN", [value], value.shape, params)]


def lp_normalization(call: Call, out: Builder) -> list[Operand]:
    """Lower an LpNormalization: times the reciprocal of the norm."""
    value = out.value(call.operand(0))
    axes = axes_of([call.integer("axis", -1)], len(value.shape))
    order = call.integer("p", 2)
    if order not in (1, 2):
        raise InexpressibleError(f"its p is {order}; expected 1 or 2")
    norm = reduced(out, value, axes, "SUMSQ" if order == 2 else "ASUM")
    return [scaled_by(out, value, out.power(norm, power=-0.5 if order == 2 else -1.0))]


def mean_variance_normalization(call: Call, out: Builder) -> list[Operand]:
    """Lower a MeanVarianceNormalization, which divides by the deviation plus 1e-9 as Caffe's MVN does."""
    value = out.plain(call.operand(0))
    axes = set(axes_of(call.listed("axes", (0, 2, 3)) or (), len(value.shape)))
    if value.shape[0] == 1:
        axes.discard(0)
    rank = len(value.shape)
    if rank != 4 or axes not in ({2, 3}, {1, 2, 3}):
        raise InexpressibleError(f"it normalises {value.shape} over the axes {sorted(axes)}; MVN takes (1,) 2 and 3")
    params: dict[str, Param] = {"normalize_variance": True, "across_channels": 1 in axes, "eps": 1e-9}
    return [out.add("MVN", [value], value.shape, params)]


def log_softmax(call: Call, out: Builder) -> list[Operand]:
    """Lower a LogSoftmax step by step: the logarithm of a Softmax would be infinite where that is as good as 0."""
    value, axis = softmax_axis(call, out.value(call.operand(0)))
    centred = shifted_by(out, value, out.power(reduced(out, value, [axis], "MAX"), scale=-1.0))
    total = out.unary("Log", reduced(out, out.unary("Exp", centred), [axis], "SUM"))
    return [reshaped(shifted_by(out, centred, out.power(total, scale=-1.0)), call.operand(0).shape)]
