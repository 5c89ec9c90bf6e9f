"""How a chain of operations is written as ONNX nodes in place of one: names, connections, attributes, weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.errors import ModelError
from surgery.formats.onnx import encode
from surgery.formats.onnx.graph import Graph, OnnxNode
from surgery.formats.onnx.meaning import Lifted
from surgery.formats.onnx.parameters import SAME, auto_pad
from surgery.formats.onnx.write import Message, kept
from surgery.formats.wire import encode_bytes
from surgery.ops import Conv2d, Scale

if TYPE_CHECKING:
    from surgery.formats.cuts import Cut
    from surgery.formats.onnx.write import Part
    from surgery.ops import Chain, FloatArray, Op, Stage

NODE = 1
_INPUT, _OUTPUT, _NAME, _OP_TYPE, _ATTRIBUTE = 1, 2, 3, 4, 5
_OF_CONV: tuple[str, ...] = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
_OF_GEMM: tuple[str, ...] = ("alpha", "transA", "transB")
_ENDINGS = ("_weight", "_bias")
_NEEDS_ADDEND = 11  # Below this opset, Gemm has three inputs.
_BROADCASTS = 7  # Below this opset, arithmetic lines up axes by attributes.


@dataclass(frozen=True, eq=False)
class Weight:
    """A new tensor: its name, and its numbers as they are stored."""

    name: str
    array: FloatArray


@dataclass(frozen=True)
class Link:
    """One of the new nodes: what it computes, its name, type and connections; "" where the node has no addend."""

    stage: Stage
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


def stages(graph: Graph, node: OnnxNode, old: Lifted, chain: Chain) -> tuple[Stage, ...]:
    """Return what each of the new nodes computes.

    A bias is added behind a node that has no place for it: a MatMul, or one that adds what is not known beforehand.
    Raises ModelError where the opset's arithmetic has no axes.
    """
    found, last = chain.ops, chain.last
    is_full = node.op_type == "MatMul" or (old.addend and old.op.bias is None)
    if is_full and last.bias is not None:
        shifts = [Scale.of(shift=last.bias)] if last.bias.any() else []
        found = (*found[:-1], replace(last, bias=None), *shifts)
    if graph.opset < _BROADCASTS and any(isinstance(stage, Scale) for stage in found):
        raise ModelError(
            f"{node.label}: a Mul or an Add is to stand beside its factors, for which the file's opset {graph.opset} "
            f"is too old; convert it to opset {_BROADCASTS} or later, or cut with form=folded"
        )
    return found


def stems(node: OnnxNode, key: str, taken: Callable[[str], bool], length: int) -> list[str]:
    """Return names for `length` nodes in place of one: name_1, name_2, or name_cut1, ... where one is taken.

    They are free as names of nodes, of the tensors between them, and, with an ending, of their weights. One node alone
    keeps the name where that is its key.
    """
    name = node.name or node.outputs[0]
    if length == 1 and key == name and not any(taken(name + ending) for ending in _ENDINGS):
        return [name]
    return _numbered(name, ("_", "_cut", *(f"_cut{i}_" for i in range(2, 1000))), taken, length)


def shared_stems(node: OnnxNode, taken: Callable[[str], bool], length: int) -> list[str]:
    """Return names for `length` nodes whose result a node and others share: name_shared1, name_shared2, ..."""
    middles = ("_shared", *(f"_shared{i}_" for i in range(2, 1000)))
    return _numbered(node.name or node.outputs[0], middles, taken, length)


def _numbered(name: str, middles: Iterable[str], taken: Callable[[str], bool], length: int) -> list[str]:
    for middle in middles:
        names = [f"{name}{middle}{i}" for i in range(1, length + 1)]
        if not any(taken(stem + ending) for stem in names for ending in ("", *_ENDINGS)):
            return names
    raise ModelError(f"{name}: a thousand names like '{name}_1' are taken; rename the node")


def links(graph: Graph, node: OnnxNode, old: Lifted, cut: Cut) -> list[Link]:
    """Return the new nodes; the first reads what the node reads, the last makes what it makes."""
    result = []
    x = node.inputs[0]
    last = max(i for i, stage in enumerate(cut.stages) if not isinstance(stage, Scale))
    for i, (stage, name) in enumerate(zip(cut.stages, cut.names, strict=True)):
        output = node.outputs[0] if i == len(cut.names) - 1 else name
        if isinstance(stage, Scale):
            result.append(Link(stage, name, "Add" if stage.shift.any() else "Mul", x, f"{name}_weight", "", output))
        else:
            addend = _addend(old, stage, name, is_last=i == last)
            kind = "MatMul" if node.op_type == "Gemm" and not addend and graph.opset < _NEEDS_ADDEND else node.op_type
            if kind == "MatMul" and addend:
                raise ModelError(f"{name}: a MatMul has no bias, but its part of the chain has one")
            result.append(Link(stage, name, kind, x, f"{name}_weight", addend, output))
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


def weights(old: Lifted, connections: Sequence[Link]) -> list[Weight]:
    """Return the new tensors, in the type of the old weight; those that lie transposed are views."""
    found = []
    kind = old.weight.array().dtype
    for link in connections:
        stage = link.stage
        if isinstance(stage, Scale):
            numbers = stage.shift if link.type == "Add" else stage.factor
            shape = (stage.channels, 1, 1) if isinstance(old.op, Conv2d) else (stage.channels,)
            found.append(Weight(link.weight, _as(np.broadcast_to(numbers, stage.channels).reshape(shape), kind)))
            continue
        is_transposed = link.type == "MatMul" or (link.type == "Gemm" and old.is_transposed)
        found.append(Weight(link.weight, _as(stage.weight.T if is_transposed else stage.weight, kind)))
        if link.addend and link.addend != old.addend:
            assert stage.bias is not None
            found.append(Weight(link.addend, _as(stage.bias, kind)))
    return found


def _as(array: FloatArray, kind: np.dtype[Any]) -> FloatArray:
    converted: FloatArray = array.astype(kind, copy=False)
    return converted


def nodes(graph: Graph, node: OnnxNode, old: Lifted, cut: Cut) -> list[Message]:
    """Return the fields of the new nodes; what the node says besides its meaning, all that are of its kind say."""
    result = []
    for i, link in list(enumerate(links(graph, node, old, cut)))[cut.shared :]:
        is_conv = isinstance(link.stage, Conv2d)
        attributes = _conv(node, old, cut.stages, i) if is_conv else _gemm(old, node, link, is_first=i == 0)
        result.append(message(graph, node, old, link, attributes))
    return result


def message(graph: Graph, node: OnnxNode, old: Lifted, link: Link, attributes: Mapping[str, Any]) -> Message:
    """Return the field of a new node with these attributes, without those that are None.

    What `node` says besides its meaning, it says as well, unless it is arithmetic.
    """
    parts: list[Part] = [encode.text(_INPUT, name) for name in link.inputs]
    parts += [encode.text(_OUTPUT, link.output), encode.text(_NAME, link.name), encode.text(_OP_TYPE, link.type)]
    stated = {name: value for name, value in attributes.items() if value is not None}
    parts += [encode_bytes(_ATTRIBUTE, encode.attribute(name, value)) for name, value in stated.items()]
    return Message(NODE, (*parts, *([] if isinstance(link.stage, Scale) else _others(graph, node, old, link))))


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
    if link.type != "Gemm":
        return {}
    return {
        "transA": 1 if is_first and node.attributes.get("transA", 0) else None,
        "transB": int(not old.is_transposed),
    }


def _conv(node: OnnxNode, old: Lifted, stages: Sequence[Stage], index: int) -> dict[str, Any]:
    op = stages[index]
    assert isinstance(op, Conv2d)
    mode = auto_pad(node)
    keeps = mode in SAME  # A node with one tap and no stride adds nothing under it; so each adds its axis' share.
    return {"auto_pad": mode if keeps else None, **convolution(op, None if keeps else _pads(old, stages, op))}


def convolution(op: Conv2d, pads: tuple[int, int, int, int] | None) -> dict[str, Any]:
    """Return the attributes of a convolution; `pads` (top, left, bottom, right) are None where auto_pad says them."""
    return {
        "dilations": op.dilation,
        "group": op.groups,
        "kernel_shape": op.kernel,
        "pads": pads,
        "strides": op.stride,
    }


def _pads(old: Lifted, stages: Sequence[Stage], op: Conv2d) -> tuple[int, int, int, int]:
    """Return the pads of one of the nodes; an axis whose ends differ is padded where it is convolved."""
    assert old.pads is not None
    ends = []
    for axis, (begin, end) in enumerate(old.pads):
        kernels = [other.kernel[axis] for other in stages if isinstance(other, Conv2d)]
        if begin == end:
            ends.append((op.padding[axis], op.padding[axis]))
        elif kernels.count(1) < len(kernels) - 1:
            raise ModelError("two of the new convolutions work on an axis that is padded unequally")
        else:
            ends.append((begin, end) if op.kernel[axis] > 1 else (op.padding[axis], op.padding[axis]))
    (top, bottom), (left, right) = ends
    return top, left, bottom, right
