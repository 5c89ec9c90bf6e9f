"""The parameters that Caffe would hold for every layer: from the weights, from sharing, from constant fillers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from surgery.convert.to_onnx.site import Array, Origin, Parameter
from surgery.formats.caffe.net import CaffeNet
from surgery.formats.caffe.network import Layer, Shape
from surgery.formats.caffe.text import Message

# Which fillers start a layer's blobs, by type: message and the fields of blob 0, 1, ...
_FILLERS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "Bias": ("bias_param", ("filler",)),
    "Convolution": ("convolution_param", ("weight_filler", "bias_filler")),
    "ConvolutionDepthwise": ("convolution_param", ("weight_filler", "bias_filler")),
    "CuDNNGroupedConvolutionForward": ("convolution_param", ("weight_filler", "bias_filler")),
    "Deconvolution": ("convolution_param", ("weight_filler", "bias_filler")),
    "DepthwiseConvolution": ("convolution_param", ("weight_filler", "bias_filler")),
    "Embed": ("embed_param", ("weight_filler", "bias_filler")),
    "InnerProduct": ("inner_product_param", ("weight_filler", "bias_filler")),
    "Normalize": ("norm_param", ("scale_filler",)),
    "PReLU": ("prelu_param", ("filler",)),
    "Scale": ("scale_param", ("filler", "bias_filler")),
}
# What a blob starts with where the file states no filler.
_STARTS: Mapping[str, tuple[float, ...]] = {
    "BatchNorm": (0.0, 0.0, 0.0),
    "Normalize": (1.0,),
    "PReLU": (0.25,),
    "Parameter": (0.0,),
    "Scale": (1.0, 0.0),
}
_RECURRENT = ("LSTM", "RNN")

MAX_FILLED = 2**28  # numbers in a layer

RANDOM = "no file holds its weights, and its filler is random"


@dataclass(frozen=True, eq=False)
class _Own:
    """What one layer says of its blobs: `entry` is where in the weights, -1 for what stands in the prototxt."""

    entry: int
    arrays: list[Array]


def parameters(net: CaffeNet) -> dict[int, tuple[Parameter, ...] | str]:
    """Return every running layer's parameters by the id of the layer, or why they cannot be told.

    As CopyTrainedLayersFrom leaves them: of layers that share a blob by `param { name }` all hold what the last of
    them in the file of weights says.
    """
    own = {id(layer): _own(net, layer, first) for layer, first in _firsts(net)}
    shared: dict[str, tuple[int, Parameter]] = {}
    for layer in net.active:
        said = own[id(layer)]
        if not isinstance(said, _Own):
            continue
        for index, name in enumerate(layer.param_names[: len(said.arrays)]):
            if not name:
                continue
            known = shared.get(name)
            if known is None or said.entry > known[0]:
                origin = known[1].origin if known else Origin(layer.name, index)
                shared[name] = (said.entry, Parameter(said.arrays[index], origin))
    return {
        id(layer): _parameters(layer, net.inferred[id(layer)].blobs or (), own[id(layer)], shared)
        for layer in net.active
    }


def _firsts(net: CaffeNet) -> list[tuple[Layer, bool]]:
    """Return the running layers, each with whether it is the first of its name; only that one gets weights."""
    first = {layer.name: layer for layer in reversed(net.active)}
    return [(layer, first[layer.name] is layer) for layer in net.active]


def _parameters(
    layer: Layer, shapes: Sequence[Shape], own: _Own | str, shared: Mapping[str, tuple[int, Parameter]]
) -> tuple[Parameter, ...] | str:
    result = []
    for index, (shape, name) in enumerate(zip(shapes, _names(layer, len(shapes)), strict=True)):
        if name in shared:
            parameter = shared[name][1]
        elif isinstance(own, _Own):
            parameter = Parameter(own.arrays[index], Origin(layer.name, index))
        else:
            return own
        result.append(Parameter(parameter.array.reshape(shape), parameter.origin))
    return tuple(result)


def _names(layer: Layer, count: int) -> tuple[str, ...]:
    return (*layer.param_names[:count], *[""] * (count - len(layer.param_names)))


def _own(net: CaffeNet, layer: Layer, is_first: bool) -> _Own | str:
    """Return what the weights, else the prototxt itself, else constant fillers say of a layer's blobs."""
    shapes = net.inferred[id(layer)].blobs or ()
    sizes = [math.prod(shape) for shape in shapes]
    entries = net.entries(layer.name) if is_first else []
    if net.weights is not None and entries and net.weights.layers[entries[-1]].shapes:
        reason = net.weights.refusal(entries[-1])
        if reason:
            return reason
        arrays = [np.asarray(array, np.float32) for array in net.weights.arrays(entries[-1])]
        return _Own(entries[-1], arrays) if [a.size for a in arrays] == sizes else "its weights have another size"
    if layer.message.has("blobs"):
        arrays = [_inline(blob) for blob in layer.message.messages("blobs")]
        return _Own(-1, arrays) if [a.size for a in arrays] == sizes else "its `blobs` have another size"
    if sum(sizes) > MAX_FILLED:
        return f"no file holds its {sum(sizes)} weights; fillers make {MAX_FILLED} at most"
    filled = _filled(layer, shapes)
    return RANDOM if filled is None else _Own(-1, filled)


def _inline(blob: Message) -> Array:
    return np.asarray(blob.all("data") or blob.all("double_data"), np.float32)


def _filled(layer: Layer, shapes: Sequence[Shape]) -> list[Array] | None:
    """Return constant blobs, None where a filler is random or what it does is not known."""
    starts = _STARTS.get(layer.type)
    if layer.type in _FILLERS or layer.type in _RECURRENT:
        param, fields = _FILLERS.get(layer.type) or _recurrent_fillers(shapes)
        message = layer.message.message(param)
        has_bias_only = layer.type == "Scale" and len(layer.bottoms) == 2
        values: list[float] = []
        for index, field in enumerate(fields[1:] if has_bias_only else fields):
            value = _constant(message, field, starts[index + has_bias_only] if starts else 0.0)
            if value is None and index < len(shapes):
                return None
            values.append(value or 0.0)
        starts = tuple(values)
    if starts is None or len(shapes) > len(starts):
        return None
    return [np.broadcast_to(np.float32(value), shape) for shape, value in zip(shapes, starts, strict=False)]


def _recurrent_fillers(shapes: Sequence[Shape]) -> tuple[str, tuple[str, ...]]:
    """Return the fillers of an LSTM or RNN, whose biases are its vectors."""
    return "recurrent_param", tuple("bias_filler" if len(shape) == 1 else "weight_filler" for shape in shapes)


def _constant(message: Message, field: str, default: float) -> float | None:
    """Return the number that a filler fills with, None where that is random or another rule."""
    if not message.has(field):
        return default
    filler = message.message(field)
    return filler.float("value") if filler.str("type") == "constant" else None
