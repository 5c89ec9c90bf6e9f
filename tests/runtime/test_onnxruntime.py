"""ONNX Runtime takes and gives what tensors hold, and Caffe nets under Caffe's names."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from surgery.errors import EngineError
from surgery.formats.onnx import encode
from surgery.formats.wire import encode_bytes
from surgery.runtime import Job, OnnxRuntime
from tests.engines import require_onnxruntime
from tests.runtime.golden import golden_cases
from tests.runtime.onnx_files import conv_relu, write_onnx


@pytest.fixture(scope="module")
def onnxruntime() -> OnnxRuntime:
    return require_onnxruntime()


def test_whole_numbers_stay_whole(onnxruntime: OnnxRuntime, tmp_path: Path) -> None:
    """2^53 + 1 survives neither float32 nor float64."""
    path = write_onnx(
        tmp_path / "net.onnx",
        [encode.node("Add", ["i", "i"], ["twice"]), encode.node("Gather", ["table", "i"], ["rows"])],
        {"i": ("int64", [2])},
        {"twice": ("int64", [2]), "rows": ("int64", [2])},
        {"table": np.array([2**53 + 1, 5, 7], np.int64)},
    )
    (found,) = onnxruntime.run(Job([path], [{"i": np.array([0.0, 2.0])}]))
    assert found["twice"].dtype == found["rows"].dtype == np.int64
    assert found["twice"].tolist() == [0, 4]
    assert found["rows"].tolist() == [2**53 + 1, 7]


@pytest.mark.parametrize("kind", ["float16", "float64", "uint8", "int32", "bool"])
def test_inputs_become_what_the_graph_declares(onnxruntime: OnnxRuntime, tmp_path: Path, kind: str) -> None:
    path = write_onnx(
        tmp_path / "net.onnx", [encode.node("Identity", ["x"], ["y"])], {"x": (kind, [3])}, {"y": (kind, [3])}
    )
    (found,) = onnxruntime.run(Job([path], [{"x": np.array([0, 1, 1], np.float32)}]))
    assert found["y"].dtype == np.dtype(kind)
    assert found["y"].tolist() == [0, 1, 1]


def test_symbolic_sizes_are_the_arrays(onnxruntime: OnnxRuntime, tmp_path: Path) -> None:
    path = conv_relu(tmp_path / "net.onnx", batch="N")
    sets = [{"data": np.ones((n, 2, 5, 5), np.float32)} for n in (1, 4)]
    assert [found["out"].shape for found in onnxruntime.run(Job([path], sets))] == [(1, 3, 3, 3), (4, 3, 3, 3)]


def test_several_named_inputs(onnxruntime: OnnxRuntime, tmp_path: Path) -> None:
    path = write_onnx(
        tmp_path / "net.onnx",
        [encode.node("Sub", ["a/1", "b 2"], ["y"])],
        {"a/1": ("float32", [2]), "b 2": ("float32", [2])},
        {"y": ("float32", [2])},
    )
    first, second = np.array([5, 7], np.float32), np.array([1, 2], np.float32)
    (found,) = onnxruntime.run(Job([path], [{"b 2": second, "a/1": first}]))
    assert found["y"].tolist() == [4, 5]
    for inputs, message in (
        ({"a/1": first}, "input 'b 2' has no array; the net's inputs are 'a/1', 'b 2'"),
        ({"a/1": first, "b 2": second, "c": second}, "the net has no input 'c'; it has 'a/1', 'b 2'"),
        ({"a/1": first, "b 2": np.ones(3, np.float32)}, "invalid dimensions for input: b 2"),
    ):
        with pytest.raises(EngineError, match=message) as caught:
            onnxruntime.run(Job([path], [inputs]))
        assert "\n" not in str(caught.value)


def test_inputs_can_be_asked_for(onnxruntime: OnnxRuntime, tmp_path: Path) -> None:
    value = np.full((1, 2, 5, 5), 3, np.float32)
    path = conv_relu(tmp_path / "net.onnx")
    (found,) = onnxruntime.run(Job([path], [{"data": value}], outputs=["data", "relu"]))
    assert list(found) == ["data", "relu"]
    np.testing.assert_array_equal(found["data"], value)


def test_text_can_be_neither_given_nor_fetched(onnxruntime: OnnxRuntime, tmp_path: Path) -> None:
    """8 is STRING in TensorProto.DataType."""
    value = encode.value_info("x", 8, [1])
    graph = encode_bytes(1, encode.node("Identity", ["x"], ["y"])) + encode.text(2, "net")
    graph += encode_bytes(11, value) + encode_bytes(12, encode.value_info("y", 8, [1]))
    path = tmp_path / "net.onnx"
    path.write_bytes(encode.varint(1, 8) + encode_bytes(7, graph) + encode_bytes(8, encode.opset(13)))
    with pytest.raises(EngineError, match=r"input 'x' is tensor\(string\); only tensors of numbers"):
        onnxruntime.run(Job([path], [{"x": np.ones(1, np.float32)}]))


def test_a_node_that_fails_while_running_is_named(onnxruntime: OnnxRuntime, tmp_path: Path) -> None:
    path = write_onnx(
        tmp_path / "net.onnx",
        [encode.node("Gather", ["table", "i"], ["y"], "look up")],
        {"i": ("int64", [1])},
        {"y": ("float32", [1])},
        {"table": np.ones(3, np.float32)},
    )
    with pytest.raises(EngineError, match="out of") as caught:
        onnxruntime.run(Job([path], [{"i": np.array([9])}]))
    assert caught.value.layer == "look up"
    assert "ONNXRuntimeError" not in str(caught.value)


def test_an_unknown_operator_is_named_and_no_scratch_file_is(onnxruntime: OnnxRuntime, tmp_path: Path) -> None:
    path = write_onnx(
        tmp_path / "net.onnx",
        [encode.node("Convolusion", ["x"], ["y"], "odd")],
        {"x": ("float32", [1])},
        {"y": ("float32", [1])},
    )
    for job in (Job([path], [{"x": np.ones(1)}]), Job([path], [{"x": np.ones(1)}], all_blobs=True)):
        with pytest.raises(EngineError, match="Convolusion") as caught:
            onnxruntime.run(job)
        assert "surgery-" not in str(caught.value)
        assert caught.value.files == (str(path),)


def test_the_caller_never_imports_it(tmp_path: Path) -> None:
    require_onnxruntime()
    path = conv_relu(tmp_path / "net.onnx")
    code = (
        "import sys, numpy as np; from pathlib import Path; from surgery.runtime import ENGINES, Job\n"
        f"engine = ENGINES['onnxruntime']; job = Job([Path({str(path)!r})], [{{'data': np.ones((1, 2, 5, 5))}}])\n"
        "engine.version(); engine.run(job)\n"
        "with engine.timed(job) as passes: passes(1)\n"
        "assert 'onnxruntime' not in sys.modules and 'cv2' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_golden_cases_come_under_caffes_names_in_its_shapes(onnxruntime: OnnxRuntime) -> None:
    """What cannot be converted is an error of one line; whatever runs has all of Caffe's outputs and no other."""
    cases = golden_cases()
    converted = 0
    for case, outcome in zip(cases, onnxruntime.run_jobs([case.job for case in cases]), strict=True):
        if isinstance(outcome, EngineError):
            assert "cannot be converted" in str(outcome)
            assert "\n" not in str(outcome)
            continue
        converted += 1
        shapes = {name: value.shape for name, value in outcome[0].items()}
        assert shapes == {name: value.shape for name, value in case.expected.items()}, case.name
    assert converted >= 0.9 * len(cases)


