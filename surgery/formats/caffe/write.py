"""What a changed Caffe model's files hold: the text with layers replaced, and the layers to replace in the weights."""

from __future__ import annotations

from collections.abc import Sequence

from surgery.formats.caffe import binary, spelling, text
from surgery.formats.caffe.net import CaffeNet
from surgery.formats.caffe.network import Shape
from surgery.formats.caffe.text import Splice
from surgery.formats.cuts import Cut
from surgery.ops import FloatArray, Op


def prototxt(net: CaffeNet) -> str:
    """Return the prototxt with every layer that was cut, in whatever phase, replaced."""
    source = net.document.text
    newline = "\r\n" if "\r\n" in source else "\n"
    splices = []
    for layer in net.layers:
        cut = net.cuts.get(layer.name)
        if cut is None:
            continue
        start = layer.field.start
        margin = source[source.rfind("\n", 0, start) + 1 : start]
        indent = margin if not margin.strip() else ""
        splices.append(Splice(start, layer.field.end, spelling.blocks(layer, cut, newline, indent)))
    return text.spliced(source, splices)


def replacements(net: CaffeNet) -> dict[int, list[binary.NewLayer]]:
    """Return what stands in the weights in place of each entry that a cut or new numbers concern."""
    assert net.weights is not None
    result: dict[int, list[binary.NewLayer]] = {}
    for name, cut in net.cuts.items():
        *stale, last = net.entries(name)
        result.update({index: [] for index in stale})
        result[last] = list(_new_layers(net, name, cut, last))
    for key, op in net.reweighed.items():
        *stale, last = net.entries(key)
        old = net.weights.arrays(last)
        result[last] = [net.weights.reweighed(last, _as_stored(net, key, op, [blob.shape for blob in old]))]
    return result


def _new_layers(net: CaffeNet, name: str, cut: Cut, index: int) -> Sequence[binary.NewLayer]:
    assert net.weights is not None
    layer = next(layer for layer in net.active if layer.name == name)
    generation, legacy = net.weights.generation(index), net.weights.is_legacy(index)
    made = list(zip(cut.stages, spelling.links(layer, cut.names), strict=True))
    return [
        binary.NewLayer(
            link.name,
            binary.head(link.name, spelling.type_of(layer, stage), link.bottoms, link.tops, generation),
            generation,
            spelling.blobs(stage),
            legacy,
        )
        for stage, link in made[cut.shared :]
    ]


def _as_stored(net: CaffeNet, key: str, op: Op, stored: Sequence[Shape]) -> list[FloatArray]:
    """Return an operation's weight and bias laid out as the layer's own blobs are."""
    layer = next(layer for layer in net.active if layer.name == key)
    transposed = layer.type == "InnerProduct" and layer.message.message("inner_product_param").bool("transpose")
    weight = op.weight.T if transposed else op.weight
    blobs = [weight] if op.bias is None else [weight, op.bias]
    return [blob.reshape(shape) for blob, shape in zip(blobs, stored, strict=True)]
