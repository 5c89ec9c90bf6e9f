"""Make one node of several that follow each other: in place of the last, with one tensor for all their weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from surgery.errors import ModelError
from surgery.formats.onnx import scales, spelling
from surgery.formats.onnx.graph import OnnxNode
from surgery.formats.onnx.meaning import Lifted
from surgery.formats.onnx.net import OnnxNet
from surgery.formats.onnx.parameters import SAME, auto_pad
from surgery.formats.onnx.rework import Numbers, Sweep, added, free, reworked
from surgery.formats.onnx.spelling import Link
from surgery.formats.onnx.write import Message
from surgery.model import Merge
from surgery.ops import Conv2d, Linear


@dataclass(frozen=True, eq=False)
class _Run:
    """The nodes of a merge, what those of them that have weights were, and the node that stands for all."""

    nodes: Sequence[OnnxNode]
    lifts: Sequence[Lifted]
    link: Link


def merged(net: OnnxNet, merges: Sequence[Merge]) -> OnnxNet:
    """Return the network with the merges made.

    Raises ModelError where nodes do not follow each other, or where others need what is between them.
    """
    graph = net.graph
    runs = [_run(net, merge) for merge in merges]
    gone = {node for run in runs for node in run.nodes[:-1]}
    lost = {run.nodes[-1]: set(run.nodes[-1].inputs) - set(run.link.inputs) for run in runs}
    needed = {*(info.name for info in graph.outputs), *(name for run in runs for name in run.link.inputs)}
    fields = Sweep(graph, needed, lost, gone).fields()
    for run in runs:
        fields[run.nodes[-1].record] = [_node(net, run)]
    added(graph, fields, [numbers for run in runs for numbers in _numbers(run)])
    return reworked(net, fields)


def _run(net: OnnxNet, merge: Merge) -> _Run:
    nodes = [net.file.keys[key] for key in merge.keys]
    reason = next(_refusals(net, merge, nodes), None)
    if reason:
        raise ModelError(f"{merge.name}: cannot be made of {', '.join(merge.keys)}: {reason}")
    lifts = [found for found in map(net.file.lifted, merge.keys) if isinstance(found, Lifted)]
    addend = lifts[-1].addend if lifts[-1].op.bias is None else ""
    if merge.op.bias is not None:
        addend = free(net, f"{merge.name}_bias")
    weight = free(net, f"{merge.name}_weight")
    kind = next((node.op_type for node in nodes if node.op_type == "Gemm"), nodes[-1].op_type)
    return _Run(
        nodes, lifts, Link(merge.op, merge.name, kind, nodes[0].inputs[0], weight, addend, nodes[-1].outputs[0])
    )


def _refusals(net: OnnxNet, merge: Merge, nodes: Sequence[OnnxNode]) -> Iterator[str]:
    """Yield why nodes cannot become one."""
    if merge.name in {node.name for node in net.graph.nodes if node not in nodes}:
        yield f"another node has the name '{merge.name}'"
    outputs = {info.name for info in net.graph.outputs}
    for node, after in pairwise(nodes):
        name = node.outputs[0]
        if after.inputs[:1] != (name,) or after.inputs.count(name) > 1:
            yield f"{after.label} does not read {node.label}"
        yield from (f"{user.label} reads '{name}' too" for user in net.graph.users.get(name, ()) if user is not after)
        if name in outputs:
            yield f"'{name}' is an output of the network"
    found = {key: net.file.lifted(key) for key in merge.keys}
    for key, node in zip(merge.keys, nodes, strict=True):
        yield from _unfit(net, node, found[key], is_end=node in (nodes[0], nodes[-1]))
    last = found[merge.keys[-1]]
    if merge.op.bias is not None and isinstance(last, Lifted):
        if nodes[-1].op_type == "MatMul":
            yield "a MatMul has no bias"
        elif last.addend and last.op.bias is None:
            yield f"{nodes[-1].label} adds what is not one number per channel, known before the network runs"


def _unfit(net: OnnxNet, node: OnnxNode, found: Lifted | str, *, is_end: bool) -> Iterator[str]:
    if isinstance(found, str):
        if is_end or not scales.scale(net, node):
            yield f"{node.label} {found}"
    elif auto_pad(node) in SAME and isinstance(found.op, Conv2d) and found.op.stride != (1, 1):
        shape = net.file.inferred[0].get(node.inputs[0])
        if shape is None or len(shape) != 4:
            yield f"{node.label} pads as much as its input's size says (auto_pad), which is not known; give --shape"


def _node(net: OnnxNet, run: _Run) -> Message:
    """Return the node that stands for all; what the last says besides its meaning, it says."""
    attributes = _convolution(run) if isinstance(run.link.stage, Conv2d) else _product(run)
    return spelling.message(net.graph, run.nodes[-1], run.lifts[-1], run.link, attributes)


def _convolution(run: _Run) -> dict[str, Any]:
    op = run.link.stage
    assert isinstance(op, Conv2d)
    # On each axis one of them pads at most: the others have one tap there.
    pads = [lifted.pads for lifted in run.lifts if lifted.pads is not None]
    (top, bottom), (left, right) = ([sum(ends) for ends in zip(*axis, strict=True)] for axis in zip(*pads, strict=True))
    return spelling.convolution(op, (top, left, bottom, right))


def _product(run: _Run) -> dict[str, Any]:
    if run.link.type == "MatMul":
        return {}
    return {"transA": 1 if run.nodes[0].attributes.get("transA", 0) else None, "transB": 1}


def _numbers(run: _Run) -> Iterator[Numbers]:
    """Yield the new tensors, in the type of the old weights."""
    op, data_type = run.link.stage, run.lifts[0].weight.data_type
    assert isinstance(op, (Conv2d, Linear))
    yield Numbers(run.link.weight, op.weight.T if run.link.type == "MatMul" else op.weight, data_type)
    if op.bias is not None:
        yield Numbers(run.link.addend, op.bias, data_type)
