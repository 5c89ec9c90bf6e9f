"""An ONNX file as an index: nodes, initializers, inputs and outputs, each with where it lies; no number is decoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

from surgery.errors import ModelError, ParseError
from surgery.formats.onnx.attribute import Attribute, Subgraph, read_attribute, sparse_name, tensors_in
from surgery.formats.onnx.source import Source, mapped, shown
from surgery.formats.onnx.tensor import Tensor, read_entry, read_tensor
from surgery.formats.wire import BYTES, Record
from surgery.model import Shape

__all__ = ["Graph", "OnnxNode", "Shape", "Subgraph", "Tensor", "ValueInfo", "read"]

MAX_NODES = 200_000
STANDARD = ("", "ai.onnx")  # Two spellings of one domain.

_IR_VERSION, _GRAPH, _OPSET, _METADATA, _FUNCTION = 1, 7, 8, 14, 25
_NODE, _GRAPH_NAME, _INITIALIZER, _INPUT, _OUTPUT, _VALUE_INFO, _QUANTIZATION, _SPARSE = 1, 2, 5, 11, 12, 13, 14, 15


@dataclass(frozen=True, eq=False)
class OnnxNode:
    """A node of the graph; "" in `inputs` or `outputs` is an optional one left out. `domain` is "" for ai.onnx."""

    index: int
    name: str
    op_type: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Attribute]
    record: Record

    @cached_property
    def reads(self) -> frozenset[str]:
        """The tensors it needs: its inputs, and what its subgraphs take from the graph around them."""
        inner = (v for value in self.attributes.values() for v in (value if isinstance(value, tuple) else (value,)))
        subgraphs = [graph.reads for graph in inner if isinstance(graph, Subgraph)]
        return frozenset(self.inputs).union(*subgraphs) - {""}

    @property
    def label(self) -> str:
        """What messages call it."""
        made = next(filter(None, self.outputs), "")
        return (
            f"node '{shown(self.name)}'"
            if self.name
            else f"node {self.index} ({shown(self.op_type)} -> '{shown(made)}')"
        )


@dataclass(frozen=True, eq=False)
class Function:
    """A function of the model: domain and operator of each of its nodes, and the tensors in their attributes."""

    calls: tuple[tuple[str, str], ...]
    tensors: tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
class ValueInfo:
    """An input, an output or what is said of another tensor.

    `data_type` is a TensorProto.DataType, None where it is no tensor. `shape` is None where nothing is said of it; a
    size is a number, a symbol, or None where it is unknown.
    """

    name: str
    data_type: int | None
    shape: tuple[int | str | None, ...] | None
    record: Record


@dataclass(frozen=True, eq=False)
class Graph:
    """An ONNX file. `inputs` are those that must be fed; all that the file lists are `listed`."""

    path: Path
    source: Source
    record: Record
    name: str
    ir_version: int
    opsets: Mapping[str, int]
    nodes: tuple[OnnxNode, ...]
    initializers: Mapping[str, Tensor]
    sparse: frozenset[str]
    listed: tuple[ValueInfo, ...]
    outputs: tuple[ValueInfo, ...]
    value_info: tuple[ValueInfo, ...]
    quantized: Mapping[str, Record]
    metadata: Mapping[str, str]
    functions: Mapping[tuple[str, str], Function]

    @property
    def opset(self) -> int:
        """Version of the standard operators; 1 where the file names none."""
        return self.opsets.get("", 1)

    @cached_property
    def inputs(self) -> tuple[ValueInfo, ...]:
        """The inputs that no initializer gives a value."""
        return tuple(
            info for info in self.listed if info.name not in self.initializers and info.name not in self.sparse
        )

    @cached_property
    def makers(self) -> Mapping[str, OnnxNode]:
        """The node that makes a tensor, by the tensor's name."""
        return {output: node for node in self.nodes for output in node.outputs if output}

    @cached_property
    def users(self) -> Mapping[str, tuple[OnnxNode, ...]]:
        """The nodes that need a tensor, themselves or in a subgraph, by the tensor's name."""
        found: dict[str, list[OnnxNode]] = {}
        for node in self.nodes:
            for name in node.reads:
                found.setdefault(name, []).append(node)
        return {name: tuple(nodes) for name, nodes in found.items()}

    @cached_property
    def nested(self) -> tuple[Tensor, ...]:
        """The tensors in attributes, subgraphs and functions."""
        values = (value for node in self.nodes for value in node.attributes.values())
        inner = [tensor for value in values for tensor in tensors_in(value)]
        return (*inner, *(tensor for function in self.functions.values() for tensor in function.tensors))

    @cached_property
    def data_files(self) -> tuple[str, ...]:
        """Locations of the data files, in order of first use."""
        tensors = (*self.initializers.values(), *self.nested)
        return tuple(dict.fromkeys(tensor.external.location for tensor in tensors if tensor.external))


