"""Fold BatchNorm, Scale and Bias into the layer before them: what they mean, who can take them in, and how."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from surgery.errors import ModelError
from surgery.formats.caffe import meaning, network, sharing
from surgery.formats.caffe.changed import Entry, changed, new_layer, origin
from surgery.formats.caffe.edit import removals, without_lists
from surgery.formats.caffe.layers.base import params
from surgery.formats.caffe.net import CaffeNet, Original
from surgery.formats.caffe.network import Layer, Shape
from surgery.formats.caffe.schema import quote
from surgery.formats.caffe.text import Splice, replacement
from surgery.model import Fold, Node

if TYPE_CHECKING:
    from surgery.ops import FloatArray
    from surgery.ops.scale import Scale

SCALES = ("BN", "BatchNorm", "Bias", "Scale")
_BLOCKS = {"Deconvolution": "convolution_param", "InnerProduct": "inner_product_param"}
ABSORBERS = ("Convolution", "Deconvolution", "InnerProduct", *meaning.DEPTHWISE_TYPES)


def scale(net: CaffeNet, node: Node) -> Scale | str:
    """Return how a layer of one of `SCALES` scales and shifts each channel, or why that is not known or not so."""
    layer: Layer = node.native.layer
    reason = _cannot_go(net, layer) or _is_dynamic(net, layer) or _blobs_refusal(net, node.native)
    if reason:
        return reason
    assert net.weights is not None
    try:
        return _read(net, layer, net.weights.arrays(node.native.index))
    except ValueError as error:
        return str(error)


def _cannot_go(net: CaffeNet, layer: Layer) -> str | None:
    """Return why a layer cannot be taken away."""
    if len(layer.bottoms) != 1 or len(layer.tops) != 1:
        others = ", ".join(f"'{name}'" for name in layer.bottoms[1:])
        return f"its numbers come from {others}" if others else f"has {len(layer.tops)} tops"
    for twin in net.by_name[layer.name]:
        if (twin.type, twin.bottoms, twin.tops) != (layer.type, layer.bottoms, layer.tops):
            return "a layer of the same name is another type or connected otherwise"
    running = set(map(id, net.active))
    place = next(i for i, other in enumerate(net.layers) if other is layer)
    for i, other in enumerate(net.layers):
        is_concerned = id(other) not in running and other.name != layer.name and layer.bottoms[0] in other.bottoms
        if is_concerned and (i < place or layer.bottoms != layer.tops):
            return f"'{other.name}', which runs in another phase, level or stage, reads its input"
    return None


def _is_dynamic(net: CaffeNet, layer: Layer) -> str | None:
    """Return why a BatchNorm does not use its stored statistics."""
    if layer.type == "BatchNorm":
        param = params(layer, "batch_norm_param")
        phase = layer.message.str("phase") if layer.message.has("phase") else net.state.phase
        if not (param.bool("use_global_stats") if param.has("use_global_stats") else phase == "TEST"):
            return "normalises by each batch's own statistics"
    return None


def _blobs_refusal(net: CaffeNet, native: Original) -> str | None:
    layer = native.layer
    if layer.message.has("blobs"):
        return "its weights stand in the prototxt itself (`blobs`)"
    if net.weights is None or native.index is None or not net.weights.layers[native.index].shapes:
        return "no file holds weights for it"
    return net.weights.refusal(native.index) or next(_shared(net, layer), None)


def _shared(net: CaffeNet, layer: Layer) -> Iterator[str]:
    for name in filter(None, layer.param_names):
        others = [other for other in net.shared.get(name, ()) if other != layer.name]
        yield from [f"its weights are shared with '{others[0]}' (param name '{name}')"] if others else []


def _read(net: CaffeNet, layer: Layer, arrays: Sequence[FloatArray]) -> Scale | str:
    from surgery.ops.scale import Scale

    if layer.type == "BatchNorm":
        if len(arrays) != 3:
            return f"has {len(arrays)} blobs; Caffe's BatchNorm has 3 (mean, variance, factor)"
        mean, variance, factor = arrays
        if factor.size != 1:
            return f"has {factor.size} factors; Caffe's BatchNorm has one"
        # A factor of 0 means that no statistics were gathered: Caffe takes both as 0.
        share = 1 / float(factor.reshape(-1)[0]) if factor.reshape(-1)[0] else 0.0
        epsilon = params(layer, "batch_norm_param").float("eps")
        return Scale.normalising(mean.astype("f8") * share, variance.astype("f8") * share, epsilon)
    if layer.type == "BN":
        return _bn(layer, arrays)
    param = params(layer, f"{layer.type.lower()}_param")
    reason = None if param.int("num_axes") == 0 else _across(net, layer, param.int("axis"), arrays[0].size)
    if reason:
        return reason
    if layer.type == "Bias":
        return Scale.of(shift=arrays[0])
    return Scale.of(arrays[0], arrays[1]) if len(arrays) > 1 else Scale.of(arrays[0])


def _bn(layer: Layer, arrays: Sequence[FloatArray]) -> Scale | str:
    """Read the forks' BN: SegNet's two blobs, PSPNet's four (slope, bias, mean, variance)."""
    from surgery.ops.scale import Scale

    param = params(layer, "bn_param")
    if len(arrays) == 2:
        if param.str("bn_mode") != "INFERENCE":
            return "normalises by each batch's own statistics (bn_mode is not INFERENCE)"
        return Scale.of(arrays[0], arrays[1])
    if len(arrays) != 4:
        return f"has {len(arrays)} blobs; BN has 2 in SegNet and 4 elsewhere"
    slope, bias, mean, variance = arrays
    epsilon = param.float("eps") if param.has("eps") else 1e-5
    return Scale.normalising(mean, variance, epsilon).then(Scale.of(slope, bias))


