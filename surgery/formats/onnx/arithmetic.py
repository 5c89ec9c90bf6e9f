"""Numbers that only depend on shapes, such as the target of a Reshape, worked out as far as shapes are known.

Exporters compute those in the graph itself. ONNX's shape inference follows some of it, with int64 alone.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from surgery.formats.onnx import encode
from surgery.formats.onnx.constants import MAX_SIZES, constant
from surgery.formats.onnx.graph import Graph, OnnxNode
from surgery.formats.wire import encode_bytes
from surgery.model import Shape

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_AXES = 32  # NumPy's own limit, for arrays that
MAX_COUNT = 2**60  # take no memory

# None of these makes more numbers than it reads and says; so their results are as small as shape inference says.
_OPERATORS = frozenset(
    (
        *("Add", "Cast", "Ceil", "Concat", "Div", "Equal", "Floor", "Gather", "Identity", "Max", "Min", "Mod", "Mul"),
        *("Neg", "ReduceProd", "Reshape", "Shape", "Size", "Slice", "Squeeze", "Sub", "Unsqueeze", "Where"),
    )
)


def results(graph: Graph, shapes: Mapping[str, Shape | None]) -> dict[str, NDArray[Any]]:
    """Return the value of each tensor that follows from shapes and small constants; {} where none does.

    `shapes` are those known so far, and every result's own must be among them.
    """
    import numpy as np

    given: dict[str, NDArray[Any]] = {}
    nodes: list[OnnxNode] = []
    made: set[str] = set()
    for node in graph.nodes:
        if node.domain or node.op_type not in _OPERATORS or len(node.outputs) != 1:
            continue
        if not _is_small(shapes.get(node.outputs[0])):
            continue
        if node.op_type in ("Shape", "Size"):
            shape = shapes.get(node.inputs[0])
            if shape is not None and len(shape) <= MAX_AXES and math.prod(shape) <= MAX_COUNT:
                given[node.inputs[0]] = np.broadcast_to(np.zeros((), np.float32), shape)  # Takes no memory.
                nodes.append(node)
                made.add(node.outputs[0])
            continue
        constants = _constants(graph, [name for name in node.inputs if name and name not in made])
        if constants is not None and not made.isdisjoint(node.inputs):
            given |= constants
            nodes.append(node)
            made.add(node.outputs[0])
    return _run(graph, nodes, given) if nodes else {}


def _is_small(shape: Shape | None) -> bool:
    return shape is not None and math.prod(shape) <= MAX_SIZES


def _constants(graph: Graph, names: list[str]) -> dict[str, NDArray[Any]] | None:
    """Return the values of these tensors, None where one is not known or not small."""
    found = {name: constant(graph, name) for name in names}
    if any(value is None or value.size > MAX_SIZES for value in found.values()):
        return None
    return {name: value.array() for name, value in found.items() if value is not None}


def _run(graph: Graph, nodes: list[OnnxNode], given: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Run the nodes in ONNX's own reference implementation, one for one; what fails there is left out.

    It raises whatever its NumPy does.
    """
    import numpy as np
    from onnx import ModelProto
    from onnx.reference import ReferenceEvaluator

    known: dict[str, NDArray[Any]] = dict(given)
    found = {}
    for node in nodes:
        if any(name and name not in known for name in node.inputs):
            continue
        model = ModelProto.FromString(_model(graph, node))
        try:
            with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):
                (value,) = ReferenceEvaluator(model).run(None, {name: known[name] for name in node.inputs if name})
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError):
            continue
        if isinstance(value, np.ndarray) and value.size <= MAX_SIZES and value.dtype.name in encode.DATA_TYPES:
            known[node.outputs[0]] = found[node.outputs[0]] = value
    return found


def _model(graph: Graph, node: OnnxNode) -> bytes:
    """Return a model of one node."""
    record = node.record
    body = [graph.source.buffer[record.start : record.end]]
    body += [encode_bytes(11, encode.value_info(name, 1, None)) for name in dict.fromkeys(node.inputs) if name]
    body += [encode_bytes(12, encode.text(1, node.outputs[0]))]
    head = encode.varint(1, 8) + encode_bytes(8, encode.opset(graph.opset))
    return head + encode_bytes(7, b"".join(body))
