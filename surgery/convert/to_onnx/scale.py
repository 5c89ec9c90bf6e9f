"""Scale, Bias and PReLU: numbers laid along the input from Caffe's `axis` on, where ONNX aligns the last axes."""

from __future__ import annotations

from dataclasses import replace

from surgery.convert.to_onnx.graph import Graph
from surgery.convert.to_onnx.site import Parameter, Site
from surgery.formats.caffe.layers.base import axis_of
from surgery.formats.caffe.network import Shape


def scale(site: Site, graph: Graph) -> tuple[str, ...]:
    """Mul by the learned factor or the second bottom, then Add where there is a bias."""
    param = site.param("scale_param")
    value = graph.op("Mul", site.inputs[0], _operand(site, graph, param.int("axis"), "scale"))
    if param.bool("bias_term"):
        trailing = _trailing(site.shape(), param.int("axis"), site.blobs[-1].array.shape)
        value = graph.op("Add", value, _laid(graph, site.blobs[-1], trailing, "bias"))
    return (value,)


def bias(site: Site, graph: Graph) -> tuple[str, ...]:
    """Add the learned summand or the second bottom."""
    axis = site.param("bias_param").int("axis")
    return (graph.op("Add", site.inputs[0], _operand(site, graph, axis, "bias")),)


def prelu(site: Site, graph: Graph) -> tuple[str, ...]:
    """PRelu with a slope per channel, or one for all."""
    slope = site.blobs[0]
    trailing = len(site.shape()) - 2 if slope.array.ndim else 1  # Not all runtimes take a scalar slope.
    return (graph.op("PRelu", site.inputs[0], _laid(graph, slope, trailing, "slope")),)


def _operand(site: Site, graph: Graph, axis: int, role: str) -> str:
    """Return the first parameter or the second bottom, with axes of one behind it so that it starts at `axis`."""
    if len(site.inputs) == 1:
        trailing = _trailing(site.shape(), axis, site.blobs[0].array.shape)
        return _laid(graph, site.blobs[0], trailing, role)
    operand = site.shape(1)
    trailing = _trailing(site.shape(), axis, operand)
    # Unsqueeze says the same, yet OpenCV reads it for a single axis only.
    return graph.reshape(site.inputs[1], operand, operand + (1,) * trailing)


def _trailing(shape: Shape, axis: int, operand: Shape) -> int:
    """Return how many axes of `shape` lie behind those of `operand`; a scalar needs none."""
    return len(shape) - axis_of(shape, axis) - len(operand) if operand else 0


def _laid(graph: Graph, parameter: Parameter, trailing: int, role: str) -> str:
    shaped = parameter.array.reshape(parameter.array.shape + (1,) * trailing)
    return graph.weight(replace(parameter, array=shaped), role)
