from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.diff.layout import Graph, lay_out, layering
from surgery.diff.layout.layering import layered
from surgery.diff.layout.ordering import crossings, ordered

NODE_GAP, BEND_GAP = 100.0, 10.0
SLACK = 1e-6  # Sums of gaps in float64.


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    count = draw(st.integers(1, 14))
    nodes = st.integers(0, count - 1)
    pairs = draw(st.lists(st.tuples(nodes, nodes, st.sampled_from([1, 2, 3])), max_size=30))
    edges = {(min(a, b), max(a, b)): drawing for a, b, drawing in pairs if a != b}
    drawings = [draw(st.sampled_from([1, 2, 3])) for _ in range(count)]
    for (a, b), drawing in edges.items():  # An edge is drawn where both of its ends are.
        drawings[a] |= drawing
        drawings[b] |= drawing
    return Graph(tuple(drawings), edges)


@given(graphs())
def test_every_edge_leads_down_and_bends_once_in_each_row_it_passes(graph: Graph) -> None:
    found = lay_out(graph, node_gap=NODE_GAP, bend_gap=BEND_GAP)
    assert found.routes.keys() == graph.edges.keys()
    for (upper, lower), route in found.routes.items():
        assert found.rows[lower] - found.rows[upper] == len(route) + 1


@given(graphs())
def test_nothing_stands_nearer_to_its_neighbour_than_the_gap(graph: Graph) -> None:
    found = lay_out(graph, node_gap=NODE_GAP, bend_gap=BEND_GAP)
    for drawing in (1, 2):
        items = [(found.rows[i], x, True) for i, x in enumerate(found.x) if graph.drawings[i] & drawing]
        for (upper, lower), route in found.routes.items():
            if graph.edges[upper, lower] & drawing:
                items += [(found.rows[upper] + 1 + i, x, False) for i, x in enumerate(route)]
        for (row, x, is_node), (other_row, other_x, is_other_node) in pairwise(sorted(items)):
            gap = (BEND_GAP, (NODE_GAP + BEND_GAP) / 2, NODE_GAP)[is_node + is_other_node]
            assert row != other_row or other_x - x >= gap - SLACK


@given(graphs())
def test_ordering_never_adds_crossings_and_keeps_every_row(graph: Graph) -> None:
    layers = layered(graph)
    rows = ordered(layers)
    assert crossings(layers, rows) <= crossings(layers, layers.rows)
    assert [sorted(row) for row in rows] == [sorted(row) for row in layers.rows]


@given(graphs())
def test_the_same_graph_has_the_same_layout(graph: Graph) -> None:
    turned = Graph(graph.drawings, dict(reversed(graph.edges.items())))
    assert lay_out(graph, node_gap=9, bend_gap=1) == lay_out(turned, node_gap=9, bend_gap=1)


def test_a_chain_stands_in_one_line() -> None:
    graph = Graph((3,) * 50, {(i, i + 1): 3 for i in range(49)})
    found = lay_out(graph, node_gap=NODE_GAP, bend_gap=BEND_GAP)
    assert found.rows == tuple(range(50))
    assert len(set(found.x)) == 1


def test_branches_do_not_cross_and_what_passes_them_runs_straight() -> None:
    edges = {(0, 1): 3, (0, 2): 3, (2, 3): 3, (3, 4): 3, (1, 4): 3, (0, 4): 3}
    graph = Graph((3,) * 5, edges)
    found = lay_out(graph, node_gap=NODE_GAP, bend_gap=BEND_GAP)
    layers = layered(graph)
    assert crossings(layers, ordered(layers)) == 0
    assert len(set(found.routes[0, 4])) == 1
    assert found.x[2] == found.x[3]


def test_crossings_that_can_be_undone_are_undone() -> None:
    layers = layered(Graph((1,) * 6, {(0, 5): 1, (1, 4): 1, (2, 3): 1}))
    assert crossings(layers, layers.rows) == 3
    assert crossings(layers, ordered(layers)) == 0


def test_edges_of_different_drawings_do_not_cross_and_their_nodes_may_overlap() -> None:
    graph = Graph((1, 2, 1, 2), {(0, 3): 1, (1, 2): 2})
    layers = layered(graph)
    assert crossings(layers, layers.rows) == 0
    assert len(set(lay_out(Graph((1, 2), {}), node_gap=9, bend_gap=1).x)) == 1


def test_a_stiff_edge_is_straight_where_the_median_would_be_elsewhere() -> None:
    edges = {(0, 3): 3, (1, 3): 3, (2, 3): 3}
    bent = lay_out(Graph((3,) * 4, edges), node_gap=NODE_GAP, bend_gap=BEND_GAP)
    straight = lay_out(Graph((3,) * 4, edges, frozenset({(0, 3)})), node_gap=NODE_GAP, bend_gap=BEND_GAP)
    assert bent.x[3] == bent.x[1]
    assert straight.x[3] == straight.x[0]


def test_what_nothing_feeds_stands_just_above_its_reader() -> None:
    found = lay_out(Graph((3,) * 5, {(0, 1): 3, (1, 2): 3, (2, 3): 3, (4, 3): 3}), node_gap=9, bend_gap=1)
    assert found.rows[4] == found.rows[3] - 1


def test_a_cycle_is_refused() -> None:
    with pytest.raises(ValueError, match="cycle"):
        lay_out(Graph((3, 3), {(0, 1): 3, (1, 0): 3}), node_gap=9, bend_gap=1)


def test_an_empty_graph_has_an_empty_layout() -> None:
    assert lay_out(Graph((), {}), node_gap=9, bend_gap=1).x == ()


@settings(max_examples=20)
@given(graphs())
def test_edges_beyond_the_most_bends_go_without_and_all_else_stands(graph: Graph) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layering, "LARGEST_COUNT_OF_BENDS", 2)
        found = lay_out(graph, node_gap=9, bend_gap=1)
    assert sum(map(len, found.routes.values())) <= 2
    assert found.rows == lay_out(graph, node_gap=9, bend_gap=1).rows


def test_a_network_in_which_every_layer_reads_all_before_it_is_laid_out() -> None:
    count = 80  # 3,160 edges, which would have 82,160 bends.
    graph = Graph((3,) * count, {(a, b): 3 for b in range(count) for a in range(b)})
    found = lay_out(graph, node_gap=9, bend_gap=1)
    assert found.rows == tuple(range(count))
    assert len(found.routes) < len(graph.edges)
