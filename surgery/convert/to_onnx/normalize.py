"""LRN, BatchNorm and MVN: layers that normalise by statistics."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from surgery.convert.to_onnx.graph import Graph
from surgery.convert.to_onnx.site import Array, Site
from surgery.formats.caffe.layers.base import four
from surgery.formats.caffe.text import Message


def lrn(site: Site, graph: Graph) -> tuple[str, ...]:
    """LRN across channels; within channels, and where ONNX's operator does not reach, its formula."""
    param, value = site.param("lrn_param"), site.inputs[0]
    if param.str("norm_region") == "WITHIN_CHANNEL":
        return (_lrn_within(graph, value, param),)
    size, alpha, beta = param.int("local_size"), param.float("alpha"), param.float("beta")
    if site.is_in_place:
        # Caffe writes the power over its input before it multiplies with that, and so squares the power.
        power = _power_across(site, graph, param)
        return (graph.op("Mul", power, power),)
    if alpha <= 0 or beta <= 0:  # The operator is defined for others too, yet runtimes refuse them.
        return (graph.op("Mul", value, _power_across(site, graph, param)),)
    return (graph.op("LRN", value, size=size, alpha=alpha, beta=beta, bias=param.float("k")),)


def _lrn_within(graph: Graph, value: str, param: Message) -> str:
    """Return x (1 + alpha average(x^2))^-beta over a square in the plane, whatever k is; padding counts."""
    size = param.int("local_size")
    average = _squares(graph, value, (size, size))
    return graph.op("Mul", value, _power(graph, average, param.float("alpha"), 1.0, -param.float("beta")))


def _power_across(site: Site, graph: Graph, param: Message) -> str:
    """(k + alpha / size sum(x^2))^-beta over neighbouring channels, of the bottom's shape."""
    shape = site.shape()
    # The channels become rows, for the operator that sums over a plane.
    plane = (shape[0], 1, shape[1], shape[2] * shape[3])
    value = graph.reshape(site.inputs[0], shape, plane)
    average = _squares(graph, value, (param.int("local_size"), 1))
    power = _power(graph, average, param.float("alpha"), param.float("k"), -param.float("beta"))
    return graph.reshape(power, plane, shape)


def _squares(graph: Graph, value: str, kernel: Sequence[int]) -> str:
    """Return the mean of the squares around each position, zeros around the plane included."""
    square = graph.op("Mul", value, value)
    # OpenCV does not read count_include_pad.
    pads = (0, 0, *((size - 1) // 2 for size in kernel))
    return graph.op("AveragePool", graph.pad(square, pads, pads), kernel_shape=list(kernel))


def _power(graph: Graph, average: str, alpha: float, k: float, power: float) -> str:
    return graph.op("Pow", graph.scaled(average, alpha, k), graph.constant(power, name="power"))


def batch_norm(site: Site, graph: Graph) -> tuple[str, ...]:
    """BatchNormalization with the stored statistics, or the formula with those of the batch."""
    param = site.param("batch_norm_param")
    epsilon = param.float("eps")
    is_stored = param.bool("use_global_stats") if param.has("use_global_stats") else site.is_test
    if is_stored:
        return (_stored(site, graph, epsilon),)
    shape, value = site.shape(), site.inputs[0]
    axes = [axis for axis in range(len(shape)) if axis != 1]
    centred, variance = _moments(graph, value, axes)
    deviation = graph.op("Sqrt", graph.scaled(variance, 1.0, epsilon))
    value = graph.op("Div", centred, deviation)
    if len(site.blobs) == 5:
        ones = (1,) * (len(shape) - 2)
        scale, shift = (graph.reshape(name, shape[1:2], (shape[1], *ones)) for name in _affine(site, graph))
        value = graph.op("Add", graph.op("Mul", value, scale), shift)
    return (value,)


def _stored(site: Site, graph: Graph, epsilon: float) -> str:
    """Normalise by blobs 0 and 1 over blob 2, which counts how often they were added up; by zeros where it is 0."""
    factor = np.float32(site.blobs[2].array.reshape(-1)[0])
    inverse = np.float32(0) if factor == 0 else np.float32(1) / factor
    statistics = [
        graph.weight(blob, role)
        if inverse == 1
        else graph.rearranged(blob.array * inverse, blob.origin, role, "over factor")
        for blob, role in zip(site.blobs[:2], ("mean", "variance"), strict=True)
    ]
    return graph.op("BatchNormalization", site.inputs[0], *_affine(site, graph), *statistics, epsilon=epsilon)


def _affine(site: Site, graph: Graph) -> tuple[str, str]:
    """Return scale and shift: one and zero, for Caffe leaves them to a Scale layer, but NVCaffe may have its own."""
    if len(site.blobs) == 5:
        return graph.weight(site.blobs[3], "scale"), graph.weight(site.blobs[4], "bias")
    channels = site.shape()[1]
    ones: Array = np.ones(channels, np.float32)
    return graph.constant(ones, name="scale"), graph.constant(np.zeros_like(ones), name="shift")


def mvn(site: Site, graph: Graph) -> tuple[str, ...]:
    """(x - mean) / (deviation + eps) of each channel, or of all channels of an item; the top has four axes."""
    param, shape = site.param("mvn_param"), site.shape()
    value = graph.reshape(site.inputs[0], shape, four(shape))
    axes = [1, 2, 3] if param.bool("across_channels") else [2, 3]
    if not param.bool("normalize_variance"):
        return (graph.op("Sub", value, graph.reduce("ReduceMean", value, axes, keepdims=True)),)
    centred, variance = _moments(graph, value, axes)
    deviation = graph.scaled(graph.op("Sqrt", variance), 1.0, param.float("eps"))
    return (graph.op("Div", centred, deviation),)


def _moments(graph: Graph, value: str, axes: Sequence[int]) -> tuple[str, str]:
    """Return the value less its mean over `axes`, and the mean of the square of that."""
    centred = graph.op("Sub", value, graph.reduce("ReduceMean", value, axes, keepdims=True))
    return centred, graph.reduce("ReduceMean", graph.op("Mul", centred, centred), axes, keepdims=True)
