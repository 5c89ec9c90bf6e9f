"""A network in the pieces between its sites: what each piece reads, makes and leaves for later ones."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from surgery.calibrate.twin import Site, Twin
from surgery.formats.onnx.graph import Graph, OnnxNode
from surgery.model import Extract, Model


@dataclass(frozen=True, eq=False)
class Segment:
    """What runs between two sites, up to the input of `site`.

    Attributes:
        site: the site that it leads to.
        inputs: the tensors that it reads.
        outputs: the tensors that it makes for later.
        live: all tensors that are needed behind it, the outputs among them.
    """

    site: Site
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    live: frozenset[str]

    def model(self, twin: Model) -> Model:
        """Return the segment as a model of its own."""
        return twin.edit(Extract(self.outputs, self.inputs))


def segments(twin: Twin) -> tuple[Segment, ...]:
    """Return the segment before each site, in running order.

    A tensor is alive between its making and its last reading on the way to a site. What hangs on no input is made
    again where it is read.
    """
    graph: Graph = twin.model.native.graph
    varying = _varying(graph)
    needed = _ancestors(graph, [site.input for site in twin.sites], varying)
    starts = [graph.makers[site.output].index for site in twin.sites]
    made = frozenset(info.name for info in graph.inputs)
    alive = _alive(graph, twin.sites, 0, made, needed, varying)
    found = []
    for i, (site, start) in enumerate(zip(twin.sites, starts, strict=True)):
        before = frozenset(made | {name for node in graph.nodes[:start] for name in node.outputs})
        live = _alive(graph, twin.sites[i:], start, before, needed, varying)
        outputs = sorted(live - alive)
        own = _ancestors(graph, outputs, varying - alive)
        reads = {name for node in graph.nodes if node.index in own for name in node.reads}
        found.append(Segment(site, tuple(sorted(reads & alive)), tuple(outputs), live))
        alive = live
    return tuple(found)


def _alive(
    graph: Graph,
    sites: Sequence[Site],
    start: int,
    made: Collection[str],
    needed: Collection[int],
    varying: Collection[str],
) -> frozenset[str]:
    """Return which of the tensors `made` before node `start` are read from there on."""
    read = {name for node in graph.nodes[start:] if node.index in needed for name in node.reads}
    return frozenset((read | {site.input for site in sites}) & set(made) & set(varying))


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
