"""Small ONNX files for the runtimes: any element type, and outputs with shapes, which OpenCV insists on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from surgery.formats.onnx import encode
from surgery.formats.wire import encode_bytes

Value = tuple[str, Sequence[int | str]]  # element type as NumPy calls it, shape


def write_onnx(
    path: Path,
    nodes: Sequence[bytes],
    inputs: Mapping[str, Value],
    outputs: Mapping[str, Value],
    weights: Mapping[str, np.ndarray] | None = None,
) -> Path:
    """Write a model of these nodes (see `surgery.formats.onnx.encode.node`), opset 13."""
    graph = b"".join(encode_bytes(1, node) for node in nodes) + encode.text(2, "net")
    graph += b"".join(encode_bytes(5, encode.tensor(name, array)) for name, array in (weights or {}).items())
    for number, values in ((11, inputs), (12, outputs)):
        for name, (kind, shape) in values.items():
            graph += encode_bytes(number, encode.value_info(name, encode.DATA_TYPES[kind], shape))
    path.write_bytes(encode.varint(1, 8) + encode_bytes(7, graph) + encode_bytes(8, encode.opset(13)))
    return path


def conv_relu(path: Path, *, batch: int | str = 1, scale: float = 1.0) -> Path:
    """Write data (batch, 2, 5, 5) -> conv 3x3 -> relu -> conv 1x1 -> out (batch, 3, 3, 3)."""
    rng = np.random.default_rng(0)
    first, second = (rng.standard_normal(shape).astype(np.float32) for shape in ((4, 2, 3, 3), (3, 4, 1, 1)))
    nodes = [
        encode.node("Conv", ["data", "w1"], ["conv"], "conv", {"kernel_shape": [3, 3]}),
        encode.node("Relu", ["conv"], ["relu"], "relu"),
        encode.node("Conv", ["relu", "w2"], ["out"], "last", {"kernel_shape": [1, 1]}),
    ]
    weights = {"w1": first, "w2": second * np.float32(scale)}
    return write_onnx(
        path, nodes, {"data": ("float32", [batch, 2, 5, 5])}, {"out": ("float32", [batch, 3, 3, 3])}, weights
    )
