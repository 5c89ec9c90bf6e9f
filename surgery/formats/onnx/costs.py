"""What is known of every ONNX node without running it: shapes, parameters, multiply-accumulates."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from surgery.formats.onnx.attribute import Opaque, Subgraph
from surgery.formats.onnx.constants import FLOATS, constant, is_constant
from surgery.formats.onnx.graph import Graph, OnnxNode
from surgery.model import Facts, Memory, Shape

if TYPE_CHECKING:
    from surgery.formats.onnx.parameters import Pads

Shapes = Mapping[str, Shape | None]

_UNCOUNTED = frozenset(("Attention", "DeformConv", "Einsum", "FlexAttention", "LinearAttention"))


def params(graph: Graph) -> dict[int, int]:
    """Return the numbers that each node (by index) is trained with, each tensor counted where it is read first.

    Those are its known tensors of real numbers with at least one axis; an epsilon or a bound is no parameter.
    """
    seen: set[str] = set()
    result = {}
    for node in graph.nodes:
        found = () if is_constant(graph, node) else (constant(graph, name) for name in node.inputs if name)
        total = 0
        for tensor in found:
            if tensor is not None and tensor.shape and tensor.data_type in FLOATS and tensor.root not in seen:
                seen.add(tensor.root)
                total += tensor.size
        result[node.index] = total
    return result


def facts(node: OnnxNode, shapes: Shapes, trained: int, pads: Pads | None, hint: str | None) -> Facts:
    """Return what is known of a node; `pads` are those of a convolution that can be cut, `hint` what shapes lack."""
    outputs = tuple(shapes.get(name) for name in node.outputs if name)
    macs = _macs(node, shapes)
    reason = None
    if None in outputs or isinstance(macs, str):
        told = f"{macs}; " if isinstance(macs, str) and None not in outputs else ""
        reason = f"{told or _unknown(node, shapes)}{'; ' if hint and not told else ''}{hint or ''}".removesuffix("; ")
    x = shapes.get(node.inputs[0]) if node.inputs else None
    return Facts(
        shapes=outputs,
        params=trained,
        macs=None if isinstance(macs, str) else macs,
        input_size=_size(x, pads),
        column_bytes=0,
        reason=reason,
    )


def _unknown(node: OnnxNode, shapes: Shapes) -> str:
    name = next((name for name in node.outputs if name and shapes.get(name) is None), "")
    return f"the shape of '{name}' is not known"


def _size(x: Shape | None, pads: Pads | None) -> tuple[int, int] | None:
    """Return the input's map.

    Of a convolution that pads its ends unequally, whose operation has the smaller number at both, the map is as much
    larger as makes the output's size right.
    """
    if x is None or len(x) != 4:
        return None
    (top, bottom), (left, right) = pads or ((0, 0), (0, 0))
    return x[2] + abs(top - bottom), x[3] + abs(left - right)


def _macs(node: OnnxNode, shapes: Shapes) -> int | str:
    """Return the multiply-accumulates of one pass, or why they are not known."""
    values = (v for value in node.attributes.values() for v in (value if isinstance(value, tuple) else (value,)))
    if any(isinstance(value, (Subgraph, Opaque)) for value in values):
        return f"what {node.op_type} runs inside is not counted"
    if node.domain:
        return f"what an operator of '{node.domain}' computes is not known"
    if node.op_type in _UNCOUNTED:
        return f"the work of {node.op_type} is not counted"
    counter = _COUNTERS.get(node.op_type)
    if counter is None:
        return 0
    count = counter(node, shapes)
    if count is None:
        return f"the shapes around '{node.outputs[0]}' are not known"
    return count or f"'{node.outputs[0]}' is empty: what is computed does not fit into its input"


def _shape(node: OnnxNode, index: int, shapes: Shapes) -> Shape | None:
    return shapes.get(node.inputs[index]) if index < len(node.inputs) else None


def _convolution(index: int) -> Callable[[OnnxNode, Shapes], int | None]:
    def count(node: OnnxNode, shapes: Shapes) -> int | None:
        weight, y = _shape(node, index, shapes), shapes.get(node.outputs[0])
        return None if weight is None or y is None else math.prod(y) * math.prod(weight[1:])

    return count


def _transposed(node: OnnxNode, shapes: Shapes) -> int | None:
    x, weight = _shape(node, 0, shapes), _shape(node, 1, shapes)
    return None if x is None or weight is None else math.prod(x) * math.prod(weight[1:])


def _product(index: int) -> Callable[[OnnxNode, Shapes], int | None]:
    def count(node: OnnxNode, shapes: Shapes) -> int | None:
        x, y = _shape(node, 0, shapes), shapes.get(node.outputs[0])
        if not x or y is None:
            return None
        inner = x[0] if node.op_type == "Gemm" and node.attributes.get("transA", 0) else x[-1]
        return math.prod(y) * inner

    return count


def _recurrent(node: OnnxNode, shapes: Shapes) -> int | None:
    x, *weights = (_shape(node, index, shapes) for index in range(3))
    if x is None or len(x) != 3 or any(weight is None for weight in weights):
        return None
    return x[0] * x[1] * sum(math.prod(weight) for weight in weights if weight is not None)


# The index is that of the weights among a node's inputs.
_COUNTERS: Mapping[str, Callable[[OnnxNode, Shapes], int | None]] = {
    "Conv": _convolution(1),
    "ConvInteger": _convolution(1),
    "ConvTranspose": _transposed,
    "GRU": _recurrent,
    "Gemm": _product(1),
    "LSTM": _recurrent,
    "MatMul": _product(1),
    "MatMulInteger": _product(1),
    "QLinearConv": _convolution(3),
    "QLinearMatMul": _product(3),
    "RNN": _recurrent,
}


def memory(graph: Graph, shapes: Shapes, trained: int, nodes: list[OnnxNode]) -> Memory | None:
    """Return the bytes of weights, and of all tensors between nodes at once, as float32; None without all shapes."""
    read = {*graph.users, *(info.name for info in graph.outputs)}
    names = [*(info.name for info in graph.inputs), *(name for node in nodes for name in node.outputs if name in read)]
    total = 0
    for name in filter(None, names):
        shape = shapes.get(name)
        if shape is None:
            return None
        total += math.prod(shape)
    return Memory(4 * trained, 4 * total, 0, 0)
