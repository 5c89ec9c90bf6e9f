"""Why a layer cannot change alone, where others depend on its weights, or not together with others."""

from __future__ import annotations

import re
from collections.abc import Sequence

from surgery.formats.caffe import spelling
from surgery.formats.caffe.net import CaffeNet
from surgery.formats.caffe.network import Layer
from surgery.formats.wiring import Wiring
from surgery.model import Model, Node


def refusal(net: CaffeNet, layer: Layer) -> str | None:
    """Return why a layer cannot be cut for the sake of others that depend on it, or None."""
    for name in filter(None, layer.param_names):
        others = [other for other in net.shared.get(name, ()) if other != layer.name]
        if others:
            return f"its weights are shared with '{others[0]}' (param name '{name}')"
    twins = [other for other in net.by_name[layer.name] if other is not layer]
    if any(id(twin) in net.inferred for twin in twins):  # Shapes are inferred of the layers that run.
        return "two layers that run have this name; Caffe gives the weights to the first only"
    for twin in twins:
        if _geometry(twin) != _geometry(layer):
            return "a layer of the same name in another phase has other parameters"
    return None


def stem_refusal(model: Model, nodes: Sequence[Node], layers: Sequence[Layer]) -> str | None:
    """Return why layers, in running order, cannot read the result of one layer before the first of them, or None."""
    first = layers[0]
    stranger = Wiring(model.nodes).stranger([node.key for node in nodes])
    if stranger is not None:
        return f"'{stranger}' does not read the value that '{first.name}' reads"
    for layer in layers:
        if layer.type != first.type or len(layer.bottoms) != 1:
            return f"'{layer.name}' ({layer.type}, {len(layer.bottoms)} bottoms) is not one {first.type} of one bottom"
        if len(model.native.by_name[layer.name]) > 1:
            return f"another layer has the name '{layer.name}'"
        if spelling.states(layer) != spelling.states(first):
            return f"'{layer.name}' runs in another phase, level or stage than '{first.name}'"
    return None


def _geometry(layer: Layer) -> tuple[object, ...]:
    """Return what must agree in layers that share one entry of weights: type, parameters, but no connections."""
    names = ("convolution_param", "inner_product_param")
    blocks = [layer.message.document.slice(f) for name in names for f in layer.message.named(name)]
    return layer.type, len(layer.tops), *(re.sub(r"\s+|#[^\n]*", " ", block) for block in blocks)
