"""Scale, Bias and PReLU in ONNX: Caffe lays their numbers from an axis on, ONNX from the last one."""

from __future__ import annotations

from pathlib import Path

import pytest

from surgery.convert.to_onnx import Origin
from surgery.model import Shape
from tests.convert.to_onnx.nets import Net, Results, compare, converted, layer, operators, single

PLANE = (2, 3, 4, 5)

# name -> (parameters, shapes of the bottoms)
OPERANDS: dict[str, tuple[str, tuple[Shape, ...]]] = {
    "channels": ("", (PLANE,)),
    "two axes": ("num_axes: 2", (PLANE,)),
    "axis 0": ("axis: 0 num_axes: 2", (PLANE,)),
    "to the end": ("axis: 2 num_axes: -1", (PLANE,)),
    "all": ("axis: 0 num_axes: -1", (PLANE,)),
    "one number": ("num_axes: 0", (PLANE,)),
    "axis from the end": ("axis: -2", (PLANE,)),
    "vectors": ("", ((4, 3),)),
    "one axis": ("axis: 0", ((4,),)),
    "6 axes": ("axis: 2 num_axes: 2", ((2, 1, 3, 2, 2, 3),)),
    "another blob": ("", (PLANE, (3,))),
    "another blob at axis 0": ("axis: 0", (PLANE, (2, 3))),
    "another blob from the end": ("axis: -1", (PLANE, (5,))),
    "another blob of its shape": ("axis: 0", (PLANE, PLANE)),
    "another blob of one number": ("axis: 2", (PLANE, ())),
    "another blob, whatever num_axes": ("axis: 1 num_axes: 0", (PLANE, (3, 4))),
}
FIXED = ("axis 0", "all", "one axis")  # Parameters of the batch's size.
NETS = {
    f"{kind}, {name}": single(
        kind,
        f"{block} {{ {param} {more} }}",
        *shapes,
        batch=name not in FIXED and not (more and "axis: 0" in param),
    )
    for kind, block, more in (
        ("Scale", "scale_param", ""),
        ("Scale", "scale_param", "bias_term: true"),
        ("Bias", "bias_param", ""),
    )
    for name, (param, shapes) in {(f"{name} and bias" if more else name): row for name, row in OPERANDS.items()}.items()
} | {
    "PReLU": single("PReLU", "", PLANE),
    "PReLU, vectors": single("PReLU", "", (4, 3)),
    "PReLU, 3 axes": single("PReLU", "", (2, 3, 4)),
    "Scale, another blob of one number, whatever the axis": single("Scale", "scale_param { axis: 7 }", PLANE, ()),
    "PReLU, one slope": single("PReLU", "prelu_param { channel_shared: true }", PLANE),
    "PReLU, one slope, vectors": single("PReLU", "prelu_param { channel_shared: true }", (4, 3)),
    "in place": Net(
        layer("Scale", "x0", "x0", "scale_param { bias_term: true }", "scale")
        + layer("Bias", "x0", "x0", "bias_param { axis: 2 }", "bias")
        + layer("PReLU", "x0", "x0", "", "prelu"),
        (PLANE,),
    ),
    "shared": Net(
        layer("Scale", "x0", "a", 'param { name: "k" }', "first")
        + layer("Scale", "a", "b", 'param { name: "k" }', "second"),
        (PLANE,),
    ),
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return compare(NETS, tmp_path_factory.mktemp("nets"))


@pytest.mark.parametrize("name", NETS)
def test_a_scaled_net_computes_what_caffe_computes(results: Results, name: str) -> None:
    assert results[name].error <= 1e-6
    assert not NETS[name].batch or results[f"{name} (dynamic)"].error <= 1e-6


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Scale, channels", ["Mul"]),
        ("Scale, channels and bias", ["Mul", "Add"]),
        ("Scale, another blob", ["Reshape", "Mul"]),
        ("Scale, another blob of one number", ["Mul"]),
        ("Bias, to the end", ["Add"]),
        ("PReLU", ["PRelu"]),
    ],
)
def test_it_takes_no_more_operators_than_it_must(name: str, expected: list[str], tmp_path: Path) -> None:
    assert operators(NETS[name], tmp_path) == expected


def test_shared_factors_are_there_once(tmp_path: Path) -> None:
    conversion = converted(NETS["shared"], tmp_path).conversion
    assert conversion.weights == {"first.scale": Origin("first", 0)}
    assert conversion.initializers["first.scale"].shape == (3, 1, 1)
