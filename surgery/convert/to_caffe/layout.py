"""Inputs that a graph transposes first thing, as exporters of channel-last networks write it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from surgery.convert.to_caffe.values import Permutation, Shape
from surgery.formats.onnx.graph import Graph

# Operators that change each number by itself, so that a transpose can as well come before them.
_PASSING = {"Add", "Cast", "Clip", "Div", "Identity", "Mul", "Neg", "Pad", "Relu", "Sub"}


def folded_inputs(graph: Graph, shapes: Mapping[str, Shape]) -> dict[str, Permutation]:
    """Return, for each input that is used only with its last axis, the channels, brought forward, that transpose.

    Caffe's input then is the transposed tensor, as its networks have it.
    """
    found = {}
    for name, shape in shapes.items():
        orders = _orders(graph, name, len(shape))
        if len(orders) == 1:
            (order,) = orders
            if len(shape) > 2 and order == (0, len(shape) - 1, *range(1, len(shape) - 1)):
                found[name] = order
    return found


def inverse(order: Sequence[int]) -> Permutation:
    """Return the permutation that undoes `order`."""
    return tuple(order.index(axis) for axis in range(len(order)))


def _orders(graph: Graph, name: str, rank: int) -> set[Permutation | None]:
    """Return the transposes that a tensor meets first; None stands for any other use."""
    outputs = {info.name for info in graph.outputs}
    orders: set[Permutation | None] = set()
    queue, seen = [name], {name}
    while queue:
        tensor = queue.pop()
        if tensor in outputs:
            orders.add(None)
        for node in graph.users.get(tensor, ()):
            if node.op_type == "Transpose" and not node.domain:
                perm = node.attributes.get("perm", tuple(range(rank))[::-1])
                orders.add(tuple(n for n in perm if isinstance(n, int)) if isinstance(perm, tuple) else None)
            elif node.op_type in _PASSING and not node.domain and _is_alone(graph, node.inputs, tensor):
                queue += [output for output in node.outputs if output not in seen]
                seen.update(node.outputs)
            elif node.op_type != "Shape":
                orders.add(None)
    return orders


def _is_alone(graph: Graph, inputs: Sequence[str], tensor: str) -> bool:
    """Say whether all inputs but `tensor` are initializers."""
    return all(name == tensor or not name or name in graph.initializers for name in inputs)
