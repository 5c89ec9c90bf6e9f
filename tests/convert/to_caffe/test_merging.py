"""Layers that one layer can replace, and those that nothing needs."""

from __future__ import annotations

import numpy as np

from surgery.convert.to_caffe import merging
from surgery.convert.to_caffe.layers import Layer

ONE, TWO = np.float32([1, 2]), np.float32([3, 4])
INPUT = Layer("x", "Input", (), ("x",))


def layer(kind: str, bottom: str, top: str, blobs: tuple[np.ndarray, ...] = (), **params: object) -> Layer:
    return Layer(top, kind, (bottom,), (top,), params, blobs)  # type: ignore[arg-type]


def spelt(layers: list[Layer]) -> list[tuple[object, ...]]:
    return [(each.type, each.bottoms, each.tops, dict(each.params)) for each in layers]


def test_bias_goes_into_the_convolution_before_it() -> None:
    conv = layer("Convolution", "x", "a", (TWO,), num_output=2, bias_term=False)
    (joined,) = merging.merged([conv, layer("Bias", "a", "b", (ONE,))], {"b"})
    assert spelt([joined]) == [("Convolution", ("x",), ("b",), {"num_output": 2})]
    assert joined.blobs == (TWO, ONE)


def test_bias_along_another_axis_stays() -> None:
    conv = layer("Convolution", "x", "a", (TWO,), num_output=2, bias_term=False)
    assert len(merging.merged([conv, layer("Bias", "a", "b", (ONE,), axis=2)], {"b"})) == 2


def test_what_others_read_or_is_an_output_stays() -> None:
    conv = layer("Convolution", "x", "a", (TWO,), num_output=2, bias_term=False)
    bias = layer("Bias", "a", "b", (ONE,))
    assert len(merging.merged([conv, bias], {"a", "b"})) == 2
    assert len(merging.merged([conv, bias, layer("ReLU", "a", "c")], {"b", "c"})) == 3


def test_scale_and_its_inverse_vanish_behind_a_pool() -> None:
    layers = [layer("Pooling", "x", "a"), layer("Scale", "a", "b", (TWO,)), layer("Scale", "b", "c", (1 / TWO,))]
    once = merging.merged(layers, {"c"})
    assert spelt(merging.merged(once, {"c"})) == [("Pooling", ("x",), ("c",), {})]


def test_linear_powers_become_one() -> None:
    layers = [layer("Power", "x", "a", scale=2.0, shift=1.0), layer("Power", "a", "b", scale=3.0, power=2.0)]
    (joined,) = merging.merged(layers, {"b"})
    assert dict(joined.params) == {"power": 2.0, "scale": 6.0, "shift": 3.0}


def test_power_of_a_power_stays() -> None:
    assert len(merging.merged([layer("Power", "x", "a", power=2.0), layer("Power", "a", "b", scale=3.0)], {"b"})) == 2


def test_layers_without_readers_go_and_inputs_stay() -> None:
    kept = merging.needed([INPUT, layer("ReLU", "x", "a"), layer("ReLU", "x", "b")], {"b"})
    assert [each.name for each in kept] == ["x", "b"]


def test_tops_without_readers_are_silenced() -> None:
    cut = Layer("s", "Slice", ("x",), ("a", "b"))
    last = merging.silenced([INPUT, cut], {"a"})[-1]
    assert (last.type, last.bottoms) == ("Silence", ("b",))


def test_output_that_others_read_is_handed_on() -> None:
    layers = merging.outward([INPUT, layer("ReLU", "x", "a"), layer("TanH", "a", "b")], {"a", "b"}, {"a_inner1"})
    assert [(each.type, each.bottoms, each.tops) for each in layers[1:]] == [
        ("ReLU", ("x",), ("a_inner2",)),
        ("Split", ("a_inner2",), ("a",)),
        ("TanH", ("a_inner2",), ("b",)),
    ]


def test_layers_get_names_of_their_own() -> None:
    layers = [Layer("a", "ReLU", ("x",), ("y",)), Layer("a", "ReLU", ("y",), ("z",))]
    assert [each.name for each in merging.uniquely_named(layers)] == ["a", "a_layer2"]
