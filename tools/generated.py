"""The networks that the benchmarks generate, with seeded random weights, kept in the user's cache folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np
from measuring import CACHE
from numpy.typing import NDArray

from surgery.formats.caffe import binary

Array = NDArray[np.float32]

DENSE = (("fc6", 4096, 25088), ("fc7", 4096, 4096), ("fc8", 1000, 4096))
_VGG = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # channels, convolutions
_RESNET = ((32, 3), (64, 4), (128, 6), (256, 3))  # channels of the 3 x 3 convolutions, blocks: ResNet-50 by half
_CLASSES = 2

_PARAM = {
    "BatchNorm": "batch_norm_param",
    "Convolution": "convolution_param",
    "InnerProduct": "inner_product_param",
    "Pooling": "pooling_param",
    "Scale": "scale_param",
}


def generated(name: str, write: Callable[[Path, Path], None]) -> tuple[Path, Path]:
    """Return the files of a generated net, made once."""
    CACHE.mkdir(parents=True, exist_ok=True)
    prototxt, weights = CACHE / f"{name}.prototxt", CACHE / f"{name}.caffemodel"
    if not prototxt.exists():
        write(prototxt.with_suffix(".new"), weights)
        prototxt.with_suffix(".new").rename(prototxt)
    return prototxt, weights


def write_vgg(prototxt: Path, weights: Path) -> None:
    """Write VGG-16, 553 MB."""
    rng = np.random.default_rng(0)
    lines = ['input: "data"', "input_shape { dim: 1 dim: 3 dim: 224 dim: 224 }"]
    bottom, channels = "data", 3
    with weights.open("wb") as file:
        for stage, (outputs, count) in enumerate(_VGG, 1):
            for i in range(1, count + 1):
                name = f"conv{stage}_{i}"
                lines.append(_layer("Convolution", name, bottom, f"num_output: {outputs} pad: 1 kernel_size: 3"))
                lines.append(_layer("ReLU", f"relu{stage}_{i}", name, top=name))
                _add_biased(file, "Convolution", name, rng.standard_normal((outputs, channels, 3, 3), np.float32))
                bottom, channels = name, outputs
            lines.append(_layer("Pooling", f"pool{stage}", bottom, "pool: MAX kernel_size: 2 stride: 2"))
            bottom = f"pool{stage}"
        for name, outputs, inputs in DENSE:
            lines.append(_layer("InnerProduct", name, bottom, f"num_output: {outputs}"))
            _add_biased(file, "InnerProduct", name, rng.standard_normal((outputs, inputs), np.float32))
            bottom = name
    prototxt.write_text("\n".join(lines) + "\n")


def write_thousand(prototxt: Path, weights: Path) -> None:
    """Write a net of 1000 layers in a row, convolutions and what stands behind them, 100 MB of weights."""
    rng = np.random.default_rng(0)
    lines = ['input: "data"', "input_shape { dim: 1 dim: 100 dim: 14 dim: 14 }"]
    bottom = "data"
    with weights.open("wb") as file:
        for i in range(250):
            name = f"conv{i}"
            lines += [
                _layer("Convolution", name, bottom, "num_output: 100 pad: 1 kernel_size: 3"),
                _layer("BatchNorm", f"batchnorm{i}", name, top=name),
                _layer("Scale", f"scale{i}", name, "bias_term: true", top=name),
                _layer("ReLU", f"relu{i}", name, top=name),
            ]
            _add_biased(file, "Convolution", name, rng.standard_normal((100, 100, 3, 3), np.float32) / np.float32(30))
            _add_biased(file, "Scale", f"scale{i}", np.ones(100, np.float32))
            bottom = name
    prototxt.write_text("\n".join(lines) + "\n")


def write_resnet(prototxt: Path, weights: Path) -> None:
    """Write ResNet-50 with half the channels and two classes, 24 MB: the size that converters were timed on before."""
    with weights.open("wb") as file:
        net = _ResNet(file)
        power = net.convolution("conv1", "data", 3, 64, kernel=7, stride=2, power=1.0)
        net.relu("conv1")
        net.lines.append(_layer("Pooling", "pool1", "conv1", "pool: MAX kernel_size: 3 stride: 2"))
        bottom, channels = "pool1", 64
        for stage, (width, blocks) in enumerate(_RESNET, 2):
            for i in range(blocks):
                stride = 2 if stage > 2 and i == 0 else 1
                power = net.block(f"res{stage}{'abcdef'[i]}", bottom, channels, width, stride, power)
                bottom, channels = f"res{stage}{'abcdef'[i]}", 4 * width
        net.lines.append(_layer("Pooling", "pool5", bottom, "pool: AVE kernel_size: 7 stride: 1"))
        net.lines.append(_layer("InnerProduct", "fc", "pool5", f"num_output: {_CLASSES}"))
        _add_biased(file, "InnerProduct", "fc", net.normal((_CLASSES, channels), 1 / channels))
        net.lines.append(_layer("Softmax", "prob", "fc"))
    prototxt.write_text("\n".join(net.lines) + "\n")


class _ResNet:
    """The layers of a ResNet as they are written; `power` is always the mean square of what goes in or comes out.

    Following it gives every BatchNorm the variance that it would have measured, so that nothing dies or blows up.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.rng = np.random.default_rng(0)
        self.lines = [
            'name: "ResNet-50-1by2"',
            'layer { name: "data" type: "Input" top: "data"',
            "  input_param { shape { dim: 1 dim: 3 dim: 224 dim: 224 } } }",
        ]

    def normal(self, shape: tuple[int, ...], variance: float) -> Array:
        return self.rng.standard_normal(shape, np.float32) * np.float32(np.sqrt(variance))

    def relu(self, blob: str) -> None:
        self.lines.append(_layer("ReLU", f"{blob}_relu", blob, top=blob))

    def convolution(
        self,
        name: str,
        bottom: str,
        inputs: int,
        outputs: int,
        *,
        kernel: int,
        power: float,
        stride: int = 1,
        gain: float = 1.0,
    ) -> float:
        """Add a convolution with its BatchNorm and Scale; return the power behind its ReLU."""
        geometry = f"kernel_size: {kernel} stride: {stride} pad: {kernel // 2}"
        self.lines += [
            _layer("Convolution", name, bottom, f"num_output: {outputs} bias_term: false {geometry}"),
            _layer("BatchNorm", f"{name}_bn", name, "use_global_stats: true", top=name),
            _layer("Scale", f"{name}_scale", name, "bias_term: true", top=name),
        ]
        factor = np.float32(1000)  # Caffe divides the statistics by it.
        variance = 2 * power * (0.8 + 0.4 * self.rng.random(outputs, np.float32))
        _add(self.file, "Convolution", name, self.normal((outputs, inputs, kernel, kernel), 2 / (inputs * kernel**2)))
        statistics = (factor * self.normal((outputs,), 0.01), factor * variance, np.array([factor]))
        _add(self.file, "BatchNorm", f"{name}_bn", *statistics)
        scale = np.float32(gain) * (0.8 + 0.4 * self.rng.random(outputs, np.float32))
        _add(self.file, "Scale", f"{name}_scale", scale, self.normal((outputs,), 0.01))
        return gain**2 / 2

    def block(self, name: str, bottom: str, inputs: int, width: int, stride: int, power: float) -> float:
        """Add a bottleneck block whose output is `name`; return its power."""
        shortcut, carried = bottom, power
        if inputs != 4 * width:
            shortcut = f"{name}_short"
            carried = self.convolution(shortcut, bottom, inputs, 4 * width, kernel=1, stride=stride, power=power)
        first, second, third = (f"{name}_{branch}" for branch in "abc")
        inner = self.convolution(first, bottom, inputs, width, kernel=1, stride=stride, power=power)
        self.relu(first)
        inner = self.convolution(second, first, width, width, kernel=3, power=inner)
        self.relu(second)
        added = self.convolution(third, second, width, 4 * width, kernel=1, power=inner, gain=0.3)
        bottoms = f'bottom: "{shortcut}" bottom: "{third}"'
        self.lines.append(f'layer {{ name: "{name}" type: "Eltwise" {bottoms} top: "{name}" }}')
        self.relu(name)
        return carried + added


def _layer(kind: str, name: str, bottom: str, param: str = "", *, top: str | None = None) -> str:
    """Return a layer with one bottom, whose top is called like the layer unless said otherwise."""
    block = f" {_PARAM[kind]} {{ {param} }}" if param else ""
    return f'layer {{ name: "{name}" type: "{kind}" bottom: "{bottom}" top: "{top or name}"{block} }}'


def _add_biased(file: IO[bytes], kind: str, name: str, weight: Array) -> None:
    """Append a layer's weight and a zero bias to a caffemodel."""
    _add(file, kind, name, weight, np.zeros(len(weight), np.float32))


def _add(file: IO[bytes], kind: str, name: str, *blobs: Array) -> None:
    """Append a layer's blobs to a caffemodel."""
    for piece in binary.NewLayer(name, binary.head(name, kind, (), (), 2), 2, blobs).encode():
        file.write(piece if isinstance(piece, bytes) else piece.data)