def read(path: Path) -> Graph:
    """Map and index an ONNX file.

    Raises ParseError with the offset where it is damaged, ModelError where its parts do not make a graph: a tensor made
    twice or never, nodes out of order or in a circle, data that is not there or not of the size the shape says.
    """
    if path.exists() and not path.is_file():
        raise ModelError(f"{path}: is no regular file; expected an ONNX model")  # Opening a pipe would wait for ever.
    return indexed(Source(path, mapped(path)))


def indexed(source: Source) -> Graph:
    """Index the mapped bytes of an ONNX file; raises as `read`."""
    graph = _read(source)
    for tensor in graph.initializers.values():
        tensor.check()
    _check_flow(graph)
    return graph


def _read(source: Source) -> Graph:
    ir_version = 0
    opsets: dict[str, int] = {}
    metadata: dict[str, str] = {}
    functions: dict[tuple[str, str], Function] = {}
    graph: Record | None = None
    for record in source.walk(0, len(source.buffer)):
        if record.number == _IR_VERSION:
            ir_version = source.integer(record)
        elif record.number == _GRAPH:
            if graph is not None:
                raise ParseError(source.path, "holds a second graph; expected one", offset=record.start)
            graph = record
        elif record.number == _OPSET:
            domain, version = _opset(source, record)
            opsets[domain] = version
        elif record.number == _METADATA:
            metadata.update([read_entry(source, record)])
        elif record.number == _FUNCTION:
            key, function = _function(source, record)
            functions[key] = function
    if graph is None:
        raise ModelError(f"{source.path}: holds no graph; expected an ONNX model")
    return _graph(source, graph, ir_version, opsets, metadata, functions)


def _opset(source: Source, record: Record) -> tuple[str, int]:
    domain, version = "", 0
    for part in source.fields(record):
        if part.number == 1:
            domain = source.string(part)
        elif part.number == 2:
            version = source.integer(part)
    return "" if domain in STANDARD else domain, version


def _function(source: Source, record: Record) -> tuple[tuple[str, str], Function]:
    """Return domain and name of a FunctionProto, and what is needed of it."""
    name = domain = ""
    nodes: list[OnnxNode] = []
    for part in source.fields(record):
        if part.number == 1:
            name = source.string(part)
        elif part.number == 10:
            domain = source.string(part)
        elif part.number == 7:
            nodes.append(_node(source, part, len(nodes)))
    tensors = (tensor for node in nodes for value in node.attributes.values() for tensor in tensors_in(value))
    return (domain, name), Function(tuple((node.domain, node.op_type) for node in nodes), tuple(tensors))


