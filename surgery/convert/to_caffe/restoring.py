"""Caffe layers of which an ONNX file says that they became its operators, found again by these."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from surgery.convert import records
from surgery.convert.records import Record
from surgery.convert.to_caffe.values import InexpressibleError, Shape
from surgery.errors import ModelError, ParseError
from surgery.formats.caffe import network, shapes, text
from surgery.formats.caffe.network import Layer
from surgery.formats.onnx.graph import Graph, OnnxNode

_COUNTED = frozenset({"DetectionOutput", "Filter"})  # the sizes of what they put out are known only when they run


@dataclass(frozen=True, eq=False)
class Group:
    """Nodes `first` to `last` of a graph, and the layer that they were; its bottoms and tops are ONNX tensors."""

    layer: Layer
    record: Record
    first: int
    last: int

    def tops(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """Return the shapes of the layer's tops; raises InexpressibleError where it does not fit these bottoms."""
        for stated, found in zip(self.record.shapes, bottoms, strict=True):
            if len(stated) != len(found) or any(a != b for a, b in zip(stated, found, strict=True) if type(a) is int):
                raise InexpressibleError(f"a bottom is {found}; the layer was made for {stated}")
        layer = self.layer
        given: dict[str, Shape | None] = dict(zip(layer.bottoms, bottoms, strict=True))
        if layer.type == "Filter":  # As many items as there are; nothing reads them here.
            given |= dict(zip(layer.tops, bottoms, strict=False))
        (inferred,) = shapes.infer((layer,), given)
        sizes = [shape for shape in inferred.tops if shape is not None and 0 not in shape]
        if inferred.is_invalid or len(sizes) != len(layer.tops):
            raise InexpressibleError(inferred.reason or "a top is empty")
        return sizes


def groups(graph: Graph) -> Iterator[Group]:
    """Yield the groups of nodes that stand as they were written, each with the layer to put in its place."""
    nodes: set[int] = set()
    tensors: set[str] = set()
    for record in records.load(graph.metadata.get(records.KEY, "")):
        group = _group(graph, record)
        if group is None:
            continue
        own = graph.nodes[group.first : group.last + 1]
        read = records.constants(own, group.layer.bottoms)
        # Nothing is looked at for two records: a hostile file could name one part of it any number of times.
        if nodes.isdisjoint(range(group.first, group.last + 1)) and tensors.isdisjoint(read):
            nodes.update(range(group.first, group.last + 1))
            tensors.update(read)
            if _is_apart(graph, group, own) and _is_untouched(graph, record, own, read):
                yield group


def _group(graph: Graph, record: Record) -> Group | None:
    """Return where a record's nodes should be, None where its tops are not made or it is no record of ours."""
    try:
        document = text.parse(record.layer, records.KEY)
        text.check(document, "NetParameter")
        (layer,) = network.layers(document)
    except (ParseError, ModelError, ValueError):
        return None
    makers = [graph.makers[top].index for top in layer.tops if top in graph.makers]
    if not records.is_one_way(layer) or not makers or len(record.shapes) != len(layer.bottoms):
        return None
    last = max(makers)
    first = last + 1 - record.nodes
    is_whole = len(makers) == len(layer.tops) and 0 <= first <= min(makers)
    return Group(layer, record, first, last) if is_whole else None


def _is_apart(graph: Graph, group: Group, nodes: Sequence[OnnxNode]) -> bool:
    """Return whether nothing else reads what lies between bottoms and tops, nor a top whose size is not known."""
    closed = {name for node in nodes for name in node.outputs}
    outputs = {info.name for info in graph.outputs} & closed
    if group.layer.type not in _COUNTED:
        closed -= set(group.layer.tops)
    users = (user for name in closed for user in graph.users.get(name, ()))
    return outputs <= set(group.layer.tops) and all(group.first <= user.index <= group.last for user in users)


def _is_untouched(graph: Graph, record: Record, nodes: Sequence[OnnxNode], read: Sequence[str]) -> bool:
    """Return whether nodes and constants have the bytes that the record's digest is of."""
    if any(name not in graph.initializers for name in read):
        return False
    buffer = graph.source.buffer
    protos = (buffer[node.record.value : node.record.end] for node in nodes)
    try:
        found = records.digest(protos, ((name, graph.initializers[name].array()) for name in read))
    except (ModelError, KeyError):  # Numbers of a type that conversions do not write.
        return False
    return found == record.sha256
