"""Why nodes cannot read the result of one node in place of what they read."""

from __future__ import annotations

from collections.abc import Sequence

from surgery.formats.onnx.net import OnnxNet
from surgery.formats.onnx.parameters import auto_pad
from surgery.formats.wiring import Wiring
from surgery.model import Model


def refusal(model: Model, keys: Sequence[str]) -> str | None:
    """Return why nodes, in running order, cannot share what stands before the first of them, or None."""
    stranger = Wiring(model.nodes).stranger(keys)
    if stranger is not None:
        return f"'{stranger}' does not read the value that '{keys[0]}' reads"
    for key in keys[1:]:
        for name, found in _alike(model.native, key).items():
            wanted = _alike(model.native, keys[0]).get(name)
            if found != wanted:
                return f"'{key}' has the {name} {found}, '{keys[0]}' has {wanted}"
    return None


def _alike(net: OnnxNet, key: str) -> dict[str, object]:
    """Return what a stem says in its own way for all, by the words that messages use."""
    node, old = net.file.keys[key], net.original(key)
    return {
        "type": node.op_type,
        "weights' type": old.weight.data_type,
        "pads": old.pads,
        "auto_pad": auto_pad(node),
        "transA": node.attributes.get("transA", 0),
    }
