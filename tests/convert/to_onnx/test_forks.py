"""The forks' layers: against a build of Caffe that has them, else against their rules in NumPy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from surgery.convert.to_onnx import to_onnx
from surgery.errors import ConversionError
from surgery.model import Shape
from surgery.runtime import Array, Job
from tests.convert.to_onnx.nets import Net, Results, compare, converted, distance, inputs, positive, single, write
from tests.engines import require_onnxruntime

IMAGE: Shape = (2, 8, 5, 7)

CAFFE_NETS = {
    "relu6": single("ReLU6", "", IMAGE, values={"x0": lambda rng, shape: 5 * rng.standard_normal(shape, np.float32)}),
    "relu6 with a slope": single("ReLU6", "relu6_param { negative_slope: 0.3 threshold: 1.5 }", IMAGE),
    "hard sigmoid": single("HardSigmoid", "", IMAGE),
    "hard sigmoid with parameters": single("HardSigmoid", "hardsigmoid_param { alpha: 0.7 beta: 0.1 }", IMAGE),
    "hard swish": single("HardSwish", "", IMAGE),
    "permute": single("Permute", "permute_param { order: 0 order: 2 order: 3 order: 1 }", IMAGE),
    "permute the batch": single("Permute", "permute_param { order: 1 order: 3 }", IMAGE),
    "permute one axis": single("Permute", "permute_param { order: 2 }", (3, 4, 5, 6, 7)),
    "permute nothing": single("Permute", "permute_param { order: 0 order: 1 }", IMAGE),
    "permute a matrix": single("Permute", "permute_param { order: 1 order: 0 }", (3, 4)),
    "normalize": single("Normalize", "", IMAGE),
    "normalize pixels": single("Normalize", "norm_param { across_spatial: false }", IMAGE),
    "normalize by channel": single("Normalize", "norm_param { across_spatial: false channel_shared: false }", IMAGE),
    "normalize items by channel": single("Normalize", "norm_param { channel_shared: false eps: 0.5 }", IMAGE),
    "normalize vectors": single("Normalize", "norm_param { across_spatial: false channel_shared: false }", (3, 6)),
    "normalize rows": single("Normalize", "norm_param { across_spatial: false }", (3, 6, 4)),
    "pixel shuffle": single("PixelShuffle", "pixelshuffle_param { upscale_factor: 2 }", IMAGE),
    "pixel shuffle by three": single("PixelShuffle", "pixelshuffle_param { upscale_factor: 3 }", (2, 18, 3, 2)),
    "pad": single("Pad", "pad_param { pad_u: 1 pad_d: 2 pad_l: 3 pad_r: 4 pad_value: 0.5 }", IMAGE),
    "pad edges": single("Pad", "pad_param { pad_type: REPLICATE pad_u: 1 pad_d: 2 pad_l: 3 pad_r: 4 }", IMAGE),
    "pad by reflection": single("Pad", "pad_param { pad_type: REFLECT pad_u: 1 pad_d: 4 pad_l: 3 pad_r: 4 }", IMAGE),
    "pad one side": single("Pad", "pad_param { pad_r: 4 }", IMAGE),
    "pad nothing": single("Pad", "pad_param { pad_type: REFLECT }", IMAGE),
    "crop by padding": single("Pad", "pad_param { pad_u: -1 pad_d: -2 pad_l: -3 pad_r: -1 }", IMAGE),
    "upsample": single("Upsample", "upsample_param { scale: 2 }", IMAGE),
    "upsample by three": single("Upsample", "upsample_param { scale: 3 }", (2, 1, 3, 5)),
    "upsample nothing": single("Upsample", "upsample_param { scale: 1 }", IMAGE),
}


@pytest.fixture(scope="module")
def caffes(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return compare(CAFFE_NETS, tmp_path_factory.mktemp("forks"))


@pytest.mark.parametrize("name", [name + dynamic for name in CAFFE_NETS for dynamic in ("", " (dynamic)")])
def test_layers_compute_what_caffe_computes(name: str, caffes: Results) -> None:
    assert caffes[name].error < 1e-6  # A handful of float32 operations, or none.


def broadcast(values: Array, axes: int) -> Array:
    return values.reshape(-1, *(1,) * (axes - 2))


def axpy(blobs: Sequence[Array], a: Array, x: Array, y: Array) -> Array:
    return a.reshape(*x.shape[:2], *(1,) * (x.ndim - 2)) * x + y


def shuffle(blobs: Sequence[Array], x: Array) -> Array:
    n, c, *plane = x.shape
    return x.reshape(n, 4, c // 4, *plane).swapaxes(1, 2).reshape(x.shape)


def pspnet(blobs: Sequence[Array], x: Array) -> Array:
    slope, bias, mean, variance = (broadcast(blob, x.ndim) for blob in blobs)
    return slope * (x - mean) / np.sqrt(variance + 1e-3) + bias


def segnet(blobs: Sequence[Array], x: Array) -> Array:
    scale, shift = (broadcast(blob, x.ndim) for blob in blobs)
    return scale * x + shift


def segnet_learning(blobs: Sequence[Array], x: Array) -> Array:
    deviation = np.sqrt(x.var((0, 2, 3), keepdims=True) + 1e-9)
    return segnet(blobs, (x - x.mean((0, 2, 3), keepdims=True)) / deviation)


def mish(blobs: Sequence[Array], x: Array) -> Array:
    return x * np.tanh(np.log1p(np.exp(x)))


def selu(blobs: Sequence[Array], x: Array) -> Array:
    return 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(x))


PSPNET = "bn_param { eps: 0.001 slope_filler { value: 1 } bias_filler { value: 0 } }"
RULES: dict[str, tuple[Net, Callable[..., Array]]] = {
    "axpy": (single("Axpy", "", (2, 8, 1, 1), IMAGE, IMAGE), axpy),
    "axpy of vectors": (single("Axpy", "", (2, 8), IMAGE, IMAGE), axpy),
    "axpy of matrices": (single("Axpy", "", (2, 8), (2, 8), (2, 8)), axpy),
    "shuffle": (single("ShuffleChannel", "shuffle_channel_param { group: 4 }", IMAGE), shuffle),
    "pspnet's bn": (single("BN", PSPNET, IMAGE, blobs={3: positive}), pspnet),
    "segnet's bn": (single("BN", "bn_param { bn_mode: INFERENCE }", IMAGE), segnet),
    "segnet's bn as it learns": (single("BN", "bn_param { scale_filler { value: 1 } }", IMAGE), segnet_learning),
    "mish": (single("Mish", "", IMAGE), mish),
    "selu": (single("SeLu", "", IMAGE), selu),
}


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize(("opset", "dynamic"), [(13, False), (18, True), (22, False)])
def test_layers_compute_what_their_rules_say(name: str, opset: int, dynamic: bool, tmp_path: Path) -> None:
    net, rule = RULES[name]
    assert distance(*run(net, rule, tmp_path, opset, dynamic)) < 1e-6


def run(net: Net, rule: Callable[..., Array], folder: Path, opset: int, dynamic: bool) -> tuple[Array, Array]:
    """What ONNX Runtime computes, and the rule in double precision."""
    one = converted(net, folder, opset=opset, dynamic=dynamic)
    values = inputs(net, more=int(dynamic))
    (found,) = require_onnxruntime().run(Job([one.path], [values]))
    (native,) = (write(net, folder).native,)
    entry = native.entries("layer")
    blobs = [np.asarray(blob, np.float64) for blob in native.weights.arrays(entry[-1])] if entry else []
    expected = rule([blob.reshape(-1) for blob in blobs], *(value.astype(np.float64) for value in values.values()))
    return found["y0"], expected.astype(np.float32)


@pytest.mark.parametrize(
    ("net", "reason"),
    [
        (single("SeLu", "selu_param { alpha: 1 }", IMAGE), "selu_param"),
        (single("HardSwish", "hardswish_param { alpha: 1 }", IMAGE), "hardswish_param"),
        (single("Upsample", "", IMAGE), "default scale"),
        (single("Upsample", "upsample_param { scale: 2 dims_num: 3 }", IMAGE), "dims_num"),
        (single("Upsample", "upsample_param { scale: 1.5 }", IMAGE), "not whole"),
        (single("Pad", "pad_param { pad_u: 1 pad_l: -1 }", IMAGE), "all negative or none"),
        (single("Pad", "pad_param { pad_type: REFLECT pad_u: 5 }", IMAGE), "reflection"),
    ],
)  # fmt: skip
def test_what_forks_do_in_ways_that_are_not_known_is_refused(net: Net, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=reason):
        to_onnx(write(net, tmp_path))


def test_a_permutation_in_place_is_refused(tmp_path: Path) -> None:
    net = single("Permute", "permute_param { order: 0 order: 1 order: 3 order: 2 }", (1, 2, 3, 3))
    in_place = Net(net.text.replace('top: "y0"', 'top: "x0"'), net.shapes)
    with pytest.raises(ConversionError, match="its top is its bottom"):
        to_onnx(write(in_place, tmp_path))


def test_a_normalize_without_weights_has_its_fillers(tmp_path: Path) -> None:
    net = single("Normalize", "norm_param { scale_filler { type: 'constant' value: 20 } }", IMAGE)
    prototxt, _ = write(net, tmp_path).native.files
    from surgery import formats

    to_onnx(formats.load([prototxt])).save(tmp_path / "filled.onnx")
    (found,) = require_onnxruntime().run(Job([tmp_path / "filled.onnx"], [inputs(net)]))
    norms = np.sqrt((found["y0"] ** 2).sum((1, 2, 3)))
    np.testing.assert_allclose(norms, 20, rtol=1e-5)
