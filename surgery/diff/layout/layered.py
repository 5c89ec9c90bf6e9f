"""Lay a graph out in rows: layering, ordering, placing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from surgery.diff.layout.graph import Edge, Graph
from surgery.diff.layout.layering import Layers, layered
from surgery.diff.layout.ordering import ordered
from surgery.diff.layout.placing import placed


@dataclass(frozen=True)
class Layout:
    """Where everything stands.

    Attributes:
        rows: the row of each node, from 0 at the top.
        x: the middle of each node, in the unit of the gaps.
        routes: for each edge its x in each row that it passes; an edge that is not here leads straight to its end.
    """

    rows: tuple[int, ...]
    x: tuple[float, ...]
    routes: Mapping[Edge, tuple[float, ...]]


def lay_out(graph: Graph, *, node_gap: float, bend_gap: float) -> Layout:
    """Return where every node and edge stands; the same graph gives the same layout.

    `node_gap` is the least distance between the middles of two nodes in a row, `bend_gap` that of two edges.

    Raises:
        ValueError: the graph has a cycle.
    """
    layers = layered(graph)
    x = placed(layers, ordered(layers), lambda a, b: _gap(layers, a, b, node_gap, bend_gap))
    routes = {edge: tuple(x[bend] for bend in bends) for edge, bends in layers.bends.items()}
    return Layout(layers.row_of[: layers.nodes], x[: layers.nodes], routes)


def _gap(layers: Layers, a: int, b: int, node_gap: float, bend_gap: float) -> float:
    bends = layers.is_bend(a) + layers.is_bend(b)
    return (node_gap, (node_gap + bend_gap) / 2, bend_gap)[bends]
