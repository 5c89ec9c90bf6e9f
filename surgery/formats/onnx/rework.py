"""A graph with fields replaced, read anew: what an edit that changes more than weights makes of a file."""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from surgery.formats.onnx import encode, write
from surgery.formats.onnx.constants import FLOATS, Constant
from surgery.formats.onnx.graph import Graph, OnnxNode, indexed
from surgery.formats.onnx.net import OnnxFile, OnnxNet
from surgery.formats.onnx.source import Source
from surgery.formats.onnx.write import Message
from surgery.formats.wire import Record, encode_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from surgery.formats.onnx.write import Part

NODE, INITIALIZER, INPUT = 1, 5, 11
_OUTPUT, _NAME, _OP_TYPE = 2, 3, 4


def reworked(net: OnnxNet, fields: Mapping[Record, list[Part]]) -> OnnxNet:
    """Return the network with fields of its file replaced, held in a file without a name; data files stay theirs.

    Raises ModelError where it would be over protobuf's 2 GiB - 1.
    """
    if not fields:
        return net
    old = net.graph.source
    parts = write.replaced(old, fields)
    write.check_size(parts, old.path.name)
    with tempfile.TemporaryFile() as file:
        write.stream(old, parts, file)
        file.flush()
        buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    graph = indexed(Source(old.path, buffer, replaced=old.replaced))
    names = {info.name for info in graph.inputs}
    shapes = {name: shape for name, shape in net.file.shapes.items() if name in names}
    return OnnxNet(OnnxFile(graph, shapes, is_edited=True))


@dataclass(eq=False)
class Sweep:
    """What goes with nodes that go: the constants, and the nodes that make them, which nothing else reads.

    Nodes in `lost` stay, but no longer read the tensors named there. `outputs` are the result's.
    """

    graph: Graph
    outputs: Collection[str]
    lost: Mapping[OnnxNode, Collection[str]]
    nodes: set[OnnxNode]
    tensors: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        pending = [name for node in self.nodes for name in node.reads]
        pending += [name for names in self.lost.values() for name in names]
        while pending:
            name = pending.pop()
            if name in self.tensors or self._is_needed(name):
                continue
            maker = self.graph.makers.get(name)
            if maker is None:
                self.tensors.add(name)
            elif maker not in self.nodes and not any(self._is_needed(output) for output in maker.outputs):
                self.nodes.add(maker)
                pending += maker.reads

    def _is_needed(self, name: str) -> bool:
        readers = (node for node in self.graph.users.get(name, ()) if node not in self.nodes)
        return name in self.outputs or any(name not in self.lost.get(node, ()) for node in readers)

    def fields(self, kept: Collection[str] = ()) -> dict[Record, list[Part]]:
        """Return the fields that go: nodes, tensors, inputs, and what is said of them; not of tensors in `kept`."""
        graph = self.graph
        gone = {*self.tensors, *(name for node in self.nodes for name in node.outputs)} - set(kept)
        records = [node.record for node in self.nodes]
        records += [tensor.record for name, tensor in graph.initializers.items() if name in gone]
        records += [info.record for info in (*graph.listed, *graph.value_info) if info.name in gone]
        records += [record for name, record in graph.quantized.items() if name in gone]
        return {record: [] for record in records}


@dataclass(frozen=True, eq=False)
class Numbers:
    """A tensor to be added."""

    name: str
    array: NDArray[Any]
    data_type: int


def is_own(graph: Graph, node: OnnxNode, tensor: Constant) -> bool:
    """Return whether nothing but one input of a node needs a tensor."""
    name = tensor.name
    is_output = any(output.name == name for output in graph.outputs)
    return graph.users[name] == (node,) and node.inputs.count(name) == 1 and not is_output


def free(net: OnnxNet, name: str) -> str:
    """Return the name, or one like it that nothing has."""
    while name in net.file.taken:
        name += "_"
    return name


def put(graph: Graph, fields: dict[Record, list[Part]], old: Constant, array: NDArray[Any]) -> None:
    """Put other numbers, of whatever shape, in the place of a constant's, in its own type."""
    numbers = array.astype(FLOATS[old.data_type], copy=False)
    if old.node is None:
        assert old.tensor is not None
        fields[old.tensor.record] = [Message(INITIALIZER, write.tensor_parts(old.name, numbers, old.data_type))]
    else:
        value = Message(5, write.tensor_parts("", numbers, old.data_type))
        attribute = Message(5, (encode.text(1, "value"), value, encode.varint(20, 4)))
        name = (encode.text(_NAME, old.node.name),) if old.node.name else ()
        parts = (encode.text(_OUTPUT, old.name), *name, encode.text(_OP_TYPE, "Constant"), attribute)
        fields[old.node.record] = [Message(NODE, parts)]
    if numbers.shape != old.shape:
        stated = encode.value_info(old.name, old.data_type, numbers.shape)
        fields |= {info.record: [encode_bytes(INPUT, stated)] for info in graph.listed if info.name == old.name}
        fields |= {info.record: [] for info in graph.value_info if info.name == old.name}


def shapes_read(replaced: Iterable[Constant]) -> dict[OnnxNode, tuple[str, ...]]:
    """Return what the ConstantOfShape nodes that made these tensors read, and the Constants of `put` do not."""
    return {tensor.node: tensor.node.inputs for tensor in replaced if tensor.node is not None}


def added(graph: Graph, fields: dict[Record, list[Part]], new: Sequence[Numbers]) -> None:
    """Add initializers behind the others, listed as inputs too below IR 4; to be called when all else is put."""
    tensors = list(graph.initializers.values())
    last = tensors[-1].record if tensors else graph.nodes[0].record
    tail = (graph.listed or graph.nodes)[-1].record
    for made in new:
        array = made.array.astype(FLOATS.get(made.data_type, made.array.dtype), copy=False)
        tensor = Message(INITIALIZER, write.tensor_parts(made.name, array, made.data_type))
        fields[last] = [*fields.get(last, [write.kept(last)]), tensor]
        if graph.ir_version < 4:
            info = encode_bytes(INPUT, encode.value_info(made.name, made.data_type, array.shape))
            fields[tail] = [*fields.get(tail, [write.kept(tail)]), info]
