"""A network in the pieces between its sites: what each piece reads, makes and leaves for later ones."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from surgery.calibrate.twin import Site, Twin
from surgery.formats.onnx.graph import Graph, OnnxNode
from surgery.model import Extract, Model


@dataclass(frozen=True, eq=False)
class Piece:
    """A part of a network, by the tensors that it reads and makes."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def model(self, twin: Model) -> Model:
        """Return the piece as a model of its own."""
        return twin.edit(Extract(self.outputs, self.inputs))


@dataclass(frozen=True, eq=False)
class Segment(Piece):
    """What runs between two sites, up to the input of `site`.

    Attributes:
        outputs: the tensors that it makes for later.
        site: the site that it leads to.
        live: all tensors that are needed behind it, the outputs among them.
    """

    site: Site
    live: frozenset[str]


def whole(twin: Twin, ends: Sequence[str]) -> Piece:
    """Return all of the network that leads to the `ends`."""
    graph: Graph = twin.model.native.graph
    reads = _reads(graph, _ancestors(graph, ends, _varying(graph)))
    return Piece(tuple(info.name for info in graph.inputs if info.name in reads), tuple(ends))


def alone(twin: Twin, site: Site) -> Piece:
    """Return a site by itself."""
    graph: Graph = twin.model.native.graph
    reads = graph.makers[site.output].reads & _varying(graph)
    return Piece(tuple(sorted(reads)), (site.output,))


def behind(twin: Twin, segment: Segment, ends: Sequence[str]) -> Piece:
    """Return what makes those of the `ends` that are not alive yet, from what is, the site's own output included.

    The segment is one of those that were told of the same `ends`.
    """
    graph: Graph = twin.model.native.graph
    given = segment.live | {segment.site.output}
    outputs = tuple(name for name in ends if name not in given)
    reads = _reads(graph, _ancestors(graph, outputs, _varying(graph) - given))
    return Piece(tuple(sorted(reads & given)), outputs)


def segments(twin: Twin, ends: Sequence[str] = ()) -> tuple[Segment, ...]:
    """Return the segment before each site, in running order.

    A tensor is alive between its making and its last reading on the way to a site, or to one of the tensors `ends`,
    which are alive from their making on. What hangs on no input is made again where it is read.
    """
    graph: Graph = twin.model.native.graph
    varying = _varying(graph)
    needed = _ancestors(graph, [*(site.input for site in twin.sites), *ends], varying)
    starts = [graph.makers[site.output].index for site in twin.sites]
    made = frozenset(info.name for info in graph.inputs)
    alive = _alive(graph, twin.sites, 0, made, needed, varying, ends)
    found = []
    for i, (site, start) in enumerate(zip(twin.sites, starts, strict=True)):
        before = frozenset(made | {name for node in graph.nodes[:start] for name in node.outputs})
        live = _alive(graph, twin.sites[i:], start, before, needed, varying, ends)
        outputs = sorted(live - alive)
        reads = _reads(graph, _ancestors(graph, outputs, varying - alive))
        found.append(Segment(tuple(sorted(reads & alive)), tuple(outputs), site, live))
        alive = live
    return tuple(found)


def _alive(
    graph: Graph,
    sites: Sequence[Site],
    start: int,
    made: Collection[str],
    needed: Collection[int],
    varying: Collection[str],
    ends: Sequence[str],
) -> frozenset[str]:
    """Return which of the tensors `made` before node `start` are read from there on, or are ends."""
    read = _reads(graph, {node.index for node in graph.nodes[start:]}.intersection(needed))
    return frozenset((read | {site.input for site in sites} | set(ends)) & set(made) & set(varying))


def _reads(graph: Graph, nodes: Collection[int]) -> set[str]:
    """Return what nodes read."""
    return {name for node in graph.nodes if node.index in nodes for name in node.reads}


def _varying(graph: Graph) -> frozenset[str]:
    """Return the tensors that hang on the network's inputs."""
    found = {info.name for info in graph.inputs}
    for node in graph.nodes:
        if node.reads & found:
            found.update(filter(None, node.outputs))
    return frozenset(found)


def _ancestors(graph: Graph, tensors: Sequence[str], inner: Collection[str]) -> set[int]:
    """Return the nodes that lead to the tensors, sought behind those that are in `inner` only."""
    pending, found = [name for name in tensors if name in inner], set[int]()
    while pending:
        node: OnnxNode | None = graph.makers.get(pending.pop())
        if node is not None and node.index not in found:
            found.add(node.index)
            pending += [name for name in node.reads if name in inner]
    return found
