"""Fold scales into the linear node before them: which nodes can take them in, and what they become."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.errors import ModelError
from surgery.formats.onnx import encode, write
from surgery.formats.onnx.constants import Constant, constant
from surgery.formats.onnx.graph import Graph, OnnxNode
from surgery.formats.onnx.meaning import Lifted, weight_refusal
from surgery.formats.onnx.net import OnnxNet
from surgery.formats.onnx.parameters import real
from surgery.formats.onnx.rework import Numbers, Sweep, added, free, is_own, put, reworked, shapes_read
from surgery.formats.onnx.scales import BROADCAST
from surgery.formats.onnx.write import Message
from surgery.formats.wire import Record
from surgery.model import Fold

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from surgery.formats.onnx.write import Part

NODE = 1
_INPUT, _OUTPUT, _OP_TYPE = 1, 2, 4


@dataclass(frozen=True, eq=False)
class _Linear:
    """A node that can take in a scale: its weight with the output channels in front, and how that is stored.

    `bias` is the tensor added, None without; `beta` multiplies it.
    """

    weight: Constant
    rows: int
    rows_first: NDArray[Any]
    stored: Callable[[NDArray[Any]], NDArray[Any]]
    bias: Constant | None
    beta: float = 1.0


def absorber(net: OnnxNet, key: str) -> int | str:
    """Return the output channels of a node that can take in a scale, or why it cannot."""
    found = _linear(net, key)
    return found if isinstance(found, str) else found.rows


def _linear(net: OnnxNet, key: str) -> _Linear | str:
    node = net.file.keys[key]
    if node.op_type == "ConvTranspose" and not node.domain:
        found = _transposed(net, node)
    else:
        lifted = net.file.lifted(key)
        found = lifted if isinstance(lifted, str) else _of(net, node, lifted)
    if isinstance(found, str):
        return found
    addend = node.inputs[2] if len(node.inputs) > 2 else ""
    if addend and (
        found.bias is None or found.bias.size != found.rows or found.bias.data_type != found.weight.data_type
    ):
        return "what it adds is not one number per channel, known before the network runs"
    return found


def _of(net: OnnxNet, node: OnnxNode, lifted: Lifted) -> _Linear | str:
    bias = constant(net.graph, node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else None
    weight = lifted.op.weight
    if node.op_type == "MatMul":
        shape = net.file.inferred[0].get(node.inputs[0])
        if shape is None or len(shape) != 2:
            return "is a MatMul whose input is not known to have two axes"
        if net.graph.opset < BROADCAST:
            return "is a MatMul below opset 7, where Gemm reads its addend otherwise"
        return _Linear(lifted.weight, len(weight), weight, lambda made: made.T, None)
    if node.op_type == "Conv":
        return _Linear(lifted.weight, len(weight), weight, lambda made: made, bias)
    beta = real(node, "beta", 1.0)
    if not beta:
        return "multiplies what it adds by 0 (beta)"
    if net.graph.opset < BROADCAST and bias is not None and not node.attributes.get("broadcast", 0):
        return "adds a whole matrix"
    alpha = lifted.alpha
    return _Linear(
        lifted.weight, len(weight), weight, lambda made: (made.T if lifted.is_transposed else made) / alpha, bias, beta
    )


def _transposed(net: OnnxNet, node: OnnxNode) -> _Linear | str:
    if len(node.inputs) < 2 or len(node.outputs) != 1:
        return f"has {len(node.inputs)} inputs; expected two or three"
    weight = constant(net.graph, node.inputs[1])
    if weight is None:
        return "its weights are not known before the network runs"
    reason = weight_refusal(net.graph, node, weight)
    groups = node.attributes.get("group", 1)
    if reason or len(weight.shape) < 3 or not isinstance(groups, int) or groups < 1 or weight.shape[0] % groups:
        return reason or "its weights do not make a transposed convolution"
    array = weight.array()
    by_group = array.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
    bias = constant(net.graph, node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else None
    return _Linear(
        weight,
        groups * weight.shape[1],
        np.moveaxis(by_group, 2, 1),
        lambda made: np.moveaxis(made, 1, 2).reshape(weight.shape),
        bias,
    )


def folded(net: OnnxNet, folds: Sequence[Fold]) -> OnnxNet:
    """Return the network with the folds made. Raises ModelError where a weight gets beyond float32."""
    graph = net.graph
    linear = {fold: _found(net, fold.key) for fold in folds}
    heads = {net.file.keys[fold.key]: net.file.keys[fold.absorbed[-1]].outputs[0] for fold in folds}
    between = {node.outputs[0] for node in heads}
    needed = {*between, *(info.name for info in graph.outputs)}
    lost = shapes_read(tensor for fold in folds for tensor in _replaced(net, fold.key, linear[fold]))
    removed = {net.file.keys[key] for fold in folds for key in fold.absorbed}
    fields = Sweep(graph, needed, lost, removed).fields(kept=heads.values())
    fields |= {info.record: [] for info in graph.value_info if info.name in between}
    new = [made for fold in folds for made in _fold(net, fold, linear[fold], fields)]
    added(graph, fields, new)
    return reworked(net, fields)


def _found(net: OnnxNet, key: str) -> _Linear:
    found = _linear(net, key)
    if isinstance(found, str):
        raise ModelError(f"{key}: cannot take in what follows it: {found}")
    return found


def _replaced(net: OnnxNet, key: str, found: _Linear) -> Iterator[Constant]:
    """Yield the tensors whose numbers change."""
    yield found.weight
    if found.bias is not None and is_own(net.graph, net.file.keys[key], found.bias):
        yield found.bias


def _fold(net: OnnxNet, fold: Fold, found: _Linear, fields: dict[Record, list[Part]]) -> Iterator[Numbers]:
    """Put what a node is with its scale taken in; yield the bias where that is to be added."""
    node, output = net.file.keys[fold.key], net.file.keys[fold.absorbed[-1]].outputs[0]
    old = None if found.bias is None else found.bias.array().reshape(-1).astype(np.float64) * found.beta
    try:
        made, bias = fold.scale.absorbed(found.rows_first, old, found.rows, found.rows_first.dtype)
    except ValueError as error:
        raise ModelError(f"{fold.key}: cannot take in what follows it: {error}") from error
    put(net.graph, fields, found.weight, found.stored(made))
    addend = ""
    if bias is not None:
        numbers = bias / found.beta
        if found.bias is not None and is_own(net.graph, node, found.bias):
            put(net.graph, fields, found.bias, numbers.reshape(found.bias.shape))
        else:
            addend = free(net, f"{node.name or node.outputs[0]}_bias")
            yield Numbers(addend, numbers, found.weight.data_type)
    fields[node.record] = [_node(net.graph, node, output, addend)]


def _node(graph: Graph, node: OnnxNode, output: str, addend: str) -> Message:
    """Return a node with its output renamed and, where `addend` is given, that as its third input."""
    inputs = (*node.inputs[:2], addend) if addend else node.inputs
    kind = "Gemm" if node.op_type == "MatMul" and addend else node.op_type
    parts: list[Part] = [encode.text(_INPUT, name) for name in inputs]
    parts += [encode.text(_OUTPUT, output)]
    for field in graph.source.fields(node.record):
        if field.number == _OP_TYPE:
            parts.append(encode.text(_OP_TYPE, kind))
        elif field.number not in (_INPUT, _OUTPUT):
            parts.append(write.kept(field))
    return Message(NODE, tuple(parts))
