"""A Caffe network read for comparing: what its layers say, in one spelling for all generations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from surgery.diff.caffe_fields import message_fields, split_fields
from surgery.diff.difference import Layer, Shape, Side
from surgery.diff.network import Blob, Fields, Network, Part, linked, operations, scales
from surgery.formats.caffe import binary, join, network, weights
from surgery.formats.caffe.net import CaffeNet
from surgery.model import Facts, Model, Node
from surgery.ops import Conv2d, Linear, Op

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

# Layer type -> what its blobs are called; of any other they have numbers.
_BLOBS = {
    "BatchNorm": ("mean", "variance", "factor"),
    "Bias": ("bias",),
    "Convolution": ("weight", "bias"),
    "Deconvolution": ("weight", "bias"),
    "Embed": ("weight", "bias"),
    "InnerProduct": ("weight", "bias"),
    "PReLU": ("slope",),
    "Scale": ("factor", "bias"),
}
_OF_LAYERS = frozenset({"layer", "layers", "input", "input_shape", "input_dim"})


def read(model: Model, files: Sequence[str]) -> Network:
    """Return a Caffe model for comparing; Input layers and `input` fields are the network's inputs, no layers."""
    net: CaffeNet = model.native
    facts = model.format.facts(model)
    nodes = [node for node in model.nodes if node.type != "Input"]
    said = [split_fields(node.native.layer) for node in nodes]
    layers = [_layer(node, facts[node.key], fields) for node, (fields, _) in zip(nodes, said, strict=True)]
    side = Side(
        files=tuple(files),
        format="caffe",
        layers=linked(layers),
        inputs=_inputs(net),
        outputs=model.format.outputs(model),
        notes=tuple(model.format.notes(model)),
    )
    parts = [_part(net, node, training) for node, (_, training) in zip(nodes, said, strict=True)]
    return Network(side, parts, operations(model, nodes), scales(model, nodes))


def read_weights(path: Path) -> Network:
    """Return a lone file of weights for comparing: names, types and blobs of the layers that have any.

    What a caffemodel says of links shows which layers may be a chain; of strides and padding it is not asked. Raises
    ParseError and ModelError for a damaged file.
    """
    stored = weights.read(path)
    entries = [(i, entry) for i, entry in enumerate(stored.layers) if entry.shapes]
    for i, _ in entries:
        join.check_counts(stored, i)
    keys = _keys([entry.name for _, entry in entries])
    layers = [_stored_layer(key, entry) for key, (_, entry) in zip(keys, entries, strict=True)]
    parts = [_stored(stored, i, layer.type, ()) for (i, _), layer in zip(entries, layers, strict=True)]
    made = {top for layer in layers for top in layer.tops}
    fed = dict.fromkeys(name for layer in layers for name in layer.bottoms if name not in made)
    side = Side((str(path),), "caffemodel", linked(layers), tuple((name, None) for name in fed))
    return Network(side, parts, lambda place: _op(layers[place], parts[place]), has_links=False)


def _stored_layer(key: str, entry: weights.LayerWeights) -> Layer:
    params = sum(map(math.prod, entry.shapes))
    if not isinstance(entry, binary.LayerRecord):
        return Layer(key, "", params=params)
    return Layer(key, entry.type, entry.bottoms, entry.tops, params=params)


def _op(layer: Layer, part: Part) -> Op | None:
    """Return a linear layer as its blobs alone tell it."""
    arrays = [blob.read() for blob in part.blobs or () if blob.read]
    if not arrays or layer.type not in ("Convolution", "InnerProduct"):
        return None
    weight, bias = arrays[0], arrays[1].reshape(-1) if len(arrays) > 1 else None
    try:
        if layer.type == "InnerProduct":
            return Linear(weight.reshape(weight.shape[-2:]), bias)
        return Conv2d(weight, bias) if weight.ndim == 4 else None
    except ValueError:  # Blobs that make no layer, or groups, of which the file does not tell.
        return None


def beside(net: CaffeNet) -> Fields:
    """Return what the text states beside layers and inputs: the network's name, and whatever else stands there."""
    return message_fields(net.document.message("NetParameter"), _OF_LAYERS)


def idle(net: CaffeNet) -> dict[str, tuple[str, Fields]]:
    """Return type and fields of the layers that do not run, by name and number."""
    running = set(map(id, net.active))
    layers = [layer for layer in net.layers if id(layer) not in running]
    keys = _keys([layer.name for layer in layers])
    said = [split_fields(layer) for layer in layers]
    return {key: (x.type, fields + training) for key, x, (fields, training) in zip(keys, layers, said, strict=True)}


def _keys(names: Sequence[str]) -> list[str]:
    seen: dict[str, int] = {}
    keys = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        keys.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return keys


def _layer(node: Node, facts: Facts, fields: Fields) -> Layer:
    return Layer(node.key, node.type, node.inputs, node.outputs, (), facts.shapes, facts.params, facts.macs, fields)


def _inputs(net: CaffeNet) -> tuple[tuple[str, Shape | None], ...]:
    known: dict[str, Shape | None] = dict(network.inputs(net.document))
    for layer in net.active:
        if layer.type == "Input":
            known.update(zip(layer.tops, net.inferred[id(layer)].tops, strict=True))
    return tuple((known | {name: shape for name, shape in net.shapes.items() if name in known}).items())


def _part(net: CaffeNet, node: Node, training: Fields) -> Part:
    if net.weights is None:
        shapes = net.inferred[id(node.native.layer)].blobs
        return Part(None if shapes is None else _blobs(node.type, shapes, None), training)
    if node.native.index is None:
        return Part((), training)
    return _stored(net.weights, node.native.index, node.type, training)


def _stored(stored: weights.Weights, index: int, kind: str, training: Fields) -> Part:
    refusal = stored.refusal(index)
    read = None if refusal else partial(_array, stored, index)
    return Part(_blobs(kind, stored.layers[index].shapes, read), training, refusal)


def _blobs(kind: str, shapes: Sequence[Shape], read: Any) -> tuple[Blob, ...]:
    names = _BLOBS.get(kind, ())
    return tuple(
        Blob(names[i] if i < len(names) else f"blob {i}", shape, read and partial(read, i))
        for i, shape in enumerate(shapes)
    )


def _array(stored: weights.Weights, index: int, blob: int) -> NDArray[Any]:
    return stored.arrays(index)[blob]
