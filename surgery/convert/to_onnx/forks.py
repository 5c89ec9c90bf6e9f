"""Layers of the common forks that keep to the plane: activations, normalisations and reorderings."""

from __future__ import annotations

from dataclasses import replace

from surgery.convert.to_onnx.graph import Graph
from surgery.convert.to_onnx.site import InexpressibleError, Parameter, Site
from surgery.formats.caffe.layers.base import four
from surgery.model import Shape

SEGNET_EPSILON = 1e-9  # SegNet's BN adds this constant to the variance; its file states none.
_PAD_MODES = {"CONSTANT": "constant", "REPLICATE": "edge", "REFLECT": "reflect"}


def relu6(site: Site, graph: Graph) -> tuple[str, ...]:
    """min(max(0, x) + negative_slope min(0, x), threshold), 0 and 6 by default."""
    param = site.param("relu6_param")
    slope = param.float("negative_slope")
    top = graph.constant(param.float("threshold"), name="max")
    if not slope:
        return (graph.op("Clip", site.inputs[0], graph.constant(0.0, name="min"), top),)
    return (graph.op("Min", graph.op("LeakyRelu", site.inputs[0], alpha=slope), top),)


def hard_sigmoid(site: Site, graph: Graph) -> tuple[str, ...]:
    """max(0, min(1, alpha x + beta))."""
    param = site.param("hardsigmoid_param")
    return (graph.op("HardSigmoid", site.inputs[0], alpha=param.float("alpha"), beta=param.float("beta")),)


def hard_swish(site: Site, graph: Graph) -> tuple[str, ...]:
    """Gated linear: x max(0, min(1, x / 6 + 1/2)); the operator of that name is younger than opset 13."""
    _without(site, "hardswish_param")
    gate = graph.op("HardSigmoid", site.inputs[0], alpha=1 / 6, beta=0.5)
    return (graph.op("Mul", site.inputs[0], gate),)


def mish(site: Site, graph: Graph) -> tuple[str, ...]:
    """Gated smoothly: x tanh(log(1 + exp(x)))."""
    return (graph.op("Mul", site.inputs[0], graph.op("Tanh", graph.op("Softplus", site.inputs[0]))),)


def selu(site: Site, graph: Graph) -> tuple[str, ...]:
    """Selu with the constants of the paper, which are the operator's own."""
    _without(site, "selu_param")
    return (graph.op("Selu", site.inputs[0]),)


def axpy(site: Site, graph: Graph) -> tuple[str, ...]:
    """Weighted sum a x + y, where `a` has one number for each item and channel."""
    factor, shape = site.shape(0), site.shape(1)
    spread = (*shape[:2], *(1,) * (len(shape) - 2))
    scale = graph.reshape(site.inputs[0], factor, spread)
    return (graph.op("Add", graph.op("Mul", scale, site.inputs[1]), site.inputs[2]),)


def normalize(site: Site, graph: Graph) -> tuple[str, ...]:
    """L2 norm: x / sqrt(sum(x^2) + eps) scale: the sum over the channels of a pixel, or over an item."""
    param, shape = site.param("norm_param"), site.shape()
    axes = range(1, len(shape)) if param.bool("across_spatial") else [1]
    total = graph.reduce("ReduceSumSquare", site.inputs[0], [*axes], keepdims=True)
    norm = graph.op("Sqrt", graph.scaled(total, 1.0, param.float("eps")))
    scale = site.blobs[0]
    if scale.array.ndim:
        scale = _shaped(scale, (shape[1], *(1,) * (len(shape) - 2)))
    return (graph.op("Mul", graph.op("Div", site.inputs[0], norm), graph.weight(scale, "scale")),)


