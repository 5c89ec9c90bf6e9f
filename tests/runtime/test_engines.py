"""What holds for every runtime, on every kind of file that it takes."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from surgery.errors import EngineError
from surgery.runtime import ENGINES, Engine, Inputs, Job
from tests.engines import require
from tests.nets import conv_blobs, write_net
from tests.runtime.onnx_files import conv_relu

CASES = [("caffe", "caffe"), ("onnxruntime", "caffe"), ("onnxruntime", "onnx"), ("opencv", "caffe"), ("opencv", "onnx")]
TOLERANCE = 1e-5  # sums of at most 18 terms of float32, in whatever order

PROTOTXT = """layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 2 dim: 5 dim: 5 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 4 kernel_size: 3 } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "relu" }
layer { name: "last" type: "Convolution" bottom: "relu" top: "out" convolution_param { num_output: 3 kernel_size: 1 } }
"""


def files(kind: str, folder: Path) -> tuple[Path, ...]:
    """A net of the blobs data, conv, relu and out."""
    if kind == "onnx":
        return (conv_relu(folder / "net.onnx"),)
    return write_net(folder, PROTOTXT, {"conv": conv_blobs(4, 2, 3, 3), "last": conv_blobs(3, 4, 1, 1, seed=1)})


def samples(count: int) -> list[Inputs]:
    rng = np.random.default_rng(5)
    return [{"data": rng.standard_normal((1, 2, 5, 5)).astype(np.float32)} for _ in range(count)]


@pytest.fixture(params=CASES, ids=[f"{engine}-{kind}" for engine, kind in CASES])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Engine, Job]:
    name, kind = request.param
    return require(name), Job(files(kind, tmp_path), samples(2))


def test_an_input_set_sees_no_trace_of_the_one_before(case: tuple[Engine, Job]) -> None:
    engine, job = case
    together = engine.run(job)
    for inputs, found in zip(job.inputs, together, strict=True):
        (alone,) = engine.run(replace(job, inputs=[inputs]))
        assert list(found) == list(alone) == ["out"]
        np.testing.assert_array_equal(found["out"], alone["out"])
    assert not np.array_equal(together[0]["out"], together[1]["out"])


def test_all_blobs_come_in_running_order_and_named_ones_are_the_same(case: tuple[Engine, Job]) -> None:
    engine, job = case
    every = engine.run(replace(job, all_blobs=True))
    assert [name for name in every[0] if name != "data"] == ["conv", "relu", "out"]
    for found, named in zip(every, engine.run(replace(job, outputs=["relu", "conv"])), strict=True):
        assert list(named) == ["relu", "conv"]
        np.testing.assert_array_equal(named["relu"], np.maximum(named["conv"], 0))
        for name, value in named.items():
            np.testing.assert_array_equal(found[name], value)


def test_several_threads_compute_the_same(case: tuple[Engine, Job]) -> None:
    engine, job = case
    for one, two in zip(engine.run(job), engine.run(job, threads=2), strict=True):
        np.testing.assert_allclose(one["out"], two["out"], rtol=TOLERANCE, atol=TOLERANCE)


def test_inputs_of_other_number_types_are_converted(case: tuple[Engine, Job]) -> None:
    engine, job = case
    whole = np.arange(50).reshape(1, 2, 5, 5) % 7
    kinds = ("float32", "float64", "int64", "uint8")
    results = engine.run(replace(job, inputs=[{"data": whole.astype(kind)} for kind in kinds]))
    for found in results[1:]:
        np.testing.assert_array_equal(found["out"], results[0]["out"])


def test_arrays_in_fortran_order_are_the_same_inputs(case: tuple[Engine, Job]) -> None:
    engine, job = case
    value = job.inputs[0]["data"]
    first, second = engine.run(replace(job, inputs=[{"data": value}, {"data": np.asfortranarray(value)}]))
    np.testing.assert_array_equal(first["out"], second["out"])


def test_a_timed_net_answers_with_seconds_and_ends(case: tuple[Engine, Job]) -> None:
    engine, job = case
    with engine.timed(job) as passes:
        passes(1)
        few, many = min(passes(20) for _ in range(3)), min(passes(2000) for _ in range(3))
    assert 0 < 5 * few < many  # A hundred times as many passes; another process may have taken most of the time of few.
    with pytest.raises((EngineError, ValueError)):
        passes(1)


def test_a_job_that_fails_ends_only_itself(case: tuple[Engine, Job], tmp_path: Path) -> None:
    engine, job = case
    junk = tmp_path / ("junk" + job.files[0].suffix)
    junk.write_bytes(b"\xff\xffjunk {" * 9)
    before, between, after = engine.run_jobs([job, Job([junk, *job.files[1:]], job.inputs), job])
    assert isinstance(between, EngineError)
    assert between.exit_code == 2
    assert "\n" not in str(between)
    assert "junk" in str(between)
    for outcome in (before, after):
        assert not isinstance(outcome, EngineError)
        assert outcome[0]["out"].shape == (1, 3, 3, 3)


def test_a_file_that_is_not_there_is_named(case: tuple[Engine, Job]) -> None:
    engine, job = case
    gone = job.files[0].with_name("gone" + job.files[0].suffix)
    with pytest.raises(EngineError, match=r"no such file .*gone"):
        engine.run(replace(job, files=[gone, *job.files[1:]]))
    with pytest.raises(EngineError, match=r"no such file .*gone"), engine.timed(replace(job, files=[gone])):
        pass


def test_an_unknown_blob_is_named(case: tuple[Engine, Job]) -> None:
    engine, job = case
    with pytest.raises(EngineError, match="'nothing'"):
        engine.run(replace(job, outputs=["out", "nothing"]))


def test_nothing_is_written_into_the_caller(case: tuple[Engine, Job], capfd: pytest.CaptureFixture[str]) -> None:
    engine, job = case
    engine.run(job)
    engine.run_jobs([Job([job.files[0]], [{"data": np.zeros((9, 9))}])])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", ["caffe", "onnx"])
def test_all_runtimes_agree(kind: str, tmp_path: Path) -> None:
    job = Job(files(kind, tmp_path), samples(2), all_blobs=True)
    found = {name: require(name).run(job) for name, own in CASES if own == kind}
    reference = found.pop("onnxruntime")
    for results in found.values():
        for expected, blobs in zip(reference, results, strict=True):
            for name in ("conv", "relu", "out"):
                np.testing.assert_allclose(blobs[name], expected[name], rtol=TOLERANCE, atol=TOLERANCE)


def test_caffe_refuses_onnx_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="caffe: runs no ONNX files; choose onnxruntime or opencv") as caught:
        require("caffe").run(Job(files("onnx", tmp_path), samples(1)))
    assert "\n" not in str(caught.value)


def test_every_engine_is_tried_here() -> None:
    assert {name for name, _ in CASES} == set(ENGINES)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="jobs share a process only where there is fork")
def test_a_runtime_that_aborts_takes_down_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for ONNX Runtime aborts at one file and refuses the other."""
    engine = require("onnxruntime")
    (tmp_path / "onnxruntime.py").write_text(
        "import os\n"
        "def __getattr__(name):\n"
        "    return lambda *arguments, **more: None\n"
        "class SessionOptions:\n"
        "    add_session_config_entry = staticmethod(lambda *arguments: None)\n"
        "class ExecutionMode:\n"
        "    ORT_SEQUENTIAL = 0\n"
        "class GraphOptimizationLevel:\n"
        "    ORT_DISABLE_ALL = ORT_ENABLE_ALL = 0\n"
        "def InferenceSession(path, *arguments, **more):\n"
        "    print('EP Error', flush=True)\n"
        "    if 'bad' in path:\n"
        "        os.abort()\n"
        "    raise RuntimeError('[ONNXRuntimeError] : 1 : FAIL : /src/core/graph.cc:7 what it dislikes')\n",
        encoding="utf-8",
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    jobs = [Job([conv_relu(tmp_path / f"{name}.onnx")], samples(1)) for name in ("bad", "good")]
    bad, good = engine.run_jobs(jobs)
    assert str(bad).startswith("onnxruntime: stopped by SIGABRT: ")
    assert str(bad).endswith(f" ({tmp_path}/bad.onnx)")
    assert str(good) == f"onnxruntime: what it dislikes ({tmp_path}/good.onnx)"
    for job, message in zip(jobs, ("SIGABRT", "what it dislikes"), strict=True):
        with pytest.raises(EngineError, match=message), engine.timed(job):
            pass
