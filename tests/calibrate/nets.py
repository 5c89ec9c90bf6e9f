"""A network with all that stands between a layer and its statistics, and what brute force says of its layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from surgery.formats import Source
from surgery.model import Model, Refusal
from surgery.ops import Conv2d, Op
from surgery.runtime import Job, OnnxRuntime
from tests.nets import conv_blobs, dense_blobs, write_net

SHAPE = (3, 9, 8)
KEYS = ("conv1", "left", "right", "joined", "ip")
BOTTOMS = {"conv1": "data", "left": "conv1", "right": "conv1", "joined": "both", "ip": "joined"}
TEXT = """
input: "data" input_dim: 1 input_dim: 3 input_dim: 9 input_dim: 8
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param { num_output: 8 kernel_size: 3 pad: 1 } }
layer { name: "bn" type: "BatchNorm" bottom: "conv1" top: "conv1" }
layer { name: "scale" type: "Scale" bottom: "conv1" top: "conv1" scale_param { bias_term: true } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "left" type: "Convolution" bottom: "conv1" top: "left"
  convolution_param { num_output: 6 kernel_size: 1 bias_term: false } }
layer { name: "relu2" type: "ReLU" bottom: "left" top: "left" }
layer { name: "right" type: "Convolution" bottom: "conv1" top: "right"
  convolution_param { num_output: 8 kernel_size: 3 pad: 2 dilation: 2 group: 2 } }
layer { name: "both" type: "Concat" bottom: "left" bottom: "right" top: "both" }
layer { name: "joined" type: "Convolution" bottom: "both" top: "joined"
  convolution_param { num_output: 7 kernel_h: 3 kernel_w: 2 stride_h: 2 stride_w: 1 pad_h: 1 pad_w: 0 } }
layer { name: "ip" type: "InnerProduct" bottom: "joined" top: "ip" inner_product_param { num_output: 12 } }
layer { name: "prob" type: "Softmax" bottom: "ip" top: "prob" }
"""


def net(folder: Path) -> Source:
    """Write the network."""
    rng = np.random.default_rng(5)
    blobs = {
        "conv1": conv_blobs(8, 3, 3, 3, seed=1),
        "bn": [rng.standard_normal(8).astype("f"), rng.uniform(0.5, 2, 8).astype("f"), np.array([2], "f")],
        "scale": [rng.uniform(-2, 2, 8).astype("f"), rng.standard_normal(8).astype("f")],
        "left": conv_blobs(6, 8, 1, 1, seed=2, bias=False),
        "right": conv_blobs(8, 4, 3, 3, seed=3),
        "joined": conv_blobs(7, 14, 3, 2, seed=4),
        "ip": dense_blobs(12, 7 * 5 * 7, seed=5),
    }
    return Source(write_net(folder, TEXT, blobs))


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, *SHAPE), dtype=np.float32)


def saved(folder: Path, array: np.ndarray) -> Path:
    path = folder / "images.npy"
    np.save(path, array)
    return path


def op_of(model: Model, key: str) -> Op:
    op = model.format.lift(model, model.node(key))
    assert not isinstance(op, Refusal)
    return op


def blobs_of(files: Sequence[Path], data: np.ndarray, name: str = "data") -> list[Mapping[str, np.ndarray]]:
    """Every blob of the network, image by image."""
    job = Job(files, [{name: image[None]} for image in data], all_blobs=True)
    inputs = [{name: image[None]} for image in data]
    return [blobs | own for blobs, own in zip(OnnxRuntime().run(job), inputs, strict=True)]


def columns(op: Op, x: np.ndarray) -> np.ndarray:
    """All patches (positions, groups, n) of one image (1, ...), unfolded one by one."""
    if not isinstance(op, Conv2d):
        return x.reshape(-1, 1, op.in_channels)
    (ph, pw), (sh, sw), (dh, dw), (kh, kw) = op.padding, op.stride, op.dilation, op.kernel
    padded = np.pad(x[0], ((0, 0), (ph, ph), (pw, pw)))
    found = [
        padded[:, i : i + dh * (kh - 1) + 1 : dh, j : j + dw * (kw - 1) + 1 : dw]
        for i in range(0, padded.shape[1] - dh * (kh - 1), sh)
        for j in range(0, padded.shape[2] - dw * (kw - 1), sw)
    ]
    return np.stack(found).reshape(len(found), op.groups, -1)


def outputs(op: Op, x: np.ndarray) -> np.ndarray:
    """The layer's outputs (positions, out) of one image."""
    y = op.apply(x.reshape(1, -1) if not isinstance(op, Conv2d) else x)
    return y.reshape(*y.shape[:2], -1)[0].T if y.ndim == 4 else y
