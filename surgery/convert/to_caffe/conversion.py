"""From an ONNX model to a Caffe network, from end to end."""

from __future__ import annotations

from collections.abc import Mapping

from surgery.convert.to_caffe import merging
from surgery.convert.to_caffe.lowering import lower
from surgery.convert.to_caffe.writing import ToCaffe
from surgery.errors import ConversionError, ModelError
from surgery.formats.onnx.net import OnnxNet
from surgery.model import Model, Shape


def to_caffe(model: Model) -> ToCaffe:
    """Return the Caffe network that computes what an ONNX model as read from its file computes.

    Raises:
        ConversionError: nodes have no equivalent; all of them are named, with the reasons.
        ModelError: an input's shape is not known, nothing is computed, or the model was changed since it was read.
    """
    net: OnnxNet = model.native
    graph = net.graph
    if net.cuts or net.reweighed:
        raise ModelError(f"{graph.path}: was changed and not saved; save it first, then convert the file")
    shapes = _input_shapes(model, net)
    lowered = lower(graph, shapes, lambda: _inferred(net))
    if lowered.reasons:
        raise ConversionError(graph.path, lowered.reasons)
    outputs = {info.name for info in graph.outputs}
    layers = merging.needed(lowered.layers, outputs)
    if all(layer.type == "Input" for layer in layers):
        raise ModelError(f"{graph.path}: no node computes an output; expected a graph that computes something")
    while len(shorter := merging.merged(layers, outputs)) < len(layers):
        layers = shorter
    layers = merging.outward(layers, outputs, lowered.taken)
    layers = merging.uniquely_named(merging.silenced(merging.portable(layers), outputs))
    blobs = {top for layer in layers for top in layer.tops}
    tensors = {name: v.blob for name, v in lowered.values.items() if v.is_plain and v.blob in blobs}
    return ToCaffe(graph.name, tuple(layers), tensors, lowered.folded)


def _input_shapes(model: Model, net: OnnxNet) -> Mapping[str, Shape]:
    """Return the inputs' shapes; raises ModelError where one is not known."""
    known = model.format.runnable(model)
    for info in net.graph.inputs:
        if info.name not in known.inputs:
            raise ModelError(f"{net.graph.path}: {known.unready}")
    return known.inputs


def _inferred(net: OnnxNet) -> Mapping[str, Shape | None]:
    try:
        return net.file.inferred[0]
    except MemoryError:  # What shape inference makes of a number that lies, such as that of a Split's parts.
        return {}
