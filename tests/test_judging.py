"""The judge of the conversion benchmark finds every kind of mistake that it counts, so that nobody's is overlooked."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.shared import REPOSITORY

DATA = np.arange(6, dtype=np.float32).reshape(1, 6)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "io.npz"
    np.savez(path, **{"in:data": DATA, "out:out": DATA + 1, "out:twice": 2 * DATA})
    return path


def graph(
    path: Path, add: str = "data_input", factor: float = 2.0, outputs: Sequence[str] = ("twice_Y", "out")
) -> Path:
    """Write out = data + 1 and twice_Y = factor * data, wrong where the arguments say so."""
    import onnx
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("Add", [add, "one"], ["out"]),
        helper.make_node("Mul", ["data_input", "factor"], ["twice_Y"]),
        helper.make_node("Flatten", ["out"], ["row"], axis=2),
    ]
    constants = [
        helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0]),
        helper.make_tensor("factor", TensorProto.FLOAT, [1], [factor]),
    ]
    made = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("data_input", TensorProto.FLOAT, [1, 6])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        constants,
    )
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def kinds(models: Sequence[Path], archive: Path) -> list[str]:
    """What the judge says, asked as the benchmark asks it: in a process of its own."""
    program = (
        "import sys; from pathlib import Path; from judging import judged\n"
        "print(*[one.kind for one in judged([(Path(p), Path(sys.argv[1])) for p in sys.argv[2:]])])"
    )
    command = [sys.executable, "-c", program, str(archive), *map(str, models)]
    environment = {"PYTHONPATH": str(REPOSITORY / "tools")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_each_kind_of_mistake_is_found(tmp_path: Path, archive: Path) -> None:
    junk = tmp_path / "junk.onnx"
    junk.write_bytes(b"no model")
    models = {
        "right": graph(tmp_path / "right.onnx"),
        "numbers": graph(tmp_path / "numbers.onnx", factor=2.001),
        "outputs": graph(tmp_path / "outputs.onnx", outputs=("out",)),
        "shape": graph(tmp_path / "shape.onnx", outputs=("out", "row")),
        "rejected": junk,
    }
    dangling = graph(tmp_path / "dangling.onnx", add="nothing")
    found = kinds([*models.values(), dangling], archive)
    assert found == [*models, "rejected"]


def test_a_graph_without_nodes_is_called_empty(tmp_path: Path, archive: Path) -> None:
    import onnx

    path = graph(tmp_path / "empty.onnx")
    model = onnx.load(path)
    del model.graph.node[:]
    onnx.save(model, path)
    assert kinds([path], archive) == ["empty"]
