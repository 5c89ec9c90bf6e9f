"""How a chain of operations is written as ONNX nodes in place of one: names, connections, attributes, weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.errors import ModelError
from surgery.formats.onnx import encode
from surgery.formats.onnx.graph import Graph, OnnxNode
from surgery.formats.onnx.meaning import Lifted
from surgery.formats.onnx.parameters import SAME, auto_pad
from surgery.formats.onnx.write import Message, kept
from surgery.formats.wire import encode_bytes
from surgery.ops import Conv2d

if TYPE_CHECKING:
    from surgery.formats.onnx.write import Part
    from surgery.ops import Chain, FloatArray, Op

NODE = 1
_INPUT, _OUTPUT, _NAME, _OP_TYPE, _ATTRIBUTE = 1, 2, 3, 4, 5
_OF_CONV: tuple[str, ...] = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
_OF_GEMM: tuple[str, ...] = ("alpha", "transA", "transB")
_NEEDS_ADDEND = 11  # Below this opset, Gemm has three inputs.


@dataclass(frozen=True, eq=False)
class Weight:
    """A new tensor: its name, and its numbers as they are stored."""

    name: str
    array: FloatArray


@dataclass(frozen=True)
class Link:
    """One of the new nodes: its name, type and connections; "" where the node has no addend."""

    name: str
    type: str
    x: str
    weight: str
    addend: str
    output: str

    @property
    def inputs(self) -> tuple[str, ...]:
        """What it reads."""
        return tuple(filter(None, (self.x, self.weight, self.addend)))


def stems(node: OnnxNode, taken: Callable[[str], bool], length: int) -> list[str]:
    """Return names for `length` nodes in place of one: name_1, name_2, or name_cut1, ... where one is taken.

    They are free as names of nodes, of the tensors between them, and, with an ending, of their weights.
    """
    name = node.name or node.outputs[0]
    for middle in ("_", "_cut", *(f"_cut{i}_" for i in range(2, 1000))):
        names = [f"{name}{middle}{i}" for i in range(1, length + 1)]
        if not any(taken(stem + ending) for stem in names for ending in ("", "_weight", "_bias")):
            return names
    raise ModelError(f"{name}: a thousand names like '{name}_1' are taken; rename the node")


def links(graph: Graph, node: OnnxNode, old: Lifted, chain: Chain, names: Sequence[str]) -> list[Link]:
    """Return the new nodes; the first reads what the node reads, the last makes what it makes."""
    result = []
    x = node.inputs[0]
    for i, (op, name) in enumerate(zip(chain.ops, names, strict=True)):
        is_last = i == len(names) - 1
        addend = _addend(old, op, name, is_last=is_last)
        kind = "MatMul" if node.op_type == "Gemm" and not addend and graph.opset < _NEEDS_ADDEND else node.op_type
        if kind == "MatMul" and addend:
            raise ModelError(f"{name}: a MatMul has no bias, but its part of the chain has one")
        output = node.outputs[0] if is_last else name
        result.append(Link(name, kind, x, f"{name}_weight", addend, output))
        x = output
    return result


def _addend(old: Lifted, op: Op, name: str, *, is_last: bool) -> str:
    """Return the tensor that a node adds: the old one, where it is still true, stays in place and may be shared."""
    if is_last and same(op.bias, old.op.bias):
        return old.addend
    return f"{name}_bias" if op.bias is not None else ""


def same(one: FloatArray | None, other: FloatArray | None) -> bool:
    """Return whether two biases, either of which may be missing, are equal."""
    if one is None or other is None:
        return one is other
    return np.array_equal(one, other)


def weights(old: Lifted, chain: Chain, connections: Sequence[Link]) -> list[Weight]:
    """Return the new tensors, in the type of the old weight; those that lie transposed are views."""
    found = []
    kind = old.weight.array().dtype
    for op, link in zip(chain.ops, connections, strict=True):
        is_transposed = link.type == "MatMul" or (link.type == "Gemm" and old.is_transposed)
        found.append(Weight(link.weight, _as(op.weight.T if is_transposed else op.weight, kind)))
        if link.addend and link.addend != old.addend:
            assert op.bias is not None
            found.append(Weight(link.addend, _as(op.bias, kind)))
    return found


def _as(array: FloatArray, kind: np.dtype[Any]) -> FloatArray:
    converted: FloatArray = array.astype(kind, copy=False)
    return converted


def nodes(graph: Graph, node: OnnxNode, old: Lifted, chain: Chain, connections: Sequence[Link]) -> list[Message]:
    """Return the fields of the new nodes; what the node says besides its meaning, all of them say."""
    result = []
    for i, (op, link) in enumerate(zip(chain.ops, connections, strict=True)):
        parts: list[Part] = [encode.text(_INPUT, name) for name in link.inputs]
        parts += [encode.text(_OUTPUT, link.output), encode.text(_NAME, link.name), encode.text(_OP_TYPE, link.type)]
        values = _conv(node, old, chain, i) if isinstance(op, Conv2d) else _gemm(old, node, link, is_first=i == 0)
        attributes = {name: value for name, value in values.items() if value is not None}
        parts += [encode_bytes(_ATTRIBUTE, encode.attribute(name, value)) for name, value in attributes.items()]
        result.append(Message(NODE, (*parts, *_others(graph, node, old, link))))
    return result


def _others(graph: Graph, node: OnnxNode, old: Lifted, link: Link) -> list[Part]:
    """Return the node's other fields and attributes, as they are; beta belongs where the addend is."""
    settled = _OF_CONV if link.type == "Conv" else _OF_GEMM
    if link.addend != old.addend or not link.addend:
        settled = (*settled, "beta")  # A new addend has it in its numbers.
    if not link.addend:
        settled = (*settled, "broadcast")
    parts: list[Part] = []
    for field in graph.source.fields(node.record):
        if field.number in (_INPUT, _OUTPUT, _NAME, _OP_TYPE):
            continue
        if field.number == _ATTRIBUTE:
            name = next((graph.source.string(part) for part in graph.source.fields(field) if part.number == 1), "")
            if name in settled:
                continue
        parts.append(kept(field))
    return parts


