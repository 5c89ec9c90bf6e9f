"""What folds into what, decided on wires alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from surgery.folding import folding
from surgery.model import Format, Model, Node, PerChannel, Refusal
from surgery.ops.scale import Scale


@dataclass
class Plain:
    """A format whose types are their meaning: `linear` has 4 channels, `scale` doubles, `add` adds its first input."""

    given: tuple[str, ...] = ()
    channels: dict[str, int] = field(default_factory=dict)

    def scale(self, model: Model, node: Node) -> PerChannel | Refusal | None:
        if node.type == "odd":
            return Refusal(node.key, node.type, "is odd")
        if node.type == "add":
            return PerChannel(Scale.of(shift=1.0), 1)
        return PerChannel(Scale.of(np.full(self.channels.get(node.key, 4), 2.0))) if node.type == "scale" else None

    def absorber(self, model: Model, node: Node) -> int | Refusal:
        return 4 if node.type == "linear" else Refusal(node.key, node.type, "is not linear")

    def outputs(self, model: Model) -> tuple[str, ...]:
        return self.given


def model(*lines: str, **more: Any) -> Model:
    """`type key inputs > outputs`, inputs and outputs separated by blanks."""
    nodes = []
    for line in lines:
        (kind, key, *inputs), outputs = (part.split() for part in line.split(">"))
        nodes.append(Node(key, kind, tuple(inputs), tuple(outputs), None))
    return Model(cast("Format", Plain(**more)), tuple(nodes), None)


def folds(*lines: str, **more: Any) -> dict[str, str]:
    return {fold.key: " ".join(fold.absorbed) for fold in folding(model(*lines, **more)).folds}


def left(*lines: str, **more: Any) -> dict[str, str]:
    return {refusal.key: refusal.reason for refusal in folding(model(*lines, **more)).left}


CHAIN = ("linear f x > a", "scale s a > a", "scale t a > b", "relu r b > c")


def test_a_run_of_scales_goes_into_the_layer_before_it() -> None:
    assert folds(*CHAIN) == {"f": "s t"}
    assert left(*CHAIN) == {}
    (fold,) = folding(model(*CHAIN)).folds
    np.testing.assert_array_equal(fold.scale.factor, np.full(4, 4.0))


def test_a_run_ends_where_others_read() -> None:
    assert folds(*CHAIN, "relu q b > d") == {"f": "s t"}
    more = ("linear f x > a", "scale s a > b", "scale t b > c", "relu q b > d")
    assert folds(*more) == {"f": "s"}
    assert left(*more) == {"t": "its input 'b' is needed as it is: 'q' reads it too"}


def test_a_run_ends_at_an_output_of_the_network() -> None:
    lines = ("linear f x > a", "scale s a > b", "scale t b > c")
    assert folds(*lines, given=("b", "c")) == {"f": "s"}
    assert left(*lines, given=("b", "c")) == {
        "t": "its input 'b' is needed as it is: the network gives it as an output"
    }


def test_every_scale_is_folded_or_has_a_reason() -> None:
    lines = ("scale a x > p", "relu r p > q", "scale b q > s", "scale c s > t", "odd d t > u", "linear f u > v")
    assert folds(*lines) == {}
    assert left(*lines) == {
        "a": "its input is the network's: no layer before it takes it in",
        "b": "'r' (relu) before it cannot take it in: is not linear",
        "c": "'b' before it stays",
        "d": "is odd",
    }


def test_the_input_that_is_scaled_counts() -> None:
    assert folds("linear f x > a", "add s k a > b") == {"f": "s"}
    lines = ("linear f x > a", "add s a y > b")
    assert folds(*lines) == {}
    assert left(*lines) == {"s": "its input is the network's: no layer before it takes it in"}


def test_other_channels_stay() -> None:
    assert left("linear f x > a", "scale s a > b", channels={"s": 3}) == {"s": "has 3 channels where its input has 4"}
    assert folds("linear f x > a", "scale s a > b", channels={"s": 1}) == {"f": "s"}


def test_a_layer_that_reads_its_scale_twice_is_one_reader_too_many() -> None:
    assert folds("linear f x > a", "add s a a > b") == {}
