"""Ternary weights stored as int8: the copy computes the same to the last bit, and nothing else changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from surgery.errors import ModelError
from surgery.formats.onnx.ternary import with_int8
from tests.formats.onnx.engine import check, random, run, stated
from tests.onnx_nets import node, tiny


def ternary(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1, 2, shape).astype(np.float32)


FEED = random(1, x=(2, 4, 6, 5))


def net(folder: Path, opset: int = 13, ir_version: int = 8) -> Path:
    """A ternary Conv, a Mul, a plain Conv, and behind them a ternary Gemm and a MatMul whose weight is a view."""
    nodes = [
        node("Conv", "x w b", "c", "first", pads=[1, 1, 1, 1]),
        node("Mul", "c d", "e", "scale"),
        node("Conv", "e v", "f", "second"),
        node("Flatten", "f", "g"),
        node("Gemm", "g t", "h", "third", transB=1),
        node("Transpose", "u", "s", perm=[1, 0]),
        node("MatMul", "h s", "y", "fourth"),
    ]
    weights = {
        "w": ternary(1, 8, 4, 3, 3), "b": random(b=(8,))["b"], "d": random(d=(8, 1, 1))["d"],
        "v": random(v=(3, 8, 1, 1))["v"], "t": ternary(2, 5, 90), "u": ternary(3, 6, 5),
    }  # fmt: skip
    inputs = {"x": (2, 4, 6, 5)}
    return stated(
        tiny(folder, nodes, inputs=inputs, outputs=["y"], weights=weights, opset=opset, ir_version=ir_version)
    )


@pytest.mark.parametrize(("opset", "ir_version"), [(11, 3), (13, 8), (19, 9)])
def test_the_copy_computes_the_same_to_the_last_bit(opset: int, ir_version: int, tmp_path: Path) -> None:
    path, copy = net(tmp_path, opset, ir_version), tmp_path / "copy.onnx"
    assert with_int8(path, copy) == ("w", "t", "u")
    graph = check(copy).graph
    np.testing.assert_array_equal(run(path, FEED)["y"], run(copy, FEED)["y"])
    held = {tensor.name: tensor for tensor in graph.initializer}
    assert {name for name, tensor in held.items() if tensor.data_type == onnx.TensorProto.INT8} == {
        "w_int8", "t_int8", "u_int8", "int8_zero_point"
    }  # fmt: skip
    assert {info.name for info in graph.input} == {"x"} | (set(held) if ir_version < 4 else set())


def test_nodes_and_other_tensors_stay_as_they_are(tmp_path: Path) -> None:
    path, copy = net(tmp_path), tmp_path / "copy.onnx"
    with_int8(path, copy)
    before, after = onnx.load(path).graph, onnx.load(copy).graph
    assert [made.op_type for made in after.node[:3]] == ["DequantizeLinear"] * 3
    assert list(after.node[3:]) == list(before.node)
    tensors = {tensor.name: tensor for tensor in after.initializer}
    assert all(tensors[tensor.name] == tensor for tensor in before.initializer if tensor.name in "bdv")
    saved = 3 * sum(ternary(0, *shape).size for shape in ((8, 4, 3, 3), (5, 90), (6, 5)))
    assert path.stat().st_size - copy.stat().st_size > saved - 600  # Names and three nodes more.


def test_a_constant_node_becomes_int8_too(tmp_path: Path) -> None:
    value = onnx.numpy_helper.from_array(ternary(1, 6, 5))
    nodes = [node("Constant", "", "w", "make", value=value), node("MatMul", "x w", "y", "fc"), node("Abs", "w", "z")]
    path = stated(tiny(tmp_path, nodes, inputs={"x": (3, 6)}, outputs=["y", "z"]))
    copy = tmp_path / "copy.onnx"
    assert with_int8(path, copy) == ("w",)
    check(copy)
    feed = random(1, x=(3, 6))
    for name, array in run(path, feed).items():
        np.testing.assert_array_equal(array, run(copy, feed)[name])


def test_weights_outside_come_along(tmp_path: Path) -> None:
    path = net(tmp_path)
    outside = tmp_path / "outside.onnx"
    onnx.save(onnx.load(path), outside, save_as_external_data=True, location="data", size_threshold=0)
    folder = tmp_path / "copies"
    folder.mkdir()
    with_int8(outside, folder / "copy.onnx")
    np.testing.assert_array_equal(run(path, FEED)["y"], run(folder / "copy.onnx", FEED)["y"])
    assert {file.name for file in folder.iterdir()} == {"copy.onnx", "copy.onnx.data"}
    assert (folder / "copy.onnx.data").stat().st_size < (tmp_path / "data").stat().st_size / 4


@pytest.mark.parametrize("number", [0.5, 2.0, np.nan])
def test_one_other_number_leaves_the_file_as_it_is(number: float, tmp_path: Path) -> None:
    weight = ternary(1, 6, 5)
    weight[3, 2] = number
    path = tiny(
        tmp_path, [node("MatMul", "x w", "y", "fc")], inputs={"x": (3, 6)}, outputs=["y"], weights={"w": weight}
    )
    assert with_int8(path, tmp_path / "copy.onnx") == ()
    assert (tmp_path / "copy.onnx").read_bytes() == path.read_bytes()


def test_below_opset_10_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="need opset 10 or later, this file has 9"):
        with_int8(net(tmp_path, 9, 4), tmp_path / "copy.onnx")
    assert not (tmp_path / "copy.onnx").exists()
