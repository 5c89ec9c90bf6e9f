"""Why a layer cannot change alone: others depend on its weights, by a shared name or by its own."""

from __future__ import annotations

import re

from surgery.formats.caffe.net import CaffeNet
from surgery.formats.caffe.network import Layer


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


def _geometry(layer: Layer) -> tuple[object, ...]:
    """Return what must agree in layers that share one entry of weights: type, parameters, but no connections."""
    names = ("convolution_param", "inner_product_param")
    blocks = [layer.message.document.slice(f) for name in names for f in layer.message.named(name)]
    return layer.type, len(layer.tops), *(re.sub(r"\s+|#[^\n]*", " ", block) for block in blocks)
