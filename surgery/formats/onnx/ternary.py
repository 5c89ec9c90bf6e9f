"""Store weights that are -1, 0 and 1 as int8: a DequantizeLinear with scale 1 makes the same float32 of them again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from surgery.errors import ModelError
from surgery.formats.onnx import encode, write
from surgery.formats.onnx.changes import NODE, Changes
from surgery.formats.onnx.constants import FLOAT, Constant, constant
from surgery.formats.onnx.graph import Graph, read
from surgery.formats.onnx.net import OnnxFile, OnnxNet
from surgery.formats.onnx.rework import Numbers, added, free
from surgery.formats.onnx.save import copy
from surgery.formats.onnx.store import Store
from surgery.formats.wire import Record, encode_bytes

if TYPE_CHECKING:
    from surgery.formats.onnx.write import Part

_LINEAR = ("Conv", "Gemm", "MatMul")
_INT8 = encode.DATA_TYPES["int8"]
_DEQUANTIZES = 10  # The first opset with DequantizeLinear.


def with_int8(source: Path, target: Path) -> tuple[str, ...]:
    """Write a copy of an ONNX file whose ternary weights are int8; return the names of these tensors.

    Those are the float32 weights of Conv, Gemm and MatMul nodes of which every number is -1, 0 or 1. Each keeps its
    name, now as what a DequantizeLinear makes, so that no other node changes; weights that lie outside and are not
    ternary come along in `<target>.data`. Raises ModelError below opset 10 and where the file would be over 2 GiB - 1.
    """
    graph = read(source)
    found = {old.root: old for old in _weights(graph) if _is_ternary(old)}
    if not found:
        copy(graph, target)
        return ()
    if graph.opset < _DEQUANTIZES:
        raise ModelError(
            f"{source}: weights as int8 need opset {_DEQUANTIZES} or later, this file has {graph.opset}; "
            "convert it to a later opset first"
        )
    data = target.with_name(f"{target.name}.data")
    store = Store(data.name) if graph.data_files else None
    changes = Changes(graph, store, fields=_replaced(graph, found))
    parts = write.replaced(graph.source, changes.finish())
    write.check_size(parts, target.name)
    with target.open("wb") as file:
        write.stream(graph.source, parts, file)
    if store is not None:
        store.write(data)
    return tuple(found)


def _weights(graph: Graph) -> Iterator[Constant]:
    """Yield the weights that are held by an initializer or a Constant, as float32 and without an annotation."""
    for node in graph.nodes:
        if node.op_type not in _LINEAR or node.domain or len(node.inputs) < 2:
            continue
        found = constant(graph, node.inputs[1])
        if found is None or found.tensor is None or found.data_type != FLOAT or found.root in graph.quantized:
            continue
        yield found


def _is_ternary(old: Constant) -> bool:
    array = old.array()
    return bool(((array == 0) | (np.abs(array) == 1)).all())


def _replaced(graph: Graph, found: Mapping[str, Constant]) -> dict[Record, list[Part]]:
    """Return what takes these tensors away and makes them, before all other nodes, of int8 ones."""
    net = OnnxNet(OnnxFile(graph, {}))
    one, zero = free(net, "int8_scale"), free(net, "int8_zero_point")
    new = [Numbers(one, np.ones((), np.float32), FLOAT), Numbers(zero, np.zeros((), np.int8), _INT8)]
    fields: dict[Record, list[Part]] = {info.record: [] for info in graph.listed if info.name in found}
    makers: list[Part] = []
    for name, old in found.items():
        assert old.tensor is not None
        fields[old.tensor.record if old.node is None else old.node.record] = []
        stored = free(net, f"{name}_int8")
        new.append(Numbers(stored, old.tensor.array().astype(np.int8), _INT8))
        node = encode.node("DequantizeLinear", (stored, one, zero), (name,), free(net, f"{name}_dequantized"))
        makers.append(encode_bytes(NODE, node))
    first = graph.nodes[0].record
    fields[first] = [*makers, *fields.get(first, [write.kept(first)])]
    added(graph, fields, new)
    return fields
