"""An ONNX model in memory: the file, and what was changed in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from surgery.errors import ModelError
from surgery.formats.cuts import Cut
from surgery.formats.onnx import meaning
from surgery.formats.onnx.graph import Graph, OnnxNode, Subgraph
from surgery.formats.onnx.meaning import Lifted
from surgery.model import Shape

if TYPE_CHECKING:
    from surgery.formats.onnx.spelling import Link
    from surgery.ops import Chain, Op


@dataclass(frozen=True, eq=False)
class OnnxFile:
    """A file as it was read, and what follows from it. `shapes` are the user's, by input."""

    graph: Graph
    shapes: Mapping[str, Shape]
    is_edited: bool = False  # Its bytes are no longer those of the file.
    _lifts: dict[str, Lifted | str] = field(default_factory=dict)

    @cached_property
    def keys(self) -> Mapping[str, OnnxNode]:
        """The nodes by key, in order: the name where it is unique and not empty, else `-> ` and the first output."""
        count = Counter(node.name for node in self.graph.nodes)
        result = {}
        for node in self.graph.nodes:
            made = next(filter(None, node.outputs), f"#{node.index}")
            is_named = node.name and count[node.name] == 1 and not node.name.startswith("-> ")
            result[node.name if is_named else f"-> {made}"] = node
        return result

    @cached_property
    def input_shapes(self) -> Mapping[str, tuple[int | str | None, ...] | None]:
        """The inputs' shapes, a first axis of unknown size taken as a batch of 1; raises ModelError."""
        from surgery.formats.onnx.shapes import input_shapes

        return input_shapes(self.graph, self.shapes)

    @cached_property
    def inferred(self) -> tuple[Mapping[str, Shape | None], str | None]:
        """The shape of each tensor, None where it is not known, and why shape inference failed, None where not."""
        from surgery.formats.onnx.shapes import infer

        return infer(self.graph, self.shapes)

    @cached_property
    def taken(self) -> frozenset[str]:
        """Every name of a node or tensor, those inside subgraphs too: an inner one would hide an outer."""
        graph = self.graph
        names = {*graph.initializers, *graph.makers, *graph.users, *graph.sparse}
        names.update(info.name for info in (*graph.listed, *graph.outputs, *graph.value_info))
        for node in graph.nodes:
            names.add(node.name)
            for value in node.attributes.values():
                for inner in value if isinstance(value, tuple) else (value,):
                    if isinstance(inner, Subgraph):
                        names |= inner.makes
        return frozenset(names)

    def lifted(self, key: str) -> Lifted | str:
        """Return what a node computes, or why it cannot be cut."""
        if key not in self._lifts:
            self._lifts[key] = meaning.lifted(self.graph, self.keys[key], lambda name: self.inferred[0].get(name))
        return self._lifts[key]


@dataclass(frozen=True, eq=False)
class OnnxNet:
    """The file behind a model and what was changed in it, by node key."""

    file: OnnxFile
    cuts: Mapping[str, Cut] = field(default_factory=dict)
    reweighed: Mapping[str, Op] = field(default_factory=dict)

    @property
    def graph(self) -> Graph:
        """The file's graph, as it was read."""
        return self.file.graph

    def cut(self, key: str, chain: Chain, stem: Sequence[str] = ()) -> Cut:
        """Return the cut that puts `chain` in the place of a node, with free names behind those of its `stem`."""
        from surgery.formats.onnx import spelling

        node = self.file.keys[key]
        stages = spelling.stages(self.graph, node, self.original(key), chain)
        names = spelling.stems(node, key, self.is_taken, len(stages) - len(stem))
        return Cut(stages, (*stem, *names))

    def is_taken(self, name: str) -> bool:
        """Return whether something in the file, or that a cut made, has a name."""
        return name in self.file.taken or any(name in cut.names for cut in self.cuts.values())

    def links(self, key: str, cut: Cut) -> list[Link]:
        """Return the nodes of a cut, those of other nodes that it shares included."""
        from surgery.formats.onnx import spelling

        return spelling.links(self.graph, self.file.keys[key], self.original(key), cut)

    def original(self, key: str) -> Lifted:
        """Return what a node that an edit names computed before; raises ModelError where it cannot be cut."""
        found = self.file.lifted(key)
        if isinstance(found, Lifted):
            return found
        raise ModelError(f"{key}: cannot be cut: {found}")
