"""An ONNX graph read for comparing: known tensors are weights or, where they are small, fields of the nodes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from surgery.diff.difference import Layer, Side
from surgery.diff.network import Blob, Fields, Network, Part, linked, operations, scales
from surgery.formats.onnx.attribute import Attribute, Opaque, Subgraph
from surgery.formats.onnx.constants import FLOATS, MAX_SIZES, Constant, constant
from surgery.formats.onnx.graph import Graph, OnnxNode, Tensor
from surgery.formats.onnx.net import OnnxNet
from surgery.formats.onnx.tensor import type_name
from surgery.formats.wire import Record
from surgery.model import Facts, Model, Node

# Operator -> what its known inputs are called, by number.
_BLOBS = {
    "BatchNormalization": {1: "factor", 2: "bias", 3: "mean", 4: "variance"},
    "Conv": {1: "weight", 2: "bias"},
    "ConvTranspose": {1: "weight", 2: "bias"},
    "Gemm": {1: "weight", 2: "bias"},
    "MatMul": {1: "weight"},
    "PRelu": {1: "slope"},
}
# Attribute, of any operator or of one, -> a value that says nothing, or of which every number says nothing.
_DEFAULTS: dict[str, object] = {
    **dict.fromkeys(("strides", "dilations", "group", "spatial", "keepdims"), 1),
    **dict.fromkeys(("pads", "ceil_mode", "storage_order", "count_include_pad", "transA", "transB", "allowzero"), 0),
    **dict.fromkeys(("Gemm.alpha", "Gemm.beta"), 1.0),
    "auto_pad": "NOTSET",
}
_REDUNDANT = frozenset({"Conv.kernel_shape", "ConvTranspose.kernel_shape"})  # The weights' shape says the same.
_FUNCTION, _SPARSE = 25, 15  # fields of ModelProto and of GraphProto
_UNREAD = frozenset({"BatchNormalization.momentum"})


def read(model: Model, files: Sequence[str]) -> Network:
    """Return an ONNX model for comparing."""
    net: OnnxNet = model.native
    facts = model.format.facts(model)
    read_nodes = [_node(net.graph, node, facts[node.key]) for node in model.nodes]
    side = Side(
        files=tuple(files),
        format="onnx",
        layers=linked([layer for layer, _ in read_nodes]),
        inputs=tuple(
            (info.name, None if info.shape is None else tuple("?" if size is None else size for size in info.shape))
            for info in net.graph.inputs
        ),
        outputs=model.format.outputs(model),
    )
    return Network(side, [part for _, part in read_nodes], operations(model, model.nodes), scales(model, model.nodes))


def beside(net: OnnxNet) -> Fields:
    """Return what else the outputs depend on: versions of the operators, and numbers and functions of no node."""
    graph = net.graph
    found = {f"opset of {domain}" if domain else "opset": str(version) for domain, version in graph.opsets.items()}
    outer = [part for part in graph.source.walk(0, len(graph.source.buffer)) if part.number == _FUNCTION]
    inner = [part for part in graph.source.fields(graph.record) if part.number == _SPARSE]
    for name, records in (("functions", outer), ("sparse tensors", inner)):
        found |= {name: _digest(graph, *records)} if records else {}
    for name in (info.name for info in graph.outputs):
        held = constant(graph, name)
        if held is not None:
            found[f"output {name}"] = hashlib.sha256(np.ascontiguousarray(held.array()).tobytes()).hexdigest()
    return tuple(found.items())


def _digest(graph: Graph, *records: Record) -> str:
    """Return what tells these bytes of the file from others."""
    found = hashlib.sha256()
    for record in records:
        found.update(graph.source.buffer[record.start : record.end])
    return f"SHA-256 {found.hexdigest()}"


def _node(graph: Graph, node: Node, facts: Facts) -> tuple[Layer, Part]:
    inner: OnnxNode = node.native
    known = {slot: constant(graph, name) for slot, name in enumerate(node.inputs) if name}
    bottoms = tuple(node.inputs[slot] for slot, found in known.items() if found is None)
    fields = dict(_attributes(graph, inner))
    blobs = []
    for slot, found in known.items():
        role = _BLOBS.get(node.type, {}).get(slot)
        if found is None:
            continue
        text = None if role else _small(found)
        if text is None:
            blobs.append(Blob(role or f"input {slot}", found.shape, found.array))
        else:
            fields[f"input {slot}"] = text
    training = tuple((name, text) for name, text in fields.items() if f"{node.type}.{name}" in _UNREAD)
    stated = tuple(sorted((name, text) for name, text in fields.items() if (name, text) not in training))
    tops = tuple(name for name in node.outputs if name)
    layer = Layer(node.key, node.type, bottoms, tops, (), facts.shapes, facts.params, facts.macs, stated)
    return layer, Part(tuple(blobs), training)


def _small(found: Constant) -> str | None:
    """Return what is no weight as text: shapes, axes, single numbers, and what is not read; None for weights."""
    if found.tensor is not None and found.tensor.size_bytes is None:
        return f"{'x'.join(map(str, found.shape))} of {type_name(found.data_type)}"
    if found.size > 1 and (found.data_type in FLOATS or found.size > MAX_SIZES):
        return None
    return ", ".join(map(str, found.array().reshape(-1).tolist()))


def _attributes(graph: Graph, node: OnnxNode) -> Iterator[tuple[str, str]]:
    for name, value in node.attributes.items():
        own = f"{node.op_type}.{name}"
        default = _DEFAULTS.get(own, _DEFAULTS.get(name))
        values = value if isinstance(value, tuple) else (value,)
        if own not in _REDUNDANT and not (default is not None and all(each == default for each in values)):
            yield name, ", ".join(_text(graph, node, each) for each in values)


def _text(graph: Graph, node: OnnxNode, value: Attribute) -> str:
    if isinstance(value, Tensor) and value.size_bytes is not None and value.size <= MAX_SIZES:
        return ", ".join(map(str, value.array().reshape(-1).tolist()))
    if isinstance(value, (Tensor, Subgraph, Opaque)):
        # What tells it from another is in the node's bytes, its names included.
        return f"{type(value).__name__.lower()} in a node of {_digest(graph, node.record)}"
    return f"{value:.9g}" if isinstance(value, float) else str(value)
