"""Every operator that becomes Caffe layers, in real Caffe against ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from surgery.convert.to_caffe import ToCaffe, to_caffe
from surgery.errors import EngineError
from surgery.formats.onnx.onnx import load
from surgery.runtime.engine import Job
from tests.convert.to_caffe.operators import CASES, Case
from tests.engines import require_caffe, require_opencv

Results = dict[str, tuple[ToCaffe, list[dict[str, np.ndarray]] | EngineError]]


def expected(path: Path, inputs: dict[str, np.ndarray], outputs: list[str]) -> dict[str, np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Its own fusion takes the zeros of a Pad before a MaxPool for padding, which never wins.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return dict(zip(outputs, session.run(outputs, inputs), strict=True))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Every case converted, and run on two inputs in one start of Caffe."""
    caffe = require_caffe()
    conversions, jobs = [], []
    for i, case in enumerate(CASES.values()):
        folder = tmp_path_factory.mktemp(f"case{i}")
        conversion = to_caffe(load(case.write(folder, "net")))
        files = conversion.save(folder, "net")
        jobs.append(Job(files, [case.inputs(seed) for seed in (1, 2)]))
        conversions.append(conversion)
    outcomes = caffe.run_jobs(jobs)
    return dict(zip(CASES, zip(conversions, outcomes, strict=True), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_caffe_computes_what_onnx_runtime_computes(name: str, results: Results, tmp_path: Path) -> None:
    case: Case = CASES[name]
    _, found = results[name]
    assert not isinstance(found, EngineError), found
    path = case.write(tmp_path, "net")
    for seed, blobs in zip((1, 2), found, strict=True):
        wanted = expected(path, case.inputs(seed), list(case.outputs))
        assert blobs.keys() == wanted.keys()
        for output, value in wanted.items():
            assert blobs[output].shape == value.shape
            # 1e-5 relative: sums of a few hundred float32 terms in another order.
            assert np.linalg.norm(blobs[output] - value) <= 1e-5 * np.linalg.norm(value), output


# What OpenCV's importer of Caffe computes otherwise than Caffe, of the cases that it loads.
OPENCV_DIFFERS = {
    "ConvTranspose dilated": "it ignores a Deconvolution's dilation",
    "InstanceNormalization": "it knows stored statistics only",
    "LRN": "it ignores k",
}


def test_opencv_computes_the_same_wherever_it_loads_the_network(tmp_path: Path) -> None:
    caffe, opencv = require_caffe(), require_opencv()
    jobs = []
    for i, case in enumerate(CASES.values()):
        files = to_caffe(load(case.write(tmp_path, f"net{i}"))).save(tmp_path, f"net{i}")
        jobs.append(Job(files, [case.inputs(1)], list(case.outputs)))
    pairs = zip(CASES, caffe.run_jobs(jobs), opencv.run_jobs(jobs), strict=True)
    loaded = {name: (wanted, found) for name, wanted, found in pairs if not isinstance(found, EngineError)}
    differing = {
        name
        for name, (wanted, found) in loaded.items()
        if not isinstance(wanted, EngineError) and not alike(wanted[0], found[0])
    }
    assert differing == OPENCV_DIFFERS.keys()
    assert len(loaded) > 0.75 * len(CASES)


def alike(wanted: dict[str, np.ndarray], found: dict[str, np.ndarray]) -> bool:
    # OpenCV gives a tensor of no axes one.
    return all(
        found[name].size == value.size
        and np.linalg.norm(found[name].reshape(-1) - value.reshape(-1)) <= 1e-4 * np.linalg.norm(value)
        for name, value in wanted.items()
    )
