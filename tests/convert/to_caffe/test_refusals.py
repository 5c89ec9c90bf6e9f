"""What Caffe cannot express is refused, all of it at once, each node with its reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest

from surgery.convert.to_caffe import to_caffe
from surgery.errors import ConversionError, ModelError, SurgeryError
from surgery.formats.onnx.onnx import load
from tests.convert.to_caffe.operators import Case, ints, normal, pool
from tests.onnx_nets import node, tiny

X = {"x": (1, 4, 6, 6)}
NARROW = {"x": (2, 4)}

REFUSED: dict[str, tuple[Case, str]] = {
    "unknown operator": (Case([node("Erf", "x", "z")]), "no layers of stock Caffe are known that compute Erf"),
    "computed weight": (
        Case([node("Conv", "x y", "z")], {"x": (1, 4, 6, 6), "y": (2, 4, 3, 3)}),
        "its weight is computed, and Caffe takes only a constant there",
    ),
    "computed matrix": (Case([node("MatMul", "x y", "z")], {"x": (2, 4), "y": (4, 3)}), "its right side is computed"),
    "matrix on the left": (
        Case([node("MatMul", "c x", "z")], NARROW, {"c": normal(3, 2)}),
        "InnerProduct multiplies by a constant on the right",
    ),
    "transposed input": (
        Case([node("Gemm", "x w", "z", transA=1)], NARROW, {"w": normal(2, 3)}),
        "it transposes its computed input (transA)",
    ),
    "dilated pool": (pool("MaxPool", X["x"], kernel_shape=[2, 2], dilations=[2, 2]), "its windows are dilated"),
    "pool of three axes": (
        pool("MaxPool", (1, 2, 4, 4, 4), kernel_shape=[2, 2, 2]),
        "it pools 3 spatial axes",
    ),
    "indices": (
        Case([node("MaxPool", "x", "z i", kernel_shape=[2, 2]), node("Cast", "i", "k", to=1)], X, outputs=("z", "k")),
        "its indices are used",
    ),
    "training": (
        Case(
            [node("BatchNormalization", "x c c c c", "z", training_mode=1)], X, {"c": np.ones(4, np.float32)}, opset=15
        ),
        "it is in training mode",
    ),
    "even LRN": (Case([node("LRN", "x", "z", size=4)], X), "its size is 4; Caffe takes odd ones"),
    "mirrored padding": (
        Case([node("Pad", "x p", "z", mode="reflect")], X, {"p": ints(0, 0, 1, 1, 0, 0, 1, 1)}),
        "it pads in the mode 'reflect'",
    ),
    "long transpose": (
        Case([node("Relu", "x", "a"), node("Transpose", "a", "z", perm=[1, 0])], {"x": (1100, 1200)}),
        "Caffe, which has no Permute, would need a Slice of 1100 parts",
    ),
    "computed exponent": (Case([node("Pow", "x x", "z")], X), "neither base nor exponent is one constant number"),
    "integers": (
        Case([node("Cast", "x", "i", to=7), node("Mul", "i c", "j"), node("Cast", "j", "z", to=1)], X, {"c": ints(3)}),
        "it computes with integers",
    ),
    "truncation": (
        Case([node("Cast", "x", "i", to=7), node("Cast", "i", "z", to=1)], X),
        "it truncates numbers, which Caffe has no layer for",
    ),
    "nothing left": (
        Case([node("Slice", "x b e", "z")], X, {"b": ints(0), "e": ints(0)}),
        "Caffe has no empty blobs",
    ),
    "cubic": (
        Case([node("Resize", "x - - s", "z", mode="cubic")], X, {"s": ints(1, 4, 12, 12)}),
        "its mode is 'cubic'; expected nearest or linear",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_caffe_cannot_express_is_refused_with_the_reason(name: str, tmp_path: Path) -> None:
    case, reason = REFUSED[name]
    with pytest.raises(ConversionError) as error:
        to_caffe(load(case.write(tmp_path, "net")))
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


def test_all_nodes_without_equivalent_are_named(tmp_path: Path) -> None:
    nodes = [
        node("Erf", "x", "a", "first"),
        node("Relu", "a", "b", "fine"),
        node("LRN", "b", "c", "second", size=2),
        node("Sin", "c", "z", "third"),
    ]
    path = tiny(tmp_path, nodes, inputs=X, outputs=["z"])
    with pytest.raises(ConversionError) as error:
        to_caffe(load(path))
    assert [reason.split(" (")[0] for reason in error.value.reasons] == [
        "node 'first'",
        "node 'second'",
        "node 'third'",
    ]


def test_custom_domain_and_subgraph_are_named(tmp_path: Path) -> None:
    inner = onnx.helper.make_graph(
        [node("Relu", "x", "r")], "inner", [], [onnx.helper.make_tensor_value_info("r", 1, None)]
    )
    nodes = [
        node("Fancy", "x", "a", domain="org.example"),
        node("If", "c", "b", then_branch=inner, else_branch=inner),
        node("Add", "a b", "z"),
    ]
    path = tiny(tmp_path, nodes, inputs=X, outputs=["z"], weights={"c": np.asarray(True)})
    with pytest.raises(ConversionError) as error:
        to_caffe(load(path))
    first, second = error.value.reasons
    assert first == "node 0 (Fancy -> 'a'): it is of the custom domain 'org.example'"
    assert second.startswith("node 1 (If -> 'b'): it holds a graph of its own")


@pytest.mark.parametrize("opset", [6, 99])
def test_operator_set_out_of_range_is_refused(opset: int, tmp_path: Path) -> None:
    path = tiny(tmp_path, [node("Relu", "x", "z")], inputs=X, outputs=["z"], opset=opset)
    with pytest.raises(ConversionError, match=f"opset {opset}; expected 7 to"):
        to_caffe(load(path))


def test_input_that_is_not_float32_is_refused(tmp_path: Path) -> None:
    graph = onnx.helper.make_graph(
        [node("Relu", "x", "z")],
        "net",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.DOUBLE, [2, 3])],
        [onnx.helper.make_tensor_value_info("z", onnx.TensorProto.DOUBLE, None)],
    )
    path = tmp_path / "net.onnx"
    path.write_bytes(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)]).SerializeToString()
    )
    with pytest.raises(ConversionError, match="input 'x' is float64; Caffe's blobs are float32"):
        to_caffe(load(path))


def test_input_of_unknown_size_asks_for_a_shape(tmp_path: Path) -> None:
    path = tiny(tmp_path, [node("Relu", "x", "z")], inputs={"x": ("batch", 3, "h", "w")}, outputs=["z"])
    with pytest.raises(ModelError, match="--shape x="):
        to_caffe(load(path))
    (layer, _) = to_caffe(load(path, {"x": (2, 3, 4, 5)})).layers
    assert layer.params == {"shape": {"dim": (2, 3, 4, 5)}}


# Numbers that lie: each must end in one line, quickly and in little memory.
HOSTILE: Sequence[tuple[list[onnx.NodeProto], Mapping[str, np.ndarray]]] = (
    ([node("ConstantOfShape", "s", "a"), node("Add", "x a", "z")], {"s": ints(1 << 40, 1 << 20)}),
    ([node("ConstantOfShape", "s", "a"), node("Add", "x a", "z")], {"s": ints(-5)}),
    (
        [node("Range", "b e d", "a"), node("Add", "x a", "z")],
        {"b": np.asarray(0), "e": np.asarray(1 << 60), "d": np.asarray(1)},
    ),
    (
        [node("Range", "b e d", "a"), node("Add", "x a", "z")],
        {"b": np.asarray(0), "e": np.asarray(1), "d": np.asarray(0)},
    ),
    ([node("Tile", "x r", "z")], {"r": ints(1, -1, 1, 1)}),
    ([node("Reshape", "x s", "z")], {"s": ints(-1, -1)}),
    ([node("Reshape", "x s", "z")], {"s": ints(7, 7)}),
    ([node("Transpose", "x", "z", perm=[0, 0, 1, 2])], {}),
    ([node("Transpose", "x", "z", perm=[0])], {}),
    ([node("Concat", "x x", "z", axis=9)], {}),
    ([node("Softmax", "x", "z", axis=-7)], {}),
    ([node("Split", "x s", "z a", axis=1)], {"s": ints(3, 3)}),
    ([node("Slice", "x b e a s", "z")], {"b": ints(0), "e": ints(9), "a": ints(1), "s": ints(0)}),
    ([node("Slice", "x b e a", "z")], {"b": ints(0, 1), "e": ints(9), "a": ints(1)}),
    ([node("Gather", "x i", "z", axis=1)], {"i": ints(99)}),
    ([node("Conv", "x w", "z", strides=[0, 0])], {"w": normal(2, 4, 3, 3)}),
    ([node("Conv", "x w", "z", strides=[1])], {"w": normal(2, 4, 3, 3)}),
    ([node("Conv", "x w", "z", pads=[-1, 0, 0, 0])], {"w": normal(2, 4, 3, 3)}),
    ([node("Conv", "x w", "z", group=0)], {"w": normal(2, 4, 3, 3)}),
    ([node("Conv", "x w", "z")], {"w": normal(2, 4, 9, 9)}),
    ([node("Conv", "x w", "z")], {"w": normal(2, 5, 3, 3)}),
    ([node("Conv", "x w", "z", kernel_shape="no")], {"w": normal(2, 4, 3, 3)}),
    ([node("Conv", "x", "z")], {}),
    ([node("ConvTranspose", "x w", "z", pads=[9, 9, 9, 9])], {"w": normal(4, 2, 3, 3)}),
    ([node("ConvTranspose", "x w", "z", output_shape=[1])], {"w": normal(4, 2, 3, 3)}),
    ([node("MaxPool", "x", "z", kernel_shape=[0, 0])], {}),
    ([node("MaxPool", "x", "z", kernel_shape=[2, 2], pads=[1, 1])], {}),
    ([node("MaxPool", "x", "z", kernel_shape=[99, 99])], {}),
    ([node("AveragePool", "x", "z")], {}),
    ([node("Gemm", "x w", "z")], {"w": normal(4, 4)}),
    ([node("MatMul", "x w", "z")], {"w": normal(5, 4)}),
    ([node("Add", "x c", "z")], {"c": normal(5)}),
    ([node("BatchNormalization", "x c c c c", "z")], {"c": normal(3)}),
    ([node("PRelu", "x c", "z")], {"c": normal(3, 1, 1)}),
    ([node("Clip", "x c", "z")], {"c": np.zeros(0, np.float32)}),
    ([node("Pad", "x p", "z")], {"p": ints(1, 2, 3)}),
    ([node("Resize", "x - - s", "z")], {"s": ints(1, 4, 0, 9)}),
    ([node("Resize", "x - f", "z")], {"f": np.float32([1, 1, np.nan, 2])}),
    ([node("Squeeze", "x a", "z")], {"a": ints(1)}),
    ([node("Unsqueeze", "x a", "z")], {"a": ints(40)}),
    ([node("Expand", "x s", "z")], {"s": ints(3, 5, 6, 6)}),
    ([node("TopK", "x k", "z i", axis=1)], {"k": ints(50)}),
    ([node("DepthToSpace", "x", "z", blocksize=0)], {}),
    ([node("ReduceSum", "x a", "z")], {"a": ints(17)}),
    ([node("Flatten", "x", "z", axis=30)], {}),
    ([node("LayerNormalization", "x s", "z", axis=5)], {"s": normal(6)}),
    ([node("InstanceNormalization", "x s s", "z")], {"s": normal(6)}),
    ([node("Conv", "x w", "z", pads=[0, 0, 1 << 40, 1 << 40])], {"w": normal(2, 4, 3, 3)}),
    ([node("AveragePool", "x", "z", kernel_shape=[1 << 40, 1], pads=[(1 << 40) - 1, 0, (1 << 40) - 1, 0])], {}),
    ([node("Split", "x", "z", axis=1, num_outputs=1 << 40)], {}),
    ([node("Gather", "x i", "a", axis=1), node("Tile", "a r", "z")], {"i": ints(0), "r": ints(1, 1 << 40, 1, 1)}),
    ([node("GlobalAveragePool", "y", "z"), node("Flatten", "x", "y", axis=0)][::-1], {}),
)


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_lying_numbers_end_in_one_line(number: int, tmp_path: Path) -> None:
    nodes, weights = HOSTILE[number]
    path = tiny(tmp_path, nodes, inputs=X, outputs=["z"], weights=weights, opset=18)
    with pytest.raises(SurgeryError) as error:
        to_caffe(load(path))
    assert "\n" not in str(error.value)
