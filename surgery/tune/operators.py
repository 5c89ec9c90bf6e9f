"""The table of ONNX operators that the interpreter has, each as a function in torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial, reduce
from math import inf

import torch
import torch.nn.functional as F  # noqa: N812 - its name everywhere
from torch import Tensor

from surgery.tune import arranging, windows
from surgery.tune.call import Call, Result

Function = Callable[[Call], Result]


def _one(function: Callable[[Tensor], Tensor]) -> Function:
    """An operator of one number at a time."""
    return lambda call: function(call.x)


def _two(function: Callable[[Tensor, Tensor], Tensor]) -> Function:
    """An operator of two tensors that are broadcast."""
    return lambda call: function(call[0], call[1])


def _many(function: Callable[[Tensor, Tensor], Tensor]) -> Function:
    """An operator of any number of tensors, joined from the left."""
    return lambda call: reduce(function, call.given)


def _divide(a: Tensor, b: Tensor) -> Tensor:
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def _modulo(call: Call) -> Tensor:
    remainder = torch.fmod if call.integer("fmod", 0) else torch.remainder
    return remainder(call[0], call[1])


def _reduced(function: Callable[[Tensor, list[int], bool], Tensor]) -> Function:
    """An operator over the axes given, else over all, or over none where `noop_with_empty_axes` says so."""

    def run(call: Call) -> Tensor:
        axes = call.numbers("axes", 1)
        if not axes and call.integer("noop_with_empty_axes", 0):
            return call.x
        axes = axes or list(range(call.x.dim()))
        return function(call.x, axes, bool(call.integer("keepdims", 1)))

    return run


def _product(x: Tensor, axes: list[int], keepdims: bool) -> Tensor:
    for axis in sorted((axis % x.dim() for axis in axes), reverse=True):
        x = x.prod(axis, keepdim=keepdims)
    return x


def _gemm(call: Call) -> Tensor:
    a = call[0].T if call.integer("transA", 0) else call[0]
    b = call[1].T if call.integer("transB", 0) else call[1]
    c, alpha, beta = call.optional(2), call.real("alpha", 1.0), call.real("beta", 1.0)
    product = a @ b if alpha == 1 else alpha * (a @ b)
    if c is None:
        return product
    return product + (c if beta == 1 else beta * c)


def _softmax(function: Callable[[Tensor, int], Tensor]) -> Function:
    """Along one axis; before opset 13 along all axes from that one on, made one."""

    def run(call: Call) -> Tensor:
        if call.opset >= 13:
            return function(call.x, call.integer("axis", -1))
        axis = call.integer("axis", 1)
        rows = call.x.reshape(*call.x.shape[:axis], -1)
        return function(rows, -1).reshape(call.x.shape)

    return run


def batch_normalization(call: Call) -> Tensor:
    """BatchNormalization by its statistics; in training by the batch's, which move the statistics a tenth of the way.

    Where the batch has one number for each channel there is nothing to normalise by, and the statistics serve.
    """
    x, mean, variance = call.x, call[3], call[4]
    if len(call.step.outputs) > 1 or call.integer("training_mode", 0) or not call.integer("spatial", 1):
        raise call.unsupported("a BatchNormalization in training mode, or of each place alone,")
    by_batch = call.training and x.numel() > x.shape[1]
    return F.batch_norm(x, mean, variance, call[1], call[2], by_batch, 0.1, call.real("epsilon", 1e-5))


def _instance_norm(call: Call) -> Tensor:
    return F.instance_norm(call.x, weight=call[1], bias=call[2], eps=call.real("epsilon", 1e-5))


def _layer_norm(call: Call) -> Tensor:
    axis = call.integer("axis", -1)
    return F.layer_norm(call.x, list(call.x.shape[axis:]), call[1], call.optional(2), call.real("epsilon", 1e-5))


def _clip(call: Call) -> Tensor:
    low, high = call.limit("min", 1), call.limit("max", 2)
    return call.x.clamp(-inf if low is None else float(low), inf if high is None else float(high))


def _dropout(call: Call) -> Result:
    """Nothing is dropped: what is tuned is the network as it runs."""
    return (call.x, torch.ones_like(call.x, dtype=torch.bool))[: len(call.step.outputs)]


def _global(function: Callable[[Tensor, list[int], bool], Tensor]) -> Function:
    return lambda call: function(call.x, list(range(2, call.x.dim())), True)


def _selu(call: Call) -> Tensor:
    alpha, gamma = call.real("alpha", 1.67326319217681884765625), call.real("gamma", 1.05070102214813232421875)
    return gamma * F.elu(call.x, alpha)


def _gelu(call: Call) -> Tensor:
    return F.gelu(call.x, approximate=call.text("approximate", "none"))


def _hard_sigmoid(call: Call) -> Tensor:
    return (call.real("alpha", 0.2) * call.x + call.real("beta", 0.5)).clamp(0, 1)


def _resize(call: Call) -> Tensor:
    """Nearest neighbours by whole factors, the only case in which all of ONNX's rules agree."""
    sizes = call.numbers("sizes", 3)
    scales = call.step.attributes.get("scales")
    if scales is None:
        source = call.optional(1 if call.step.type == "Upsample" or call.opset < 11 else 2)
        scales = [] if source is None else source.tolist()
    factors = [n / m for n, m in zip(sizes, call.x.shape, strict=True)] if sizes else list(scales)
    is_whole = all(factor >= 1 and factor == int(factor) for factor in factors)
    if call.text("mode", "nearest") != "nearest" or not is_whole:
        raise call.unsupported("resizing other than by nearest neighbours and whole factors")
    x = call.x
    for axis, factor in enumerate(factors):
        x = x.repeat_interleave(int(factor), axis) if factor != 1 else x
    return x


