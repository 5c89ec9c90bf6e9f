"""Attributes of ONNX nodes as Python values, and the graphs that some of them hold."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from surgery.errors import ModelError, ParseError
from surgery.formats.onnx.source import Source, shown
from surgery.formats.onnx.tensor import Tensor, read_tensor
from surgery.formats.wire import BYTES, FIXED32, Record

MAX_DEPTH = 30  # graphs inside graphs


@dataclass(frozen=True, eq=False)
class Subgraph:
    """A graph that an attribute holds: what its nodes read of the graphs around it, and what is made inside it."""

    name: str
    reads: frozenset[str]
    makes: frozenset[str]
    tensors: tuple[Tensor, ...]


@dataclass(frozen=True)
class Opaque:
    """A value that is passed on but not read: a sparse tensor, a type, a reference of a function."""

    kind: str


Scalar = int | float | str | Tensor | Subgraph | Opaque
Attribute = Scalar | tuple[Scalar, ...]

_FLOAT, _INT, _STRING, _TENSOR, _GRAPH, _FLOATS, _INTS, _STRINGS, _TENSORS, _GRAPHS = range(1, 11)
# Field of AttributeProto -> the type it is the value of, where the attribute does not name its type.
_FIELDS = {2: _FLOAT, 3: _INT, 4: _STRING, 5: _TENSOR, 6: _GRAPH}
_FIELDS |= {7: _FLOATS, 8: _INTS, 9: _STRINGS, 10: _TENSORS, 11: _GRAPHS}
_PLURAL = {_FLOATS, _INTS, _STRINGS, _TENSORS, _GRAPHS}
_DEFAULTS: Mapping[int, Scalar] = {_FLOAT: 0.0, _INT: 0, _STRING: ""}
_OPAQUE = {14: "type", 15: "types", 21: "reference", 22: "sparse tensor", 23: "sparse tensors"}


def read_attribute(source: Source, record: Record, depth: int) -> tuple[str, Attribute]:
    """Return name and value of an AttributeProto; `depth` counts the graphs around it."""
    name, kind, opaque = "", 0, ""
    found: dict[int, list[Scalar]] = {}
    for part in source.fields(record):
        if part.number == 1:
            name = source.string(part)
        elif part.number == 20:
            kind = source.integer(part)
        elif part.number in _OPAQUE:
            opaque = _OPAQUE[part.number]
        elif part.number in _FIELDS:
            found.setdefault(_FIELDS[part.number], []).extend(_values(source, part, depth))
    if opaque:
        return name, Opaque(opaque)
    kind = kind or next(iter(found), 0)
    if kind in _PLURAL:
        return name, tuple(found.get(kind, ()))
    value = found[kind][-1] if kind in found else _DEFAULTS.get(kind)
    if value is None:
        raise ModelError(f"{source.path}: attribute '{shown(name)}' has no value; the file is damaged")
    return name, value


def _values(source: Source, part: Record, depth: int) -> Iterator[Scalar]:
    if part.number in (2, 7):
        yield from _floats(source, part)
    elif part.number in (3, 8):
        yield from source.integers(part)
    elif part.number in (4, 9):
        yield source.string(part)
    elif part.number in (5, 10):
        yield read_tensor(source, part)
    else:
        yield read_subgraph(source, part, depth + 1)


def _floats(source: Source, part: Record) -> tuple[float, ...]:
    count, rest = divmod(part.end - part.value, 4)
    if part.wire not in (FIXED32, BYTES) or rest:
        raise ParseError(source.path, "an attribute's numbers are not whole; the file is damaged", offset=part.start)
    return struct.unpack(f"<{count}f", source.buffer[part.value : part.end])


def read_subgraph(source: Source, record: Record, depth: int) -> Subgraph:
    """Index a graph inside a node; raises ParseError for one that is damaged or nested too deeply."""
    if depth > MAX_DEPTH:
        raise ParseError(source.path, f"more than {MAX_DEPTH} graphs inside each other", offset=record.start)
    name = ""
    makes: set[str] = set()
    deeper: set[str] = set()
    reads: list[str] = []
    tensors: list[Tensor] = []
    for part in source.fields(record):
        if part.number == 2:
            name = source.string(part)
        elif part.number == 1:
            for field in source.fields(part):
                if field.number == 1:
                    reads.append(source.string(field))
                elif field.number == 2:
                    makes.add(source.string(field))
                elif field.number == 5:
                    value = read_attribute(source, field, depth)[1]
                    inner = value if isinstance(value, tuple) else (value,)
                    for graph in (graph for graph in inner if isinstance(graph, Subgraph)):
                        reads += graph.reads
                        deeper |= graph.makes
                    tensors += tensors_in(value)
        elif part.number == 5:
            tensors.append(read_tensor(source, part))
            makes.add(tensors[-1].name)
        elif part.number == 11:
            makes.add(name_of(source, part))
        elif part.number == 12:
            reads.append(name_of(source, part))
        elif part.number == 15:
            makes.add(sparse_name(source, part))
    return Subgraph(name, frozenset(reads) - makes - {""}, frozenset(makes | deeper), tuple(tensors))


def tensors_in(value: Attribute) -> list[Tensor]:
    """Return the tensors an attribute holds, those inside its graphs too."""
    found: list[Tensor] = []
    for item in value if isinstance(value, tuple) else (value,):
        if isinstance(item, Tensor):
            found.append(item)
        elif isinstance(item, Subgraph):
            found.extend(item.tensors)
    return found


def name_of(source: Source, record: Record) -> str:
    """Return the name, field 1, of a ValueInfoProto."""
    return next((source.string(part) for part in source.fields(record) if part.number == 1), "")


def sparse_name(source: Source, record: Record) -> str:
    """Return the name of a SparseTensorProto: that of its values."""
    return next((read_tensor(source, part).name for part in source.fields(record) if part.number == 1), "")