def _gemm(old: Lifted, node: OnnxNode, link: Link, *, is_first: bool) -> dict[str, Any]:
    if link.type == "MatMul":
        return {}
    return {
        "transA": 1 if is_first and node.attributes.get("transA", 0) else None,
        "transB": int(not old.is_transposed),
    }


def _conv(node: OnnxNode, old: Lifted, chain: Chain, stage: int) -> dict[str, Any]:
    op = chain.ops[stage]
    assert isinstance(op, Conv2d)
    mode = auto_pad(node)
    keeps = mode in SAME  # A node with one tap and no stride adds nothing under it; so each adds its axis' share.
    return {
        "auto_pad": mode if keeps else None,
        "dilations": op.dilation,
        "group": op.groups,
        "kernel_shape": op.kernel,
        "pads": None if keeps else _pads(old, chain, stage),
        "strides": op.stride,
    }


def _pads(old: Lifted, chain: Chain, stage: int) -> tuple[int, ...]:
    """Return the pads of one node; an axis whose ends differ is padded where it is convolved."""
    op = chain.ops[stage]
    assert isinstance(op, Conv2d)
    assert old.pads is not None
    ends = []
    for axis, (begin, end) in enumerate(old.pads):
        kernels = [other.kernel[axis] for other in chain.ops if isinstance(other, Conv2d)]
        if begin == end:
            ends.append((op.padding[axis], op.padding[axis]))
        elif kernels.count(1) < len(kernels) - 1:
            raise ModelError("two of the new convolutions work on an axis that is padded unequally")
        else:
            ends.append((begin, end) if op.kernel[axis] > 1 else (op.padding[axis], op.padding[axis]))
    (top, bottom), (left, right) = ends
    return top, left, bottom, right