def test_each_input_set_of_a_caffe_net_has_its_own_shapes(onnxruntime: OnnxRuntime, tmp_path: Path) -> None:
    """In Caffe's order, though sets of the same shapes share a conversion."""
    path = tmp_path / "net.prototxt"
    path.write_text(
        'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 2 } } }\n'
        'layer { name: "twice" type: "Power" bottom: "data" top: "y" power_param { scale: 2 } }\n',
        encoding="utf-8",
    )
    arrays = [np.full(shape, i, np.float32) for i, shape in enumerate([(1, 2), (3, 4), (1, 2)])]
    found = onnxruntime.run(Job([path], [{"data": array} for array in arrays]))
    for array, blobs in zip(arrays, found, strict=True):
        np.testing.assert_array_equal(blobs["y"], 2 * array)


def test_a_layer_without_an_equivalent_is_an_engine_error(onnxruntime: OnnxRuntime, tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(
        'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 2 } } }\n'
        'layer { name: "odd one" type: "MyOwn" bottom: "data" top: "y" }\n',
        encoding="utf-8",
    )
    job = Job([path], [{"data": np.ones((1, 2))}])
    with pytest.raises(EngineError, match=r"onnxruntime: .*net.prototxt: 1 layer cannot be converted: 'odd one'"):
        onnxruntime.run(job)
    with pytest.raises(EngineError, match="'odd one'"), onnxruntime.timed(job):
        pass
