"""Gemm and MatMul nodes written as convolutions over all they read, so that a network also takes larger images.

What such a node gave as (N, outputs) becomes (N, outputs, 1, 1), and so does everything computed from it, as far as
that goes; the Flatten or Reshape before it goes, if nothing else reads it. A node to which the two mean different
things keeps those before it from being rewritten.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from surgery.errors import ModelError
from surgery.formats.onnx import encode, write
from surgery.formats.onnx.constants import Constant, constant
from surgery.formats.onnx.graph import OnnxNode, Shape
from surgery.formats.onnx.meaning import Lifted
from surgery.formats.onnx.net import OnnxNet
from surgery.formats.onnx.rework import Numbers, Sweep, added, free, is_own, put, reworked, shapes_read
from surgery.formats.onnx.write import Message
from surgery.formats.wire import Record, encode_bytes
from surgery.model import Node, Refusal

if TYPE_CHECKING:
    from surgery.formats.onnx.write import Part

DENSE = ("Gemm", "MatMul")
NODE, INPUT, OUTPUT = 1, 11, 12
_INPUT, _OUTPUT, _OP_TYPE, _ATTRIBUTE = 1, 2, 4, 5
_OF_GEMM = ("alpha", "beta", "broadcast", "transA", "transB")
_VIEWS = ("Flatten", "Reshape", "Squeeze")

# What works number by number, or channel by channel along axis 1, and so alike on (N, C) and on (N, C, 1, 1).
_ALIKE = {
    *("Abs", "BatchNormalization", "Cast", "Ceil", "Celu", "Clip", "Dropout", "Elu", "Erf", "Exp", "Floor", "Gelu"),
    *("HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Log", "Mish", "Neg", "Reciprocal", "Relu", "Selu"),
    *("Sigmoid", "Softplus", "Softsign", "Sqrt", "Tanh", "ThresholdedRelu"),
}
_TOGETHER = {"Add", "Div", "Max", "Mean", "Min", "Mul", "PRelu", "Pow", "Sub", "Sum"}
_ALONG = {"Concat", "LogSoftmax", "Softmax"}


def convolvable(
    net: OnnxNet, nodes: Sequence[Node], keys: Collection[str]
) -> tuple[tuple[str, ...], tuple[Refusal, ...]]:
    """Return which Gemm and MatMul nodes of those `keys` can become convolutions, and why the others cannot.

    A node that only a refused one keeps from it is refused as well, so that what is returned can be done together.
    """
    wanted = {node.key: node for node in nodes if node.key in keys and node.type in DENSE}
    reasons = {key: reason for key in wanted if (reason := _refusal(net, key))}
    chosen = {net.file.keys[key]: key for key in wanted if key not in reasons}
    while more := _Spread(net, chosen).reasons():
        reasons.update(more)
        chosen = {node: key for node, key in chosen.items() if key not in more}
    left = tuple(Refusal(key, wanted[key].type, reasons[key]) for key in wanted if key in reasons)
    return tuple(key for key in wanted if key not in reasons), left


def _refusal(net: OnnxNet, key: str) -> str | None:
    """Return why a node cannot become a convolution whatever stands around it, or None."""
    if key not in net.file.keys or key in net.cuts:
        return "was made by a cut; save the model and load that"
    found = net.file.lifted(key)
    if isinstance(found, str):
        return found
    if net.file.keys[key].attributes.get("transA", 0):
        return "reads its input transposed (transA)"
    if found.addend and found.op.bias is None:
        return "what it adds is not one number per channel, known before the network runs"
    return None


@dataclass(frozen=True, eq=False)
class _Spread:
    """Which tensors get two more axes when the nodes `chosen` become convolutions, and whom that disturbs."""

    net: OnnxNet
    chosen: Mapping[OnnxNode, str]

    def origins(self) -> tuple[dict[str, set[str]], dict[str, str]]:
        """Return the keys behind each tensor with two more axes, and the keys that must be left with the reasons."""
        origins: dict[str, set[str]] = {}
        found: dict[str, str] = {}
        for node in self.net.graph.nodes:
            behind = set().union(*(origins.get(name, set()) for name in node.reads))
            if node in self.chosen:
                key = self.chosen[node]
                if window(self.net, key, is_lifted=node.inputs[0] in origins) is None:
                    found[key] = f"its input '{node.inputs[0]}' is not a view of a map with height and width"
                origins[node.outputs[0]] = {key}
            elif behind and not self._ends(node):
                reason = self._disturbed(node, origins)
                found.update(dict.fromkeys(behind, f"{node.label} behind it {reason}") if reason else {})
                origins.update({name: behind for name in node.outputs if name})
        return origins, found

    def reasons(self) -> dict[str, str]:
        """Return the keys that must be left, with the reasons."""
        return self.origins()[1]

    def _ends(self, node: OnnxNode) -> bool:
        """Return whether a node gives the same, of the same shape, from both."""
        if node.domain or not node.outputs:
            return False
        shape = self.net.file.inferred[0].get(node.outputs[0])
        if node.op_type == "Flatten":
            return node.attributes.get("axis", 1) == 1
        return node.op_type == "Reshape" and shape is not None and len(shape) == 2 and node.inputs[1:2] != ()

    def _disturbed(self, node: OnnxNode, origins: Mapping[str, set[str]]) -> str | None:
        """Return why a node that reads a tensor with two more axes would compute something else."""
        if node.domain or any(name in origins and name not in node.inputs for name in node.reads):
            return "is not known to take two more axes of size 1"
        if node.op_type in _ALIKE:
            return None if not any(name in origins for name in node.inputs[1:]) else "reads them otherwise"
        if node.op_type in _TOGETHER:
            return self._together(node, origins)
        if node.op_type not in _ALONG:
            return "is not known to take two more axes of size 1"
        # Below opset 13 Softmax takes all axes from `axis` on as one.
        default = 1 if node.op_type == "Concat" or self.net.graph.opset < 13 else -1
        if node.attributes.get("axis", default) != 1:
            return "does not say that it works along axis 1"
        return None if all(name in origins for name in node.inputs) else "also reads tensors without these axes"

    def _together(self, node: OnnxNode, origins: Mapping[str, set[str]]) -> str | None:
        for name in node.inputs:
            found = constant(self.net.graph, name) if name not in origins else None
            if name not in origins and (found is None or found.size != 1):
                return "lines up another tensor with the last axis; `surgery fold` takes in what a node only adds"
        return None


def window(net: OnnxNet, key: str, *, is_lifted: bool) -> tuple[str, Shape] | None:
    """Return the tensor that a node would convolve, and channels, height and width of its kernel, or None."""
    shapes, name, found = net.file.inferred[0], net.file.keys[key].inputs[0], net.file.lifted(key)
    flat = shapes.get(name)
    # ONNX's inference passes over a product whose sizes do not fit.
    if flat is None or len(flat) != 2 or isinstance(found, str) or found.op.weight.shape[1] != flat[1]:
        return None
    if is_lifted:
        return name, (flat[1], 1, 1)
    maker = net.graph.makers.get(name)
    if maker is None or maker.domain or maker.op_type not in _VIEWS or not maker.inputs:
        return None
    shape = shapes.get(maker.inputs[0])
    if shape is None or len(shape) != 4 or flat != (shape[0], shape[1] * shape[2] * shape[3]):
        return None
    return maker.inputs[0], shape[1:]


def convolved(net: OnnxNet, keys: Sequence[str]) -> OnnxNet:
    """Return the network with nodes, which `convolvable` must have let pass, as convolutions."""
    chosen = {net.file.keys[key]: key for key in keys}
    origins, _ = _Spread(net, chosen).origins()
    views = {node: window(net, key, is_lifted=node.inputs[0] in origins) for node, key in chosen.items()}
    lost: dict[OnnxNode, Collection[str]] = {
        node: {node.inputs[0]} for node, view in views.items() if view and view[0] != node.inputs[0]
    }
    lost |= shapes_read(tensor for node in chosen for tensor in _replaced(net, node))
    needed = {*(view[0] for view in views.values() if view), *(info.name for info in net.graph.outputs)}
    fields = Sweep(net.graph, needed, lost, set()).fields()
    fields |= {info.record: [] for info in net.graph.value_info if info.name in origins}
    for info in net.graph.outputs:
        if info.name in origins and info.data_type is not None:
            shape = None if info.shape is None else (*info.shape, 1, 1)
            fields[info.record] = [Message(OUTPUT, (encode.value_info(info.name, info.data_type, shape),))]
    new: list[Numbers] = []
    for node, view in views.items():
        if view is None:
            raise ModelError(f"{chosen[node]}: cannot become a convolution: its input is no map")
        new += _convolution(net, chosen[node], view, fields)
    added(net.graph, fields, new)
    return reworked(net, fields)


def _replaced(net: OnnxNet, node: OnnxNode) -> Iterator[Constant]:
    """Yield the tensors whose numbers or shape change."""
    for name in filter(None, node.inputs[1:]):
        found = constant(net.graph, name)
        if found is not None and is_own(net.graph, node, found):
            yield found


def _convolution(
    net: OnnxNet, key: str, view: tuple[str, Shape], fields: dict[Record, list[Part]]
) -> Iterator[Numbers]:
    """Put a convolution in a node's place; yield the tensor to add, where the addend cannot stay as it is."""
    found = net.file.lifted(key)
    assert isinstance(found, Lifted)
    node, (x, kernel) = net.file.keys[key], view
    matrix, bias = found.op.weight, found.op.bias
    put(net.graph, fields, found.weight, matrix.reshape((-1, *kernel)))
    addend = found.addend
    if bias is not None:
        old = constant(net.graph, addend)
        assert old is not None
        if is_own(net.graph, node, old):
            put(net.graph, fields, old, bias)
        elif old.shape != bias.shape or node.attributes.get("beta", 1.0) != 1.0:
            addend = free(net, f"{node.name or node.outputs[0]}_bias")
            yield Numbers(addend, bias, found.weight.data_type)
    inputs = [x, found.weight.name, *([addend] if addend else [])]
    parts: list[Part] = [*(encode.text(_INPUT, name) for name in inputs), encode.text(_OUTPUT, node.outputs[0])]
    for field in net.graph.source.fields(node.record):
        if field.number == _OP_TYPE:
            parts.append(encode.text(_OP_TYPE, "Conv"))
        elif field.number not in (_INPUT, _OUTPUT) and not _is_gemms(net, field):
            parts.append(write.kept(field))
    parts.append(encode_bytes(_ATTRIBUTE, encode.attribute("kernel_shape", kernel[1:])))
    fields[node.record] = [Message(NODE, tuple(parts))]


def _is_gemms(net: OnnxNet, field: Record) -> bool:
    """Return whether a field of a node is an attribute of Gemm alone."""
    source = net.graph.source
    if field.number != _ATTRIBUTE:
        return False
    return next((source.string(part) for part in source.fields(field) if part.number == 1), "") in _OF_GEMM