def bn(site: Site, graph: Graph) -> tuple[str, ...]:
    """PSPNet's BN: slope, bias, mean, variance; SegNet's: scale and shift, over the batch's statistics or none."""
    param, shape, value = site.param("bn_param"), site.shape(), site.inputs[0]
    if len(site.blobs) == 4:
        if not (site.is_test or param.bool("frozen")):
            raise InexpressibleError("in phase TRAIN it updates its statistics")
        slope, bias, mean, variance = (
            graph.weight(_shaped(blob, (shape[1],)), role)
            for blob, role in zip(site.blobs, ("slope", "bias", "mean", "variance"), strict=True)
        )
        return (graph.op("BatchNormalization", value, slope, bias, mean, variance, epsilon=param.float("eps")),)
    if len(site.blobs) != 2:
        raise InexpressibleError(f"it has {len(site.blobs)} blobs; expected SegNet's 2 or PSPNet's 4")
    ones = (1,) * (len(shape) - 2)
    scale, shift = (
        graph.weight(_shaped(blob, (shape[1], *ones)), role)
        for blob, role in zip(site.blobs, ("scale", "shift"), strict=True)
    )
    if param.str("bn_mode") == "LEARN":
        value = _standardised(graph, value, [0, *range(2, len(shape))])
    return (graph.op("Add", graph.op("Mul", value, scale), shift),)


def _standardised(graph: Graph, value: str, axes: list[int]) -> str:
    """(x - E x) / sqrt(E x^2 - (E x)^2 + eps), SegNet's formula, whatever the phase."""
    mean = graph.reduce("ReduceMean", value, axes, keepdims=True)
    square = graph.reduce("ReduceMean", graph.op("Mul", value, value), axes, keepdims=True)
    variance = graph.op("Sub", square, graph.op("Mul", mean, mean))
    return graph.op("Div", graph.op("Sub", value, mean), graph.op("Sqrt", graph.scaled(variance, 1.0, SEGNET_EPSILON)))


def permute(site: Site, graph: Graph) -> tuple[str, ...]:
    """Transpose; axes that `order` leaves out follow in their own order."""
    order = site.param("permute_param").ints("order")
    full = [*order, *(axis for axis in range(len(site.shape())) if axis not in order)]
    if full == sorted(full):
        return (site.inputs[0],)
    _not_in_place(site)
    return (graph.op("Transpose", site.inputs[0], perm=full),)


def shuffle_channel(site: Site, graph: Graph) -> tuple[str, ...]:
    """(N, g C', ...) to (N, C' g, ...)."""
    _not_in_place(site)
    n, c, h, w = four(site.shape())
    group = site.param("shuffle_channel_param").int("group")
    apart, together = (n, group, c // group, h, w), (n, c // group, group, h, w)
    value = graph.op("Transpose", graph.reshape(site.inputs[0], site.shape(), apart), perm=[0, 2, 1, 3, 4])
    return (graph.reshape(value, together, (n, c, h, w)),)


def pixel_shuffle(site: Site, graph: Graph) -> tuple[str, ...]:
    """(N, C r^2, H, W) to (N, C, H r, W r), the channel's last digits being row and column."""
    _not_in_place(site)
    factor = site.param("pixelshuffle_param").int("upscale_factor")
    return (graph.op("DepthToSpace", site.inputs[0], blocksize=factor, mode="CRD"),)


def pad(site: Site, graph: Graph) -> tuple[str, ...]:
    """Pad rows and columns by a constant, the edge or a reflection; four negative numbers crop instead."""
    param, shape = site.param("pad_param"), site.shape()
    top, bottom, left, right = (param.int(f"pad_{side}") for side in "udlr")
    if max(top, bottom, left, right) < 0:
        ends = [shape[2] + bottom, shape[3] + right]
        return (graph.slice(site.inputs[0], [2, 3], [-top, -left], ends),)
    mode = param.str("pad_type")
    begins, ends = [0, 0, top, left], [0, 0, bottom, right]
    if mode == "CONSTANT":
        return (graph.pad(site.inputs[0], begins, ends, param.float("pad_value")),)
    if mode not in _PAD_MODES:
        raise InexpressibleError(f"its fork's pad_type {mode} is not known to this tool")
    if not any((*begins, *ends)):
        return (site.inputs[0],)
    return (graph.op("Pad", site.inputs[0], graph.integers([*begins, *ends]), mode=_PAD_MODES[mode]),)


def _shaped(parameter: Parameter, shape: Shape) -> Parameter:
    """Return the parameter in another shape: the same numbers in the same order, not copied."""
    return replace(parameter, array=parameter.array.reshape(shape))


def _without(site: Site, message: str) -> None:
    if site.layer.message.has(message):
        raise InexpressibleError(f"its fork's {message} is not known to this tool")


def _not_in_place(site: Site) -> None:
    if site.is_in_place:
        raise InexpressibleError("its top is its bottom, and it overwrites what it has still to read")
