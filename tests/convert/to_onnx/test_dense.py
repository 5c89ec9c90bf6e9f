"""InnerProduct, Embed and Crop in ONNX."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from surgery import formats
from surgery.convert.to_onnx import Origin
from surgery.errors import ConversionError
from surgery.model import Shape
from tests.convert.to_onnx.nets import Net, Results, compare, converted, indices, layer, operators, run, single

PLANE = (2, 3, 4, 5)


def dense(param: str, shape: Shape, *, batch: bool = True) -> Net:
    return single("InnerProduct", f"inner_product_param {{ num_output: 6 {param} }}", shape, batch=batch)


def embed(param: str, shape: Shape) -> Net:
    return single("Embed", f"embed_param {{ num_output: 4 input_dim: 7 {param} }}", shape, values={"x0": indices(7)})


def crop(param: str, shape: Shape, other: Shape) -> Net:
    return single("Crop", f"crop_param {{ {param} }}", shape, other)


NETS = {
    "InnerProduct": dense("", PLANE),
    "InnerProduct, no bias": dense("bias_term: false", PLANE),
    "InnerProduct, transposed": dense("transpose: true", PLANE),
    "InnerProduct, vectors": dense("", (4, 3)),
    "InnerProduct, axis 2": dense("axis: 2", PLANE),
    "InnerProduct, axis from the end, transposed": dense("axis: -1 transpose: true", PLANE),
    "InnerProduct, axis 0": dense("axis: 0", PLANE, batch=False),
    "InnerProduct, one axis": dense("axis: 0", (5,), batch=False),
    "InnerProduct, 6 axes": dense("axis: 4", (2, 1, 2, 3, 2, 2)),
    "Embed": embed("", (5, 2)),
    "Embed, no bias": embed("bias_term: false", (5,)),
    "Embed, 4 axes": embed("", (3, 2, 1, 2)),
    "Crop": crop("", (2, 3, 6, 7), (2, 9, 4, 5)),
    "Crop, one offset": crop("offset: 1", (2, 3, 6, 7), (2, 3, 4, 5)),
    "Crop, offsets": crop("offset: 2 offset: 0", (2, 3, 6, 7), (2, 3, 4, 5)),
    "Crop, axis 1": crop("axis: 1 offset: 1 offset: 0 offset: 2", (2, 3, 6, 7), (2, 2, 6, 5)),
    "Crop, axis from the end": crop("axis: -1 offset: 1", (2, 3, 6, 7), (2, 3, 4, 5)),
    "Crop, axis 0, whole": crop("axis: 0", PLANE, PLANE),
    "Crop, 3 axes": crop("axis: 1 offset: 1", (2, 4, 5), (2, 3, 2)),
    "Crop, other of more axes": crop("axis: 2", (2, 3, 6), (2, 3, 4, 5)),
    "Crop of the batch": single("Crop", "crop_param { axis: 0 offset: 1 offset: 0 }", (4, 3), (2, 3), batch=False),
    "in turn": Net(
        layer("InnerProduct", "x0", "a", "inner_product_param { num_output: 3 axis: 2 }", "first")
        + layer("InnerProduct", "a", "b", "inner_product_param { num_output: 4 bias_term: false }", "second"),
        (PLANE,),
    ),
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return compare(NETS, tmp_path_factory.mktemp("nets"))


@pytest.mark.parametrize("name", NETS)
def test_a_dense_net_computes_what_caffe_computes(results: Results, name: str) -> None:
    assert results[name].error <= 1e-6
    assert not NETS[name].batch or results[f"{name} (dynamic)"].error <= 1e-6


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("InnerProduct", ["Reshape", "Gemm"]),
        ("InnerProduct, vectors", ["Gemm"]),
        ("InnerProduct, axis 2", ["Reshape", "Gemm", "Reshape"]),
        ("Embed, no bias", ["Cast", "Gather"]),
        ("Crop", ["Slice"]),
    ],
)
def test_it_takes_no_more_operators_than_it_must(name: str, expected: list[str], tmp_path: Path) -> None:
    assert operators(NETS[name], tmp_path) == expected


def test_a_matrix_goes_in_as_it_lies_in_the_file(tmp_path: Path) -> None:
    conversion = converted(NETS["InnerProduct, transposed"], tmp_path).conversion
    model = formats.load([tmp_path / "net.prototxt", tmp_path / "net.caffemodel"])
    np.testing.assert_array_equal(conversion.initializers["layer.weight"], model.native.weights.arrays(0)[0])
    assert conversion.weights == {"layer.weight": Origin("layer", 0), "layer.bias": Origin("layer", 1)}


def test_embed_cuts_its_indices_towards_zero(tmp_path: Path) -> None:
    net = embed("bias_term: false", (4,))
    halves = Net(net.text, net.shapes, {"x0": lambda _, __: np.array([0.9, -0.9, 6.5, 2.0], np.float32)})
    result = run(halves, tmp_path)["y0"]
    rows = formats.load([tmp_path / "net.prototxt", tmp_path / "net.caffemodel"]).native.weights.arrays(0)[0]
    np.testing.assert_array_equal(result, rows[[0, 0, 6, 2]])


@pytest.mark.parametrize(
    ("text", "shapes"),
    [
        (layer("InnerProduct", "x0", "x0", "inner_product_param { num_output: 3 }"), [(2, 3)]),
        (layer("Crop", "x0 x1", "x0"), [(2, 3, 4, 5), (2, 3, 2, 2)]),
    ],
)
def test_what_overwrites_its_input_as_it_reads_is_refused(text: str, shapes: list[Shape], tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=r"'layer'.*: in place it overwrites"):
        converted(Net(text, shapes), tmp_path)


def test_a_crop_that_cuts_nothing_is_no_operator(tmp_path: Path) -> None:
    assert operators(NETS["Crop, axis 0, whole"], tmp_path) == ["Identity"]  # Which gives the blob its name.
