"""Convolution, Deconvolution and Im2col in ONNX."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from surgery import formats
from surgery.convert.to_onnx import Origin
from surgery.errors import ConversionError
from surgery.model import Shape
from surgery.ops import Conv2d
from surgery.runtime import Array
from tests.convert.to_onnx.nets import (
    Net,
    Results,
    compare,
    converted,
    distance,
    inputs,
    layer,
    operators,
    run,
    single,
    write,
)

# name -> (parameters, shape of the input)
CONVOLUTIONS: dict[str, tuple[str, Shape]] = {
    "plain": ("num_output: 4 kernel_size: 3", (2, 3, 6, 7)),
    "padded, with a stride": ("num_output: 4 kernel_size: 3 stride: 2 pad: 1", (2, 3, 6, 7)),
    "other on each axis": (
        "num_output: 4 kernel_h: 3 kernel_w: 2 stride_h: 2 stride_w: 3 pad_h: 0 pad_w: 2",
        (2, 3, 8, 7),
    ),
    "repeated": ("num_output: 4 kernel_size: 3 kernel_size: 1 stride: 1 stride: 2 pad: 1 pad: 0", (2, 3, 8, 7)),
    "groups": ("num_output: 6 kernel_size: 3 group: 2 bias_term: false", (2, 4, 6, 7)),
    "a group per channel": ("num_output: 8 kernel_size: 3 group: 4 pad: 1", (2, 4, 6, 7)),
    "dilated": ("num_output: 4 kernel_size: 3 dilation: 2 dilation: 3", (2, 3, 9, 8)),
    "pad above the kernel": ("num_output: 4 kernel_size: 2 pad: 3 stride: 2", (2, 3, 4, 5)),
    "1x1": ("num_output: 4 kernel_size: 1", (2, 3, 4, 5)),
    "1x1 with a stride": ("num_output: 4 kernel_size: 1 stride: 2", (2, 3, 4, 5)),
    "axis 2": ("num_output: 4 kernel_size: 3 axis: 2", (2, 2, 3, 6, 7)),
    "axis 2, no spatial axis": ("num_output: 4 kernel_size: 1 axis: 2", (2, 5, 3)),
    "axis from the end": ("num_output: 4 kernel_size: 3 axis: -2 pad: 1", (2, 3, 4, 6)),
    "axis 0": ("num_output: 4 kernel_size: 3 axis: 0", (3, 6, 7)),
    "no spatial axis": ("num_output: 4 kernel_size: 1", (2, 3)),
    "no spatial axis, groups": ("num_output: 4 kernel_size: 1 group: 2 bias_term: false", (2, 6)),
    "1 spatial axis": ("num_output: 4 kernel_size: 3 stride: 2 pad: 1", (2, 3, 9)),
    "3 spatial axes": ("num_output: 4 kernel_size: 3 stride: 2 pad: 1 dilation: 1", (2, 3, 5, 6, 7)),
    "4 spatial axes": ("num_output: 2 kernel_size: 2 kernel_size: 1 kernel_size: 3 kernel_size: 2", (1, 2, 3, 4, 3, 4)),
}
DECONVOLUTIONS: dict[str, tuple[str, Shape]] = CONVOLUTIONS | {
    "doubles": ("num_output: 4 kernel_size: 4 stride: 2 pad: 1 group: 4", (2, 4, 5, 6)),
    "stride above the kernel": ("num_output: 4 kernel_size: 2 stride: 3", (2, 3, 4, 3)),
}
IM2COLS: dict[str, tuple[str, Shape]] = {
    "plain": ("kernel_size: 3", (2, 3, 6, 7)),
    "all": ("kernel_h: 3 kernel_w: 2 stride: 2 pad_h: 1 pad_w: 2 dilation: 2", (2, 3, 8, 7)),
    "1 tap": ("kernel_size: 1 stride: 2", (2, 3, 8, 7)),
    "1 spatial axis": ("kernel_size: 3 pad: 1", (2, 3, 8)),
    "3 spatial axes": ("kernel_size: 2 stride: 2", (2, 2, 4, 5, 6)),
    "axis 2": ("kernel_size: 2 axis: 2", (2, 2, 3, 4, 5)),
    "axis 0": ("kernel_size: 2 axis: 0", (3, 4, 5)),
}
SHARED = 'param { name: "w" } param { name: "b" } convolution_param { num_output: 3 kernel_size: 3 pad: 1 }'
SAME = "convolution_param { num_output: 3 kernel_size: 3 pad: 1 }"
SEVERAL = {
    "two bottoms": single("Convolution", SAME, (2, 3, 6, 7), (2, 3, 6, 7), tops=2),
    "Deconvolution, two bottoms": single("Deconvolution", SAME, (2, 3, 6, 7), (2, 3, 6, 7), tops=2),
    "shared, two bottoms each": Net(
        layer("Convolution", "x0 x1", "a0 a1", SHARED, "first")
        + layer("Convolution", "a0 a1", "b0 b1", SHARED, "second"),
        [(2, 3, 6, 7), (2, 3, 6, 7)],
    ),
    "in place": Net(layer("Convolution", "x0", "x0", SAME), [(2, 3, 6, 7)]),
    "Deconvolution, in place": Net(layer("Deconvolution", "x0", "x0", SAME), [(2, 3, 6, 7)]),
}
SHORT = {  # The input is shorter than the window, by less than a stride.
    "Convolution, short input": single(
        "Convolution", "convolution_param { num_output: 4 kernel_size: 5 stride: 3 }", (2, 3, 4, 7)
    ),
    "Convolution, short padded input": single(
        "Convolution", "convolution_param { num_output: 4 kernel_size: 7 stride: 3 pad: 1 }", (2, 3, 4, 8)
    ),
    "Im2col, short input": single("Im2col", "convolution_param { kernel_size: 5 stride: 3 }", (2, 3, 4, 7)),
}
NETS = (
    SEVERAL
    | SHORT
    | {
        f"{kind}, {name}": single(kind, f"convolution_param {{ {param} }}", shape, batch="axis: 0" not in param)
        for kind, table in (("Convolution", CONVOLUTIONS), ("Deconvolution", DECONVOLUTIONS), ("Im2col", IM2COLS))
        for name, (param, shape) in table.items()
    }
)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return compare(NETS, tmp_path_factory.mktemp("nets"))


@pytest.mark.parametrize("name", NETS)
def test_a_convolution_computes_what_caffe_computes(results: Results, name: str) -> None:
    assert results[name].error <= 1e-6
    assert not NETS[name].batch or results[f"{name} (dynamic)"].error <= 1e-6


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Convolution, padded, with a stride", ["Conv"]),
        ("Convolution, a group per channel", ["Conv"]),
        ("Convolution, 3 spatial axes", ["Conv"]),
        ("Convolution, axis 2", ["Reshape", "Conv", "Reshape"]),
        ("Convolution, short input", ["Conv"]),
        ("Deconvolution, doubles", ["ConvTranspose"]),
        ("Im2col, 1 spatial axis", ["Pad", "Gather", "Reshape"]),
    ],
)
def test_it_takes_no_more_operators_than_it_must(name: str, expected: list[str], tmp_path: Path) -> None:
    assert operators(NETS[name], tmp_path) == expected


def test_weights_are_those_of_the_file_and_shared_ones_are_there_once(tmp_path: Path) -> None:
    conversion = converted(NETS["shared, two bottoms each"], tmp_path).conversion
    model = formats.load([tmp_path / "net.prototxt", tmp_path / "net.caffemodel"])
    (weight,) = (array for name, array in conversion.initializers.items() if name.endswith("weight"))
    np.testing.assert_array_equal(weight, model.native.weights.arrays(1)[0])
    assert conversion.weights == {"first.weight": Origin("first", 0), "first.bias": Origin("first", 1)}


@pytest.mark.parametrize("kind", ["ConvolutionDepthwise", "DepthwiseConvolution"])
@pytest.mark.parametrize("param", ["", "group: 2 bias_term: false", "stride: 2 pad: 1", "dilation: 2"])
def test_the_forks_depthwise_layers_have_a_group_per_channel(kind: str, param: str, tmp_path: Path) -> None:
    net = single(kind, f"convolution_param {{ num_output: 4 kernel_size: 3 {param} }}", (2, 4, 7, 8))
    assert distance(run(net, tmp_path)["y0"], by_numpy(net, tmp_path, 4, param)) <= 1e-6


def test_the_groups_of_a_cudnn_convolution_are_those_that_it_states(tmp_path: Path) -> None:
    param = "num_output: 6 kernel_size: 3 group: 2"
    net = single("CuDNNGroupedConvolutionForward", f"convolution_param {{ {param} }}", (2, 4, 7, 8))
    assert distance(run(net, tmp_path)["y0"], by_numpy(net, tmp_path, 2, "")) <= 1e-6


def by_numpy(net: Net, folder: Path, groups: int, param: str) -> Array:
    weight, *bias = write(net, folder).native.weights.arrays(0)
    stride, pad, dilation = (
        (2 if f"{word}: 2" in param else 1 if f"{word}: 1" in param else default,) * 2
        for word, default in (("stride", 1), ("pad", 0), ("dilation", 1))
    )
    convolution = Conv2d(weight, bias[0] if bias else None, stride, pad, dilation, groups)
    return convolution.apply(inputs(net)["x0"])


def test_a_depthwise_layer_may_multiply_the_channels(tmp_path: Path) -> None:
    net = single("DepthwiseConvolution", "convolution_param { num_output: 8 kernel_size: 3 }", (2, 4, 7, 8))
    assert distance(run(net, tmp_path)["y0"], by_numpy(net, tmp_path, 4, "")) <= 1e-6


def test_im2col_moves_numbers_that_are_not_finite(tmp_path: Path) -> None:
    net = single("Im2col", "convolution_param { kernel_size: 2 }", (1, 1, 2, 3), values={"x0": not_finite})
    a, b, c, d, e, f = inputs(net)["x0"].reshape(-1)
    np.testing.assert_array_equal(run(net, tmp_path)["y0"].reshape(4, 2), [[a, b], [b, c], [d, e], [e, f]])


def not_finite(_: np.random.Generator, shape: Shape) -> Array:
    return np.array([1, np.inf, np.nan, -np.inf, -0.0, 2], np.float32).reshape(shape)


@pytest.mark.parametrize(
    "text",
    [
        layer("Convolution", "x0", "x0", "convolution_param { num_output: 3 kernel_size: 1 }"),
        layer("Convolution", "x0", "x0", "convolution_param { num_output: 4 kernel_size: 3 pad: 1 }"),
        layer("Deconvolution", "x0", "x0", "convolution_param { num_output: 3 kernel_size: 3 }"),
        layer("Im2col", "x0", "x0", "convolution_param { kernel_size: 1 }"),
    ],
)
def test_what_overwrites_its_input_as_it_reads_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=r"'layer' .*: in place it overwrites"):
        converted(Net(text, [(2, 3, 4, 5)]), tmp_path)


def test_channels_on_a_dynamic_batch_axis_are_refused(tmp_path: Path) -> None:
    net = single("Convolution", "convolution_param { num_output: 2 kernel_size: 3 axis: 0 }", (3, 6, 7))
    with pytest.raises(ConversionError, match="its parameters depend on the batch size; convert with a fixed batch"):
        converted(net, tmp_path, dynamic=True)
