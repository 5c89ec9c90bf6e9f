"""`surgery verify` compares models of any formats in any runtimes, and says where they part."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from surgery.cli import main
from surgery.formats.onnx import encode
from tests.engines import require, require_caffe, require_onnxruntime, require_opencv
from tests.nets import write_net
from tests.runtime.onnx_files import conv_relu, write_onnx

RNG = np.random.default_rng(0)
WEIGHTS = [RNG.standard_normal(shape).astype(np.float32) for shape in ((4, 2, 3, 3), (3, 4, 1, 1))]
PROTOTXT = """layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 1 dim: 2 dim: 5 dim: 5 } } }
layer { name: "c" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 4 kernel_size: 3 bias_term: false } }
layer { name: "r" type: "ReLU" bottom: "conv" top: "relu" }
layer { name: "l" type: "Convolution" bottom: "relu" top: "out"
  convolution_param { num_output: 3 kernel_size: 1 bias_term: false } }
"""


def run(*words: object) -> Result:
    return CliRunner().invoke(main, ["verify", *map(str, words)])


def verify(*words: object, code: int = 0) -> dict[str, Any]:
    result = run(*words, "--json")
    assert result.exit_code == code, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def complaint(*words: object) -> str:
    """The one line of a refusal."""
    result = run(*words)
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr


def caffe_net(folder: Path, text: str = PROTOTXT, *, scale: float = 1.0) -> tuple[Path, Path]:
    """The network of `conv_relu` as Caffe files; `scale` spoils the second convolution."""
    folder.mkdir(exist_ok=True)
    return write_net(folder, text, {"c": [WEIGHTS[0]], "l": [WEIGHTS[1] * np.float32(scale)]})


# ---- across formats ---------------------------------------------------------------------------------------------


def test_caffe_and_onnx_agree_blob_by_blob_in_running_order(tmp_path: Path) -> None:
    require_caffe()
    require_onnxruntime()
    found = verify(*caffe_net(tmp_path), conv_relu(tmp_path / "net.onnx"), "--layers")
    assert [row["blob"] for row in found["blobs"]] == ["conv", "relu", "out"]
    assert all(row["rel_l2"] < 1e-5 for row in found["blobs"])
    assert found["first_difference"] is None
    assert found["runtime"].startswith("Caffe ")
    assert " and ONNX Runtime " in found["runtime"]


@pytest.mark.parametrize("runtimes", ["opencv", "opencv,onnxruntime", "caffe,opencv", "auto,opencv", "onnxruntime"])
def test_any_runtime_for_each(runtimes: str, tmp_path: Path) -> None:
    versions = [require(name).version() for name in runtimes.split(",") if name != "auto"]
    found = verify(*caffe_net(tmp_path), conv_relu(tmp_path / "net.onnx"), "--runtime", runtimes, "--layers")
    assert [row["blob"] for row in found["blobs"]] == ["conv", "relu", "out"]
    assert all(version in found["runtime"] for version in versions)


def test_the_first_blob_where_they_part_is_named_with_its_layer(tmp_path: Path) -> None:
    require_onnxruntime()
    models = conv_relu(tmp_path / "a.onnx"), conv_relu(tmp_path / "b.onnx", scale=1.01)
    found = verify(*models, "--layers", code=1)
    assert found["first_difference"] == "out"
    assert [row["rel_l2"] < 1e-5 for row in found["blobs"]] == [True, True, False]
    assert found["blobs"][2]["rel_l2"] == pytest.approx(0.01, rel=1e-3)
    text = run(*models, "--layers").stdout
    assert "first difference: 'out', made by 'last' (Conv)" in text
    assert verify(*models, "--layers", "--tolerance", 0.02)["first_difference"] is None


def test_a_difference_further_up_is_first_although_it_is_smaller_there(tmp_path: Path) -> None:
    require_onnxruntime()
    paths = []
    for name, shift in (("a", 0.0), ("b", 1.0)):
        nodes = [
            encode.node("Add", ["x", "shift"], ["z"], "early"),
            encode.node("Mul", ["z", "z"], ["y"], "late"),
            encode.node("Mul", ["y", "y"], ["a"], "last"),
        ]
        weights = {"shift": np.array(100 + shift, np.float32)}
        values = {"x": ("float32", [2])}, {"a": ("float32", [2])}
        paths.append(write_onnx(tmp_path / f"{name}.onnx", nodes, *values, weights))
    found = verify(*paths, "--layers", code=1)
    assert [row["blob"] for row in found["blobs"]] == ["z", "y", "a"]
    assert found["first_difference"] == "z"


def test_inputs_and_outputs_pair_by_position_where_names_differ(tmp_path: Path) -> None:
    require_onnxruntime()
    values = {"x/1": ("float32", [2]), "x/2": ("float32", [2])}, {"y": ("float32", [2])}
    first = write_onnx(tmp_path / "a.onnx", [encode.node("Sub", ["x/1", "x/2"], ["y"])], *values)
    values = {"p": ("float32", [2]), "q": ("float32", [2])}, {"r": ("float32", [2])}
    second = write_onnx(tmp_path / "b.onnx", [encode.node("Sub", ["p", "q"], ["r"])], *values)
    found = verify(first, second)
    assert [(row["blob"], row["rel_l2"]) for row in found["blobs"]] == [("y", 0)]
    assert found["notes"] == ["inputs paired by position: x/1 = p, x/2 = q", "outputs paired by position: y = r"]
    assert "note: outputs paired by position: y = r" in run(first, second).stdout
    swapped = write_onnx(tmp_path / "c.onnx", [encode.node("Sub", ["q", "p"], ["r"])], *values)
    assert verify(first, swapped, code=1)["first_difference"] == "y"


def test_channels_last_of_one_model_are_channels_first_of_the_other(tmp_path: Path) -> None:
    require_onnxruntime()
    out = {"y": ("float32", [1, 4, 1, 1])}
    pool = encode.node("GlobalAveragePool", ["t"], ["y"])
    nodes = [encode.node("Transpose", ["x"], ["t"], attributes={"perm": [0, 3, 1, 2]}), pool]
    last = write_onnx(tmp_path / "a.onnx", nodes, {"x": ("float32", [1, 2, 3, 4])}, out)
    nodes = [encode.node("Identity", ["x"], ["t"]), pool]
    first = write_onnx(tmp_path / "b.onnx", nodes, {"x": ("float32", [1, 4, 2, 3])}, out)
    for models, shape, order in (
        ((last, first), (1, 2, 3, 4), "0, 3, 1, 2"),
        ((first, last), (1, 4, 2, 3), "0, 2, 3, 1"),
    ):
        found = verify(*models)
        assert [(row["blob"], row["rel_l2"]) for row in found["blobs"]] == [("y", pytest.approx(0, abs=1e-6))]
        note = f"input 'x', {shape} in the first model, is fed to the second with its axes in the order {order}"
        assert found["notes"] == [note]
    other = write_onnx(tmp_path / "c.onnx", nodes, {"x": ("float32", [1, 4, 3, 2])}, out)
    assert "inputs differ" in complaint(last, other)


def test_an_output_of_one_model_only_is_told(tmp_path: Path) -> None:
    require_onnxruntime()
    nodes = [encode.node("Neg", ["x"], ["y"]), encode.node("Abs", ["x"], ["z"])]
    x, one = {"x": ("float32", [2])}, ("float32", [2])
    both = write_onnx(tmp_path / "a.onnx", nodes, x, {"y": one, "z": one})
    single = write_onnx(tmp_path / "b.onnx", nodes[1:], x, {"z": one})
    found = verify(both, single)
    assert [row["blob"] for row in found["blobs"]] == ["z"]
    assert found["notes"] == ["outputs of one model only, not compared: y"]


def test_a_model_without_fixed_shapes_takes_the_others(tmp_path: Path) -> None:
    require_opencv()
    text = PROTOTXT.replace("dim: 1 dim: 2", "dim: 3 dim: 2")
    nodes = [encode.node("Relu", ["data"], ["out"])]
    values = {"data": ("float32", ["n", "c", "h", "w"])}, {"out": ("float32", ["n", "c", "h", "w"])}
    symbolic = write_onnx(tmp_path / "b.onnx", nodes, *values)
    layers = text.split("\n")[0] + '\nlayer { name: "r" type: "ReLU" bottom: "data" top: "out" }\n'
    (tmp_path / "net.prototxt").write_text(layers, encoding="utf-8")
    found = verify(tmp_path / "net.prototxt", symbolic, "--runtime", "opencv,onnxruntime")
    assert [(row["blob"], row["rel_l2"]) for row in found["blobs"]] == [("out", 0)]


# ---- which runtime ----------------------------------------------------------------------------------------------


def test_a_runtime_that_refuses_a_model_is_followed_by_the_next(tmp_path: Path) -> None:
    """A layer of forks that the build does not have."""
    require_caffe()
    require_opencv()
    files = caffe_net(tmp_path, PROTOTXT + 'layer { name: "k" type: "Mish" bottom: "out" top: "k" }\n')
    found = verify(*files, *files)
    assert not found["runtime"].startswith("Caffe")
    assert "refused by caffe: layer 'k': " in found["notes"][0]
    assert "Unknown layer type: Mish" in found["notes"][0]


def test_where_none_runs_a_model_all_reasons_are_in_one_line(tmp_path: Path) -> None:
    require_caffe()
    require_opencv()
    files = caffe_net(tmp_path, PROTOTXT + 'layer { name: "o" type: "MyOwn" bottom: "out" top: "o" }\n')
    text = complaint(*files, *files)
    assert text.startswith("surgery: no runtime runs both models: caffe: ")
    assert "onnxruntime: " in text
    assert "opencv: " in text


def test_a_named_runtime_is_not_replaced(tmp_path: Path) -> None:
    require_caffe()
    files = caffe_net(tmp_path)
    assert "caffe: runs no ONNX files" in complaint(*files, conv_relu(tmp_path / "n.onnx"), "--runtime", "caffe")
    assert "no runtime 'tpu'; expected auto, caffe" in complaint(*files, *files, "--runtime", "caffe,tpu")
    assert "one for each model" in complaint(*files, *files, "--runtime", "caffe,opencv,caffe")


# ---- inputs -----------------------------------------------------------------------------------------------------


def test_whole_number_inputs_come_from_a_file_in_several_sets(tmp_path: Path) -> None:
    require_onnxruntime()
    values = {"i": ("int64", [2])}, {"y": ("int64", [2])}
    paths = [
        write_onnx(tmp_path / f"{name}.onnx", [encode.node(op, ["i", "i"], ["y"], name)], *values)
        for name, op in (("add", "Add"), ("mul", "Mul"))
    ]
    np.save(tmp_path / "twos.npy", np.array([[0, 2], [2, 0], [2, 2]]))
    np.save(tmp_path / "others.npy", np.array([[1, 2], [3, 4]]))
    same = verify(*paths, "--inputs", tmp_path / "twos.npy")
    assert [(row["max_abs"], row["samples"]) for row in same["blobs"]] == [(0, 3)]
    assert verify(*paths, "--inputs", tmp_path / "others.npy", code=1)["blobs"][0]["max_abs"] == 8
    assert "input 'i' is int64" in complaint(*paths)


def test_files_of_inputs_are_read_without_pickle(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "sprung",)

    model = conv_relu(tmp_path / "a.onnx")
    np.save(tmp_path / "trap.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "trap.npz", data=np.array([Trap()], dtype=object))
    (tmp_path / "junk.npy").write_bytes(b"junk")
    for name in ("trap.npy", "trap.npz", "junk.npy"):
        assert "is not an .npy or .npz file of arrays" in complaint(model, model, "--inputs", tmp_path / name)
    assert not (tmp_path / "sprung").exists()


def test_other_numbers_of_models_are_refused(tmp_path: Path) -> None:
    model = conv_relu(tmp_path / "a.onnx")
    assert "expected two models" in complaint(model)
    assert "found 3" in complaint(model, model, model)
    assert "weights without a model" in complaint(tmp_path / "w.caffemodel", model)


def test_models_with_other_inputs_are_refused(tmp_path: Path) -> None:
    model = conv_relu(tmp_path / "a.onnx")
    nodes, value = [encode.node("Neg", ["x"], ["y"])], ("float32", [7])
    other = write_onnx(tmp_path / "b.onnx", nodes, {"x": value}, {"y": value})
    assert "inputs differ" in complaint(model, other)