def _across(net: CaffeNet, layer: Layer, axis: int, size: int) -> str | None:
    """Return why numbers laid along the input from `axis` on are not one per channel."""
    shape = net.inferred[id(layer)].bottoms[0]
    if axis < 0 and shape is None:
        return f"its axis is {axis}, counted from the end of a shape that is not known"
    front = axis if shape is None or axis >= 0 else axis + len(shape)
    if front != 1:
        return f"works along axis {front}; channels are axis 1"
    if shape is not None and size != shape[1]:
        return f"has {size} numbers for {shape[1]} channels: they differ along other axes"
    if shape is None and params(layer, f"{layer.type.lower()}_param").int("num_axes") != 1:
        return "its numbers cover several axes of a shape that is not known"
    return None


def absorber(net: CaffeNet, node: Node) -> int | str:
    """Return the output channels of a layer that can take in a scale, or why it cannot."""
    layer: Layer = node.native.layer
    if layer.type not in ABSORBERS:
        return "not a convolution or fully connected layer"
    if len(layer.bottoms) != 1 or len(layer.tops) != 1:
        return f"has {len(layer.bottoms)} bottoms and {len(layer.tops)} tops"
    if layer.bottoms == layer.tops:
        return "its top overwrites its bottom"
    if len(net.by_name[layer.name]) > 1:
        return "another layer has its name"
    reason = _blobs_refusal(net, node.native) or sharing.refusal(net, layer) or _channel_axis(net, layer)
    return reason or _rows(layer, _stored(net, node.native)[0])


def _channel_axis(net: CaffeNet, layer: Layer) -> str | None:
    """Return why a layer's output channels are not axis 1."""
    if layer.type in meaning.DEPTHWISE_TYPES:
        return None
    axis, shape = params(layer, _block(layer)).int("axis"), net.inferred[id(layer)].bottoms[0]
    if axis < 0 and shape is not None:
        axis += len(shape)
    return None if axis == 1 else "its output's channels are not known to be axis 1"


def _stored(net: CaffeNet, native: Original) -> tuple[Shape, ...]:
    assert net.weights is not None
    assert native.index is not None
    return net.weights.layers[native.index].shapes


def _rows(layer: Layer, shape: Shape) -> int:
    return shape[0] if layer.type in meaning.DEPTHWISE_TYPES else params(layer, _block(layer)).int("num_output")


def _block(layer: Layer) -> str:
    return _BLOCKS.get(layer.type, "convolution_param")


