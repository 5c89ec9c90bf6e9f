"""Make ONNX files whose tensors' shapes are stated, run them in ONNX Runtime as they are written, and check them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

Arrays = Mapping[str, np.ndarray]


def run(path: Path, inputs: Arrays) -> dict[str, np.ndarray]:
    """Return the outputs by name."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def random(seed: int = 0, **shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}


def check(path: Path) -> onnx.ModelProto:
    """Return the file as the onnx package reads it; it must pass the full check, shape inference included."""
    onnx.checker.check_model(str(path), full_check=True)
    return onnx.load(path)


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """Relative L2."""
    assert one.shape == other.shape
    return float(np.linalg.norm(one - other) / np.linalg.norm(one))


def stated(path: Path) -> Path:
    """Write into the file what shape inference says of its tensors; the full check asks for the outputs' shapes."""
    path.write_bytes(onnx.shape_inference.infer_shapes(onnx.load(path), data_prop=True).SerializeToString())
    return path
