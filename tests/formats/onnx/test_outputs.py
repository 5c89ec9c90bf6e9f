"""Copies of ONNX files that show more of what runs inside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from surgery.errors import ModelError
from surgery.formats.onnx.outputs import with_outputs
from tests.formats.onnx.engine import random, run
from tests.onnx_nets import node, tiny


def net(folder: Path, ir_version: int = 8) -> Path:
    nodes = [node("MatMul", "x w", "a"), node("Relu", "a", "b"), node("Add", "b c", "y")]
    weights = random(w=(3, 4), c=(4,))
    return tiny(folder, nodes, inputs={"x": (2, 3)}, outputs=["y"], weights=weights, ir_version=ir_version)


def target(folder: Path) -> Path:
    (folder / "out").mkdir()
    return folder / "out" / "tapped.onnx"


@pytest.mark.parametrize("ir_version", [3, 8])
def test_every_tensor_that_a_node_makes_becomes_an_output(ir_version: int, tmp_path: Path) -> None:
    path, copy = net(tmp_path, ir_version=ir_version), target(tmp_path)
    assert with_outputs(path, None, copy) == ("y", "a", "b")
    feed = random(1, x=(2, 3))
    found = run(copy, feed)
    assert list(found) == ["y", "a", "b"]
    np.testing.assert_array_equal(found["y"], run(path, feed)["y"])
    np.testing.assert_array_equal(found["b"], np.maximum(found["a"], 0))


def test_named_tensors_become_outputs_once_and_in_order(tmp_path: Path) -> None:
    copy = target(tmp_path)
    assert with_outputs(net(tmp_path), ["b", "y", "a", "b"], copy) == ("y", "b", "a")
    assert [output.name for output in onnx.load(copy).graph.output] == ["y", "b", "a"]


def test_nothing_more_asked_for_is_a_copy_byte_for_byte(tmp_path: Path) -> None:
    path, copy = net(tmp_path), target(tmp_path)
    assert with_outputs(path, [], copy) == ("y",)
    assert copy.read_bytes() == path.read_bytes()


def test_a_tensor_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has no tensor 'z'"):
        with_outputs(net(tmp_path), ["z"], target(tmp_path))


def test_what_is_no_tensor_is_left_out(tmp_path: Path) -> None:
    nodes = [node("SequenceConstruct", "x x", "s"), node("ConcatFromSequence", "s", "y", axis=0)]
    path = tiny(tmp_path, nodes, inputs={"x": (2, 3)}, outputs=["y"])
    assert with_outputs(path, None, target(tmp_path)) == ("y",)


def test_data_files_come_along(tmp_path: Path) -> None:
    path, copy = net(tmp_path), target(tmp_path)
    feed = random(1, x=(2, 3))
    wanted = run(path, feed)["y"]
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    with_outputs(path, None, copy)
    with_outputs(path, ["a"], copy)  # Once more, over the first.
    np.testing.assert_array_equal(run(copy, feed)["y"], wanted)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "w.bin").write_bytes(b"someone else's")
    with pytest.raises(ModelError, match=r"w\.bin: is in the way of the model's data"):
        with_outputs(path, None, tmp_path / "other" / "tapped.onnx")
    assert (tmp_path / "other" / "w.bin").read_bytes() == b"someone else's"


def test_a_subgraph_is_not_looked_into(tmp_path: Path) -> None:
    out = helper.make_tensor_value_info("inner", 1, None)
    branch = helper.make_graph([helper.make_node("Relu", ["x"], ["inner"])], "g", [], [out])
    nodes = [helper.make_node("If", ["flag"], ["y"], then_branch=branch, else_branch=branch)]
    path = tiny(tmp_path, nodes, inputs={"x": (2, 3)}, outputs=["y"], weights={"flag": np.array(True)})
    assert with_outputs(path, None, target(tmp_path)) == ("y",)