def _sum(x: Tensor, axes: list[int], keepdims: bool) -> Tensor:
    return x.sum(axes, keepdims)


def _mean(x: Tensor, axes: list[int], keepdims: bool) -> Tensor:
    return x.mean(axes, keepdims)


OPERATORS: Mapping[str, Function] = {
    "Abs": _one(torch.abs),
    "Add": _two(torch.add),
    "And": _two(torch.logical_and),
    "ArgMax": partial(arranging.arg, sign=1),
    "ArgMin": partial(arranging.arg, sign=-1),
    "AveragePool": windows.average_pool,
    "BatchNormalization": batch_normalization,
    "Cast": arranging.cast,
    "Ceil": _one(torch.ceil),
    "Clip": _clip,
    "Compress": arranging.compress,
    "Concat": lambda call: torch.cat(call.given, call.integer("axis", 1)),
    "ConstantOfShape": arranging.constant_of_shape,
    "Conv": windows.conv,
    "ConvTranspose": windows.conv_transpose,
    "Cos": _one(torch.cos),
    "Div": _two(_divide),
    "Dropout": _dropout,
    "Elu": lambda call: F.elu(call.x, call.real("alpha", 1.0)),
    "Equal": _two(torch.eq),
    "Erf": _one(torch.erf),
    "Exp": _one(torch.exp),
    "Expand": arranging.expand,
    "Flatten": arranging.flatten,
    "Floor": _one(torch.floor),
    "Gather": arranging.gather,
    "GatherElements": arranging.gather_elements,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": _global(_mean),
    "GlobalMaxPool": _global(torch.amax),
    "Greater": _two(torch.gt),
    "GreaterOrEqual": _two(torch.ge),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _one(F.hardswish),
    "Identity": _one(lambda x: x),
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "LRN": windows.lrn,
    "LeakyRelu": lambda call: F.leaky_relu(call.x, call.real("alpha", 0.01)),
    "Less": _two(torch.lt),
    "LessOrEqual": _two(torch.le),
    "Log": _one(torch.log),
    "LogSoftmax": _softmax(F.log_softmax),
    "MatMul": _two(torch.matmul),
    "Max": _many(torch.maximum),
    "MaxPool": windows.max_pool,
    "Mean": lambda call: reduce(torch.add, call.given) / len(call.given),
    "Min": _many(torch.minimum),
    "Mod": _modulo,
    "Mul": _two(torch.mul),
    "Neg": _one(torch.neg),
    "Not": _one(torch.logical_not),
    "Or": _two(torch.logical_or),
    "PRelu": lambda call: torch.where(call.x >= 0, call.x, call[1] * call.x),
    "Pad": arranging.pad,
    "Pow": _two(torch.pow),
    "Range": arranging.range_,
    "Reciprocal": _one(torch.reciprocal),
    "ReduceL1": _reduced(lambda x, axes, keep: x.abs().sum(axes, keep)),
    "ReduceL2": _reduced(lambda x, axes, keep: (x * x).sum(axes, keep).sqrt()),
    "ReduceLogSumExp": _reduced(torch.logsumexp),
    "ReduceMax": _reduced(torch.amax),
    "ReduceMean": _reduced(_mean),
    "ReduceMin": _reduced(torch.amin),
    "ReduceProd": _reduced(_product),
    "ReduceSum": _reduced(_sum),
    "ReduceSumSquare": _reduced(lambda x, axes, keep: (x * x).sum(axes, keep)),
    "Relu": _one(torch.relu),
    "Reshape": arranging.reshape,
    "Resize": _resize,
    "Round": _one(torch.round),
    "Selu": _selu,
    "Shape": arranging.shape,
    "Sigmoid": _one(torch.sigmoid),
    "Sign": _one(torch.sign),
    "Sin": _one(torch.sin),
    "Slice": arranging.slice_,
    "Softmax": _softmax(F.softmax),
    "Softplus": _one(lambda x: -F.logsigmoid(-x)),
    "Softsign": _one(F.softsign),
    "Split": arranging.split,
    "Sqrt": _one(torch.sqrt),
    "Squeeze": arranging.squeeze,
    "Sub": _two(torch.sub),
    "Sum": _many(torch.add),
    "Tanh": _one(torch.tanh),
    "Tile": lambda call: call.x.tile(call.numbers("repeats", 1) or []),
    "TopK": arranging.top_k,
    "Transpose": arranging.transpose,
    "Unsqueeze": arranging.unsqueeze,
    "Upsample": _resize,
    "Where": lambda call: torch.where(call[0], call[1], call[2]),
    "Xor": _two(torch.logical_xor),
}
