"""Who reads what: in-place chains, values from outside, and what an output needs."""

from __future__ import annotations

from surgery.formats.wiring import Value, Wiring
from surgery.model import Node


def node(key: str, inputs: str, outputs: str) -> Node:
    return Node(key, "T", tuple(inputs.split()), tuple(outputs.split()), None)


CHAIN = Wiring(
    [node("conv", "data", "x"), node("relu", "x", "x"), node("pool", "x", "p"), node("two", "x data", "a b")]
)


def test_an_in_place_node_makes_a_value_of_its_own() -> None:
    assert CHAIN.sources == [[None], [Value(0, 0)], [Value(1, 0)], [Value(1, 0), None]]
    assert CHAIN.final["x"] == Value(1, 0)
    assert CHAIN.readers == {Value(0, 0): [1], Value(1, 0): [2, 3]}


def test_what_nothing_reads_is_loose() -> None:
    assert CHAIN.loose == ["p", "a", "b"]


def test_an_output_needs_what_it_is_computed_from() -> None:
    assert CHAIN.needed([CHAIN.final["p"]]) == {0, 1, 2}
    assert CHAIN.needed([CHAIN.final["x"]]) == {0, 1}
    assert CHAIN.needed([CHAIN.final["p"]], [CHAIN.final["x"]]) == {2}
    assert CHAIN.needed([CHAIN.final["p"]], [CHAIN.final["p"]]) == set()
