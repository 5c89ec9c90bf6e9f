"""From blobs to tensors: stages of blobs written in place, memory that blobs share, parameters, names and files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from surgery import formats
from surgery.convert.to_onnx import Conversion, Origin, to_onnx
from surgery.convert.to_onnx.conversion import STAGES
from surgery.errors import ConversionError, ModelError, PlanError
from surgery.model import Shape
from surgery.runtime import Job
from tests.convert.to_onnx.nets import (
    Net,
    Results,
    check,
    compare,
    converted,
    distance,
    indices,
    inputs,
    layer,
    single,
    write,
)
from tests.engines import require_onnxruntime
from tests.nets import conv_blobs, dense_blobs, write_net
from tests.shared import shared

PLANE = (2, 3, 4, 5)
FLAT = "reshape_param { shape { dim: 0 dim: -1 } }"


def power(bottom: str, top: str, shift: float, name: str) -> str:
    return layer("Power", bottom, top, f"power_param {{ shift: {shift} }}", name)


CHAIN = (
    layer("Convolution", "x0", "c", "convolution_param { num_output: 2 kernel_size: 1 }", "conv")
    + layer("ReLU", "c", "c", name="relu")
    + power("c", "c", 1, "add")
)
# Nets in which layers write over what others read. None of their values can be told apart by its shape.
MEMORY = {
    "a chain in place": Net(CHAIN, [PLANE]),
    "the input in place": Net(layer("ReLU", "x0", "x0", name="relu") + power("x0", "y", 1, "add"), [PLANE]),
    "the input in place and nothing else": Net(layer("TanH", "x0", "x0", name="tanh"), [PLANE]),
    "one part of an explicit Split in place": Net(
        layer("Split", "x0", "a b", name="split")
        + layer("ReLU", "a", "a", name="relu")
        + power("a", "c", 1, "after")
        + power("b", "d", 2, "other"),
        [PLANE],
    ),
    "both parts of an explicit Split in place": Net(
        layer("Split", "x0", "a b", name="split") + power("a", "a", 1, "first") + power("b", "b", 2, "second"),
        [PLANE],
    ),
    "a Reshape's top in place, whose bottom others read later": Net(
        power("x0", "a", 0.5, "make")
        + layer("Reshape", "a", "b", FLAT, "reshape")
        + layer("ReLU", "b", "b", name="relu")
        + power("a", "c", 1, "later"),
        [PLANE],
    ),
    "a Flatten of the input in place": Net(
        layer("Flatten", "x0", "b", name="flatten")
        + layer("ReLU", "b", "b", name="relu")
        + power("x0", "c", 1, "later"),
        [PLANE],
    ),
    "views of views in place": Net(
        power("x0", "a", 0.5, "make")
        + layer("Flatten", "a", "b", name="flatten")
        + layer("Concat", "b", "c", name="one")
        + layer("Slice", "c", "d", name="whole")
        + layer("TanH", "d", "d", name="tanh")
        + power("a", "e", 1, "last"),
        [PLANE],
    ),
    "a Concat of two is no view": Net(
        power("x0", "a", 0.5, "make")
        + layer("Concat", "a a", "b", name="join")
        + layer("ReLU", "b", "b", name="relu")
        + power("a", "c", 1, "later"),
        [PLANE],
    ),
    "a Dropout's top is no view": Net(
        power("x0", "a", 0.5, "make")
        + layer("Dropout", "a", "b", name="drop")
        + layer("ReLU", "b", "b", name="relu")
        + power("a", "c", 1, "later"),
        [PLANE],
    ),
    "a parameter in place": Net(
        layer("Parameter", "", "w", "parameter_param { shape { dim: 2 dim: 3 } }", "weights")
        + layer("ReLU", "w", "w", name="relu")
        + layer("Eltwise", "x0 w", "y", name="sum"),
        [(2, 3)],
        batch=False,
    ),
    "layers that change nothing": Net(
        layer("Dropout", "x0", "a", name="first")
        + layer("Dropout", "a", "b", name="second")
        + layer("Split", "b", "c d", name="split"),
        [PLANE],
    ),
    "names with slashes and spaces, one of them twice": Net(
        layer("Convolution", "x0", "a/b", "convolution_param { num_output: 2 kernel_size: 1 }", "conv/1 x")
        + layer("ReLU", "a/b", "a/b", name="conv/1 x"),
        [PLANE],
    ),
    "a layer whose inner names are blobs": Net(
        power("x0", "layer/Sigmoid", 1, "first")
        + layer("Convolution", "layer/Sigmoid", "swish", "convolution_param { num_output: 2 kernel_size: 1 }", "c")
        + power("swish", "c.weight", 1, "last"),
        [PLANE],
    ),
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return compare(MEMORY, tmp_path_factory.mktemp("nets"))


@pytest.mark.parametrize("name", MEMORY)
def test_memory_that_layers_write_over_holds_what_it_holds_in_caffe(results: Results, name: str) -> None:
    assert results[name].error <= 1e-6
    assert not MEMORY[name].batch or results[f"{name} (dynamic)"].error <= 1e-6


def test_the_last_value_has_the_blobs_name_and_those_before_say_what_comes(tmp_path: Path) -> None:
    one = converted(MEMORY["a chain in place"], tmp_path)
    outputs = {operator.layer: operator.outputs for operator in one.conversion.operators}
    assert outputs == {"conv": ("c_before_relu",), "relu": ("c_before_add",), "add": ("c",)}
    assert metadata(one.path) == {"c": [["conv", "c_before_relu"], ["relu", "c_before_add"], ["add", "c"]]}
    assert one.conversion.tensors == {"x0": "x0", "c": "c"}


def test_an_input_keeps_its_name_and_what_is_written_over_it_says_by_whom(tmp_path: Path) -> None:
    one = converted(MEMORY["the input in place"], tmp_path)
    assert [each.name for each in one.conversion.inputs] == ["x0"]
    assert one.conversion.tensors == {"x0": "x0_after_relu", "y": "y"}
    assert metadata(one.path) == {"x0": [["", "x0"], ["relu", "x0_after_relu"]]}


def test_a_net_without_blobs_in_place_has_no_metadata(tmp_path: Path) -> None:
    assert metadata(converted(single("ReLU", "", PLANE), tmp_path).path) is None


def metadata(path: Path) -> object:
    import onnx

    entries = {entry.key: entry.value for entry in onnx.load(str(path)).metadata_props}
    return json.loads(entries[STAGES]) if entries else None


def test_all_blobs_are_outputs_where_asked_for(tmp_path: Path) -> None:
    model = write(MEMORY["a Reshape's top in place, whose bottom others read later"], tmp_path)
    assert [each.name for each in to_onnx(model).outputs] == ["b", "c"]
    assert [each.name for each in to_onnx(model, all_blobs=True).outputs] == ["a", "b", "c"]


# Parameters.

TWO = layer(
    "InnerProduct", "x0", "a", 'param { name: "w" } inner_product_param { num_output: 3 bias_term: false }', "one"
)
TWO += layer(
    "InnerProduct", "a", "b", 'param { name: "w" } inner_product_param { num_output: 3 bias_term: false }', "two"
)


def initializers(conversion: Conversion) -> dict[str, Origin]:
    return dict(conversion.weights)


def test_a_shared_parameter_is_there_once_and_is_what_the_last_layer_in_the_file_says(tmp_path: Path) -> None:
    net = Net(TWO, [(2, 3)])
    first, last = dense_blobs(3, 3, seed=1, bias=False), dense_blobs(3, 3, seed=2, bias=False)
    model = formats.load(write_net(tmp_path, net.prototxt, {"one": first, "two": last}))
    conversion = to_onnx(model)
    assert initializers(conversion) == {"one.weight": Origin("one", 0)}
    np.testing.assert_array_equal(conversion.initializers["one.weight"], last[0])


def test_a_layer_that_no_file_holds_has_what_its_filler_says(tmp_path: Path) -> None:
    param = (
        'inner_product_param { num_output: 2 weight_filler { type: "constant" value: 0.5 } bias_filler { value: 3 } }'
    )
    net = single("InnerProduct", param, (2, 3))
    (tmp_path / "net.prototxt").write_text(net.prototxt, encoding="utf-8")
    conversion = to_onnx(formats.load([tmp_path / "net.prototxt"]))
    np.testing.assert_array_equal(conversion.initializers["layer.weight"], np.full((2, 3), 0.5, np.float32))
    np.testing.assert_array_equal(conversion.initializers["layer.bias"], np.full(2, 3, np.float32))


def test_a_random_filler_is_refused_where_no_file_holds_the_weights(tmp_path: Path) -> None:
    param = 'inner_product_param { num_output: 2 weight_filler { type: "xavier" } }'
    files = write_net(tmp_path, single("InnerProduct", param, (2, 3)).prototxt, {})
    with pytest.raises(ConversionError, match="no file holds its weights, and its filler is random"):
        to_onnx(formats.load(files))
    with pytest.raises(ModelError, match=r"has no weights; give its \.caffemodel as well"):
        to_onnx(formats.load(files[:1]))


def test_blobs_in_the_prototxt_hold_unless_the_weights_have_others(tmp_path: Path) -> None:
    param = "inner_product_param { num_output: 1 bias_term: false } blobs { shape { dim: 1 dim: 2 } data: 7 data: 8 }"
    net = single("InnerProduct", param, (2, 2))
    model = formats.load(write_net(tmp_path, net.prototxt, {}))
    np.testing.assert_array_equal(to_onnx(model).initializers["layer.weight"], [[7, 8]])
    own = dense_blobs(1, 2, bias=False)
    model = formats.load(write_net(tmp_path, net.prototxt, {"layer": own}))
    np.testing.assert_array_equal(to_onnx(model).initializers["layer.weight"], own[0])


# What cannot be converted.


def test_all_layers_without_an_equivalent_are_named_at_once(tmp_path: Path) -> None:
    text = (
        layer("Python", "x0", "a", 'python_param { module: "m" layer: "L" }', "mine")
        + layer("ReLU", "a", "b", name="behind")
        + layer("Log", "x0", "c", "log_param { base: 1 }", "log")
        + layer("Pooling", "x0", "d", "pooling_param { pool: STOCHASTIC kernel_size: 2 }", "pool")
        + layer("ReLU", "x0", "e", name="fine")
    )
    with pytest.raises(ConversionError) as error:
        converted(Net(text, [PLANE]), tmp_path)
    message = str(error.value)
    assert "3 layers cannot be converted" in message
    assert all(f"'{name}'" in message for name in ("mine", "log", "pool"))
    assert "behind" not in message
    assert "fine" not in message


@pytest.mark.parametrize("opset", [12, 23])
def test_an_opset_out_of_range_is_refused(opset: int, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=f"opset {opset}: expected 13 to 22"):
        to_onnx(write(single("ReLU", "", PLANE), tmp_path), opset=opset)


def test_an_input_without_a_shape_is_refused(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text('input: "data"\n' + layer("ReLU", "data", "y"), encoding="utf-8")
    with pytest.raises(ModelError, match="input 'data' has no shape; give --shape data=N,C,H,W"):
        to_onnx(formats.load([tmp_path / "net.prototxt"]))


# Files.

EVERYTHING = (
    layer("Convolution", "x0", "a", "convolution_param { num_output: 4 kernel_size: 3 pad: 1 }", "conv")
    + layer("Slice", "a", "b c", name="slice")
    + layer("Reduction", "b", "d", "reduction_param { operation: MEAN axis: 2 }", "mean")
    + layer("Reduction", "c", "e", "reduction_param { operation: ASUM axis: 2 }", "sum")
    + layer("Concat", "d e", "f", name="join")
    + layer("ArgMax", "f", "g", "argmax_param { top_k: 2 out_max_val: true }", "top")
    + layer("Softmax", "f", "h", name="softmax")
    + layer("SoftmaxWithLoss", "f x1", "i", name="loss")
    + layer("Accuracy", "f x1", "j", "accuracy_param { top_k: 2 }", "accuracy")
)


@pytest.mark.parametrize("opset", range(13, 23))
def test_every_opset_computes_the_same(opset: int, tmp_path: Path) -> None:
    net = Net(EVERYTHING, [(3, 2, 4, 5), (3,)], {"x1": indices(4)})
    found = []
    for version in (13, opset):
        path = tmp_path / f"{version}.onnx"
        to_onnx(write(net, tmp_path), opset=version).save(path)
        check(path)
        (result,) = require_onnxruntime().run(Job([path], [inputs(net)]))
        found.append(result)
    assert set(found[1]) == set("ghij")
    assert all(distance(found[1][name], value) <= 1e-6 for name, value in found[0].items())


def test_weights_beyond_the_limit_go_to_a_file_beside_the_model(tmp_path: Path) -> None:
    param = "convolution_param { num_output: 16 kernel_size: 3 }"
    text = layer("Convolution", "x0", "a", param, "one") + layer("Convolution", "a", "b", param, "two")
    net = Net(text, [(1, 8, 9, 9)])
    blobs = {"one": conv_blobs(16, 8, 3, 3), "two": conv_blobs(16, 16, 3, 3, seed=1)}
    conversion = to_onnx(formats.load(write_net(tmp_path, net.prototxt, blobs)))
    inside, outside = tmp_path / "inside.onnx", tmp_path / "outside.onnx"
    assert conversion.save(inside) == (inside,)
    files = conversion.save(outside, limit=5000)
    assert files == (outside, tmp_path / "outside.onnx.data")
    assert outside.stat().st_size < 2000
    assert files[1].stat().st_size == 4608 + 3584 + 9216  # The first weight, what aligns the second, and that.
    check(outside)
    first, second = (require_onnxruntime().run(Job([path], [inputs(net)]))[0]["b"] for path in (inside, outside))
    np.testing.assert_array_equal(first, second)


def test_a_dynamic_batch_is_a_symbol_in_every_shape_that_depends_on_it(tmp_path: Path) -> None:
    text = (
        layer("Convolution", "x0", "a", "convolution_param { num_output: 4 kernel_size: 3 }", "conv")
        + layer("Flatten", "a", "b", name="flatten")
        + layer("Tile", "b", "c", "tile_param { axis: 0 tiles: 3 }", "tile")
        + layer("Reduction", "b", "d", "reduction_param { axis: 0 }", "sum")
    )
    conversion = converted(Net(text, [PLANE, (2, 7), (5,)]), tmp_path, dynamic=True).conversion
    types = {each.name: each.shape for each in (*conversion.inputs, *conversion.inner, *conversion.outputs)}
    expected: dict[str, tuple[Shape | str | int, ...]] = {
        "x0": ("batch", 3, 4, 5),
        "x1": ("batch", 7),
        "x2": (5,),
        "a": ("batch", 4, 2, 3),
        "b": ("batch", 24),
        "c": ("3*batch", 24),
        "d": (),
    }
    assert types == expected


# Networks that train.

TRAIN_VAL = """
name: "t"
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TRAIN } data_param { batch_size: 64 } }
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TEST } data_param { batch_size: 50 } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 3 } }
layer { name: "drop" type: "Dropout" bottom: "ip" top: "ip" }
layer { name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy" include { phase: TEST } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""


def test_data_losses_and_metrics_of_a_training_net_are_cut_off(tmp_path: Path) -> None:
    files = write_net(tmp_path, TRAIN_VAL, {"ip": dense_blobs(3, 4)})
    conversion = to_onnx(formats.load(files, input_shapes={"data": (2, 4)}))
    assert [(each.name, each.shape) for each in conversion.inputs] == [("data", (2, 4))]
    assert [(each.name, each.shape) for each in conversion.outputs] == [("prob", (2, 3))]
    assert [operator.type for operator in conversion.operators] == ["Gemm", "Softmax"]


@pytest.mark.parametrize(
    ("name", "data", "shape"),
    [
        ("SqueezeNet--SqueezeNet_v1.1_train_val", "data", (1, 3, 227, 227)),
        ("caffe--examples_cifar10_cifar10_full_sigmoid_train_test", "data", (1, 3, 32, 32)),
        ("caffe--examples_cifar10_cifar10_full_train_test", "data", (1, 3, 32, 32)),
        ("ResNet-on-Cifar10--data_augmentation_20_res20_cifar_train_test", "Data1", (1, 3, 32, 32)),
    ],
)
def test_training_nets_of_the_zoo_are_cut_off(name: str, data: str, shape: Shape, tmp_path: Path) -> None:
    text = shared(f"zoo/prototxt/{name}.prototxt").read_text(encoding="utf-8")
    files = write_net(tmp_path, text, {})
    native = formats.load(files, input_shapes={data: shape}).native
    blobs = {
        layer.name: [np.full(size, 0.01, np.float32) for size in native.inferred[id(layer)].blobs or ()]
        for layer in native.active
    }
    conversion = to_onnx(formats.load(write_net(tmp_path, text, blobs), input_shapes={data: shape}))
    assert [each.name for each in conversion.inputs] == [data]
    assert [each.name for each in conversion.outputs] == ["prob"]
    assert conversion.operators[-1].type == "Softmax"
    conversion.save(tmp_path / "net.onnx")
    check(tmp_path / "net.onnx")