def folded(net: CaffeNet, nodes: Mapping[str, Node], folds: Sequence[Fold]) -> CaffeNet:
    """Return the network with the folds made. Raises ModelError where a weight gets beyond float32."""
    assert net.weights is not None
    changes: dict[int, Entry | None] = {}
    tops, biased, gone = dict[str, str](), set[str](), set[str]()
    for fold in folds:
        layer, last = nodes[fold.key].native.layer, nodes[fold.absorbed[-1]]
        *stale, index = net.entries(layer.name)
        blobs = _absorbed(net, layer, index, fold.scale)
        changes.update(dict.fromkeys(stale))
        changes[index] = _entry(net, layer, index, last.outputs, blobs)
        tops[layer.name] = last.outputs[0]
        biased |= {layer.name} if len(blobs) > 1 else set()
        gone |= {nodes[key].native.layer.name for key in fold.absorbed}
    changes.update({i: None for name in gone for i in net.entries(name)})
    document = without_lists(net.document, {"layer", "layers", "bottom", "top"})
    found = network.layers(document)
    splices = removals(document, [layer.field for layer in found if layer.name in gone])
    for layer in found:
        if layer.name in tops:
            splices += _rewritten(layer, tops[layer.name], has_bias=layer.name in biased)
    document = document.edited(splices)
    return replace(net, document=document, layers=network.layers(document), weights=changed(net.weights, changes))


def _rewritten(layer: Layer, top: str, *, has_bias: bool) -> Iterator[Splice]:
    """Yield what gives a layer the top of the last it took in, and a bias."""
    if layer.tops[0] != top:
        yield from (replacement(field, quote(top)) for field in layer.message.named("top"))
    for block in layer.message.messages(_block(layer)) if has_bias else ():
        if not block.bool("bias_term"):
            yield from (replacement(field, "true") for field in block.named("bias_term"))


def _absorbed(net: CaffeNet, layer: Layer, index: int, scale: Scale) -> list[FloatArray]:
    """Return the blobs of a layer that has taken in a scale."""
    assert net.weights is not None
    weight, *biases = net.weights.arrays(index)
    rows = _rows(layer, weight.shape)
    try:
        made, bias = scale.absorbed(_rows_first(layer, weight), biases[0] if biases else None, rows)
    except ValueError as error:
        raise ModelError(f"{layer.name}: cannot take in what follows it: {error}") from error
    shifts = [] if bias is None else [bias.reshape(biases[0].shape if biases else (rows,))]
    return [_as_stored(layer, made, weight.shape), *shifts]


def _entry(net: CaffeNet, layer: Layer, index: int, tops: tuple[str, ...], blobs: Sequence[FloatArray]) -> Entry:
    """Return the weights' entry of a layer with new blobs; what else it says stays where it is still true."""
    assert net.weights is not None
    is_same = layer.tops == tops and len(blobs) == len(net.weights.layers[index].shapes)
    if is_same or net.weights.generation(index) == 1:  # V1 has no numbers for forks' types.
        return Entry(origin(net.weights, index), net.weights.reweighed(index, blobs), layer.type)
    return new_layer(net.weights, index, layer.type, (layer.bottoms, tops), blobs)


def _rows_first(layer: Layer, weight: FloatArray) -> FloatArray:
    """Return a weight with the output channels in front."""
    import numpy as np

    if layer.type == "Deconvolution":
        return np.moveaxis(_by_group(layer, weight), 2, 1)
    if layer.type == "InnerProduct":
        matrix = weight.reshape(weight.shape[-2:])
        return matrix.T if _is_transposed(layer) else matrix
    return weight


def _as_stored(layer: Layer, made: FloatArray, shape: Shape) -> FloatArray:
    """Return what `_rows_first` returned in the layout that it was stored in."""
    import numpy as np

    if layer.type == "Deconvolution":
        return np.moveaxis(made, 1, 2).reshape(shape)
    return (made.T if _is_transposed(layer) else made).reshape(shape)


def _by_group(layer: Layer, weight: FloatArray) -> FloatArray:
    """Return a deconvolution's weight (in, out / groups, kh, kw) as (groups, in / groups, out / groups, kh, kw)."""
    groups = params(layer, "convolution_param").int("group")
    return weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])


def _is_transposed(layer: Layer) -> bool:
    return layer.type == "InnerProduct" and params(layer, "inner_product_param").bool("transpose")