def _graph(
    source: Source,
    record: Record,
    ir_version: int,
    opsets: Mapping[str, int],
    metadata: Mapping[str, str],
    functions: Mapping[tuple[str, str], Function],
) -> Graph:
    name = ""
    nodes: list[OnnxNode] = []
    initializers: dict[str, Tensor] = {}
    sparse: set[str] = set()
    infos: dict[int, list[ValueInfo]] = {_INPUT: [], _OUTPUT: [], _VALUE_INFO: []}
    quantized: dict[str, Record] = {}
    for part in source.fields(record):
        if part.number == _NODE:
            nodes.append(_node(source, part, len(nodes)))
            if len(nodes) > MAX_NODES:
                raise source.error(part.start, f"more than {MAX_NODES} nodes")
        elif part.number == _INITIALIZER:
            tensor = read_tensor(source, part)
            if tensor.name in initializers:
                raise ModelError(f"{source.path}: two initializers are called '{shown(tensor.name)}'; expected one")
            initializers[tensor.name] = tensor
        elif part.number in infos:
            infos[part.number].append(_value_info(source, part))
        elif part.number == _GRAPH_NAME:
            name = source.string(part)
        elif part.number == _QUANTIZATION:
            quantized[next((source.string(p) for p in source.fields(part) if p.number == 1), "")] = part
        elif part.number == _SPARSE:
            sparse.add(sparse_name(source, part))
    return Graph(
        source.path,
        source,
        record,
        name,
        ir_version,
        MappingProxyType(dict(opsets)),
        tuple(nodes),
        MappingProxyType(initializers),
        frozenset(sparse),
        tuple(infos[_INPUT]),
        tuple(infos[_OUTPUT]),
        tuple(infos[_VALUE_INFO]),
        MappingProxyType(quantized),
        MappingProxyType(dict(metadata)),
        MappingProxyType(dict(functions)),
    )


def _node(source: Source, record: Record, index: int) -> OnnxNode:
    name = op_type = domain = ""
    inputs: list[str] = []
    outputs: list[str] = []
    attributes: dict[str, Attribute] = {}
    for part in source.fields(record):
        if part.number == 1:
            inputs.append(source.string(part))
        elif part.number == 2:
            outputs.append(source.string(part))
        elif part.number == 3:
            name = source.string(part)
        elif part.number == 4:
            op_type = source.string(part)
        elif part.number == 5:
            key, value = read_attribute(source, part, 0)
            attributes[key] = value
        elif part.number == 7:
            domain = source.string(part)
    domain = "" if domain in STANDARD else domain
    found = MappingProxyType(attributes)
    return OnnxNode(index, name, op_type, domain, tuple(inputs), tuple(outputs), found, record)


def _value_info(source: Source, record: Record) -> ValueInfo:
    name, data_type = "", None
    shape: tuple[int | str | None, ...] | None = None
    for part in source.fields(record):
        if part.number == 1:
            name = source.string(part)
        elif part.number == 2:
            for kind in (kind for kind in source.fields(part) if kind.number == 1 and kind.wire == BYTES):
                data_type, shape = _tensor_type(source, kind)
    return ValueInfo(name, data_type, shape, record)


def _tensor_type(source: Source, record: Record) -> tuple[int, tuple[int | str | None, ...] | None]:
    data_type, shape = 0, None
    for part in source.fields(record):
        if part.number == 1:
            data_type = source.integer(part)
        elif part.number == 2:
            shape = tuple(_dimension(source, dim) for dim in source.fields(part) if dim.number == 1)
    return data_type, shape


def _dimension(source: Source, record: Record) -> int | str | None:
    size: int | str | None = None
    for part in source.fields(record):
        if part.number == 1:
            size = source.integer(part)
        elif part.number == 2:
            size = source.string(part) or None
    return None if isinstance(size, int) and size < 0 else size  # Some exporters write -1 for any.


def _check_flow(graph: Graph) -> None:
    """Raise ModelError unless every tensor is made once, and before it is needed."""
    known = {"", *graph.initializers, *graph.sparse}
    seen: set[str] = set()
    for info in graph.listed:
        if info.name in seen:
            raise ModelError(f"{graph.path}: two inputs are called '{shown(info.name)}'; expected one")
        seen.add(info.name)
    known |= seen
    for node in graph.nodes:
        for name in sorted(node.reads - known):
            raise ModelError(f"{graph.path}: {node.label} reads '{shown(name)}', {_absence(graph, name)}")
        for name in filter(None, node.outputs):
            if name in known:
                raise ModelError(
                    f"{graph.path}: {node.label} makes '{shown(name)}', which is there already; expected a new name"
                )
            known.add(name)
    for info in graph.outputs:
        if info.name not in known or not info.name:
            raise ModelError(f"{graph.path}: the output '{shown(info.name)}' is made by no node")


def _absence(graph: Graph, name: str) -> str:
    if name in graph.makers:
        return f"which {graph.makers[name].label} makes only after it: the nodes are out of order or form a circle"
    return "which nothing makes: no node before it, no initializer and no input"
