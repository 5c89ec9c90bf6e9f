"""Names, text and weights of a converted network."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from surgery.convert.to_caffe import to_caffe
from surgery.formats import load
from tests.convert.to_caffe.operators import ints, normal
from tests.onnx_nets import node, tiny

BEFORE = [
    node("Conv", "data w b", "conv1", "c", kernel_shape=[3, 3], pads=[0, 0, 1, 1], strides=[2, 2]),
    node("BatchNormalization", "conv1 s t m v", "bn1"),
    node("Clip", "bn1 low high", "relu6"),
    node("MaxPool", "relu6", "pool1", kernel_shape=[2, 2], strides=[2, 2]),
    node("Reshape", "pool1 shape", "flat"),
    node("MatMul", "flat d", "fc", "dense"),
    node("Add", "fc e", "logits"),
]
AFTER = """\
name: "net"
layer {
  name: "data"
  type: "Input"
  top: "data"
  input_param {
    shape { dim: 1 dim: 3 dim: 10 dim: 10 }
  }
}
layer {
  name: "c_1"
  type: "Convolution"
  bottom: "data"
  top: "c_1"
  convolution_param {
    num_output: 4
    kernel_size: 3
    stride: 2
    pad: 2
  }
}
layer {
  name: "c_2"
  type: "Slice"
  bottom: "c_1"
  top: "c_2"
  top: "c_3"
  slice_param {
    axis: 2
    slice_point: 1
  }
}
layer {
  name: "c"
  type: "Slice"
  bottom: "c_3"
  top: "c_4"
  top: "conv1"
  slice_param {
    axis: 3
    slice_point: 1
  }
}
"""


def weights() -> dict[str, np.ndarray]:
    return {
        "w": normal(4, 3, 3, 3),
        "b": normal(4),
        **{key: np.abs(normal(4, seed=i)) for i, key in enumerate("stmv")},
        "low": np.float32(0),
        "high": np.float32(6),
        "shape": ints(0, -1),
        "d": normal(16, 5),
        "e": normal(5),
    }


def test_names_and_text(tmp_path: Path) -> None:
    path = tiny(tmp_path, BEFORE, inputs={"data": ("N", 3, 10, 10)}, outputs=["logits"], weights=weights())
    conversion = to_caffe(load([path]))
    assert conversion.prototxt().startswith(AFTER)
    assert conversion.tensors == {name: name for name in ("data", "conv1", "bn1", "relu6", "pool1", "logits")}
    assert [(each.name, each.type) for each in conversion.layers[4:]] == [
        ("bn1_1", "BatchNorm"),
        ("bn1", "Scale"),
        ("relu6_1", "ReLU"),
        ("relu6_2", "Power"),
        ("relu6_3", "ReLU"),
        ("relu6", "Power"),
        ("pool1_1", "Pooling"),
        ("pool1_2", "Slice"),
        ("pool1", "Slice"),
        ("dense", "InnerProduct"),
        ("silence", "Silence"),
    ]


def test_saved_weights_are_those_of_the_graph(tmp_path: Path) -> None:
    given = weights()
    path = tiny(tmp_path, BEFORE, inputs={"data": ("N", 3, 10, 10)}, outputs=["logits"], weights=given)
    files = to_caffe(load([path])).save(tmp_path, "out")
    assert [file.name for file in files] == ["out.prototxt", "out.caffemodel"]
    model = load(files)
    op = model.format.lift(model, model.node("dense"))
    np.testing.assert_array_equal(op.weight, given["d"].T)
    np.testing.assert_array_equal(op.bias, given["e"])


def test_channel_last_input_is_taken_transposed(tmp_path: Path) -> None:
    nodes = [node("Sub", "x mean", "y"), node("Transpose", "y", "a", perm=[0, 3, 1, 2]), node("Conv", "a w", "z")]
    values = {"mean": normal(3), "w": normal(4, 3, 3, 3)}
    path = tiny(tmp_path, nodes, inputs={"x": (1, 8, 9, 3)}, outputs=["z"], weights=values)
    conversion = to_caffe(load([path]))
    assert conversion.inputs == {"x": (0, 3, 1, 2)}
    assert conversion.layers[0].params == {"shape": {"dim": (1, 3, 8, 9)}}
    assert [each.type for each in conversion.layers] == ["Input", "Scale", "Convolution"]
    assert conversion.notes == (
        "input 'x' is fed with its axes in the order 0, 3, 1, 2: the transpose of the exporter is folded away",
    )


def test_input_with_another_use_stays_as_it_is(tmp_path: Path) -> None:
    nodes = [node("Transpose", "x", "a", perm=[0, 3, 1, 2]), node("Relu", "x", "z")]
    path = tiny(tmp_path, nodes, inputs={"x": (1, 8, 9, 3)}, outputs=["a", "z"])
    conversion = to_caffe(load([path]))
    assert conversion.inputs == {}
    assert conversion.layers[0].params == {"shape": {"dim": (1, 8, 9, 3)}}


def test_same_file_gives_the_same_bytes(tmp_path: Path) -> None:
    path = tiny(tmp_path, BEFORE, inputs={"data": ("N", 3, 10, 10)}, outputs=["logits"], weights=weights())
    first, second = (to_caffe(load([path])).save(tmp_path, stem) for stem in ("one", "two"))
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]


def test_conversion_needs_neither_onnx_nor_a_runtime(tmp_path: Path) -> None:
    path = tiny(tmp_path, [node("Relu", "x", "z")], inputs={"x": (1, 2)}, outputs=["z"])
    program = (
        "import sys; from pathlib import Path; from surgery.formats import load; "
        "from surgery.convert.to_caffe import to_caffe; "
        f"to_caffe(load([Path({str(path)!r})])).save(Path({str(tmp_path)!r}), 'out'); "
        "print([name for name in ('onnx', 'onnxruntime', 'cv2', 'google.protobuf') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
