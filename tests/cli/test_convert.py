"""`surgery convert` as a person types it: both directions, what it says, and what it leaves behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result

from surgery.cli import main
from tests.engines import require_caffe, require_onnxruntime
from tests.formats.caffe.test_fold import norm_blobs
from tests.nets import conv_blobs, write_net
from tests.onnx_nets import node, tiny

PROTOTXT = """layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 6 dim: 5 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 8 kernel_size: 3 bias_term: false } }
layer { name: "norm" type: "BatchNorm" bottom: "conv" top: "conv" }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
"""
BLOBS = {"conv": conv_blobs(8, 3, 3, 3, bias=False), "norm": norm_blobs()}
TRAIN = """layer { name: "in" type: "Data" top: "data" top: "label" data_param { source: "db" batch_size: 2 } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 8 kernel_size: 3 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "conv" bottom: "label" top: "loss" }
"""
UNKNOWN = """layer { name: "mine" type: "MyOwn" bottom: "conv" top: "m" }
layer { name: "drawn" type: "Pooling" bottom: "data" top: "p" pooling_param { pool: STOCHASTIC kernel_size: 2 } }
"""
WEIGHT = conv_blobs(4, 3, 3, 3)[0]


def run(*words: object) -> Result:
    return CliRunner().invoke(main, ["convert", *map(str, words)])


def convert(*words: object) -> dict[str, Any]:
    result = run(*words, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def complaint(*words: object) -> str:
    """The one line of a refusal."""
    result = run(*words)
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stdout == ""
    return result.stderr


def everything(folder: Path) -> dict[str, bytes]:
    """All files below a folder with their bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def caffe(tmp_path: Path) -> tuple[Path, Path]:
    folder = tmp_path / "caffe"
    folder.mkdir()
    return write_net(folder, PROTOTXT, BLOBS)


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """An ONNX file."""
    folder = tmp_path / "onnx"
    folder.mkdir()
    return tiny(
        folder,
        [node("Conv", "x w", "c", name="conv"), node("Relu", "c", "y")],
        inputs={"x": (1, 3, 8, 8)},
        outputs=["y"],
        weights={"w": WEIGHT},
    )


# ---- Caffe to ONNX ----------------------------------------------------------------------------------------------


def test_caffe_becomes_an_onnx_file_that_is_verified(caffe: tuple[Path, Path], tmp_path: Path) -> None:
    require_caffe()
    require_onnxruntime()
    out = tmp_path / "net.onnx"
    result = run(*caffe, "-o", out, "--verify")
    assert result.exit_code == 0, result.output
    first, last = result.stdout.splitlines()
    assert first.startswith("verified: Caffe ")
    assert " and ONNX Runtime " in first
    assert "; 1 outputs, worst " in first
    assert last == f"wrote {out}"
    onnx.checker.check_model(str(out), full_check=True)


def test_unverified_says_so(caffe: tuple[Path, Path], tmp_path: Path) -> None:
    assert run(*caffe, "-o", tmp_path / "net.onnx").stdout.startswith("not verified: --verify runs both")


def test_json_has_files_notes_and_how_it_compares(caffe: tuple[Path, Path], tmp_path: Path) -> None:
    require_caffe()
    require_onnxruntime()
    out = tmp_path / "net.onnx"
    assert convert(*caffe, "-o", out) == {"format": 1, "files": [str(out)], "notes": [], "verified": None}
    verified = convert(*caffe, "-o", out, "--verify")["verified"]
    assert verified["outputs"] == 1
    assert verified["worst_rel_l2"] < 1e-5


def test_folding_leaves_fewer_operators_and_the_numbers(caffe: tuple[Path, Path], tmp_path: Path) -> None:
    require_caffe()
    require_onnxruntime()
    plain, folded = tmp_path / "plain.onnx", tmp_path / "folded.onnx"
    convert(*caffe, "-o", plain)
    facts = convert(*caffe, "-o", folded, "--fold", "--verify")
    assert [n.op_type for n in onnx.load(plain).graph.node] == ["Conv", "BatchNormalization", "Relu"]
    assert [n.op_type for n in onnx.load(folded).graph.node] == ["Conv", "Relu"]
    assert facts["verified"]["worst_rel_l2"] < 1e-5  # from the network that was given, with its BatchNorm


def test_the_batch_is_a_symbol_where_that_is_asked_for(caffe: tuple[Path, Path], tmp_path: Path) -> None:
    require_caffe()
    require_onnxruntime()
    out = tmp_path / "net.onnx"
    assert convert(*caffe, "-o", out, "--batch", "dynamic", "--verify")["verified"]["worst_rel_l2"] < 1e-5
    (given,) = onnx.load(out).graph.input
    assert [d.dim_param or d.dim_value for d in given.type.tensor_type.shape.dim] == ["batch", 3, 6, 5]


def test_the_operator_set_is_the_one_asked_for(caffe: tuple[Path, Path], tmp_path: Path) -> None:
    for words, expected in (((), 13), (("--opset", 17), 17)):
        convert(*caffe, "-o", tmp_path / "net.onnx", *words)
        assert [entry.version for entry in onnx.load(tmp_path / "net.onnx").opset_import] == [expected]
    result = run(*caffe, "-o", tmp_path / "net.onnx", "--opset", 12)
    assert result.exit_code == 2
    assert "12 is not in the range 13<=x<=22" in result.stderr


def test_a_training_network_loses_its_data_and_its_loss(tmp_path: Path) -> None:
    files = write_net(tmp_path, TRAIN, {"conv": conv_blobs(8, 3, 3, 3)})
    out = tmp_path / "net.onnx"
    assert "give --shape data=" in complaint(*files, "-o", out)
    convert(*files, "-o", out, "--shape", "data=2,3,6,5")
    graph = onnx.load(out).graph
    assert [value.name for value in graph.input] == ["data"]
    assert [n.op_type for n in graph.node] == ["Conv", "Softmax"]


# ---- ONNX to Caffe ----------------------------------------------------------------------------------------------


def test_onnx_becomes_a_folder_of_caffe_files_that_is_verified(network: Path, tmp_path: Path) -> None:
    require_caffe()
    require_onnxruntime()
    out = tmp_path / "out"
    facts = convert(network, "-o", out, "--verify")
    assert facts["files"] == [str(out / "net.prototxt"), str(out / "net.caffemodel")]
    assert facts["verified"]["worst_rel_l2"] < 1e-5
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert sorted(report["files"]) == sorted(path.name for path in out.iterdir())
    assert report["tensors"] == {"x": "x", "c": "c", "y": "y"}
    assert report["inputs"] == {}
    assert report["verified"] == facts["verified"]
    convert(network, "-o", out)  # What this tool wrote it also replaces.


def test_channels_last_are_fed_as_caffe_takes_them(tmp_path: Path) -> None:
    require_caffe()
    require_onnxruntime()
    nodes = [node("Transpose", "x", "t", perm=[0, 3, 1, 2]), node("Conv", "t w", "y")]
    # As many rows as columns as channels: the shapes do not tell.
    path = tiny(tmp_path, nodes, inputs={"x": (1, 3, 3, 3)}, outputs=["y"], weights={"w": WEIGHT})
    out = tmp_path / "out"
    result = run(path, "-o", out, "--verify")
    assert result.exit_code == 0, result.output
    note = "input 'x' is fed with its axes in the order 0, 3, 1, 2: the transpose of the exporter is folded away"
    assert f"note: {note}\n" in result.stdout
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert report["inputs"] == {"x": [0, 3, 1, 2]}
    assert report["notes"] == [note]


def test_there_and_back_and_there_is_the_same_file(caffe: tuple[Path, Path], tmp_path: Path) -> None:
    once, twice = tmp_path / "net.onnx", tmp_path / "again" / "net.onnx"
    twice.parent.mkdir()
    convert(*caffe, "-o", once, "--fold")
    convert(*convert(once, "-o", tmp_path / "out")["files"], "-o", twice)
    first, second = (onnx.load(path).graph for path in (once, twice))
    assert [n.op_type for n in first.node] == [n.op_type for n in second.node]
    for a, b in zip(first.initializer, second.initializer, strict=True):
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(a), onnx.numpy_helper.to_array(b))


# ---- what is refused, and what then is left ----------------------------------------------------------------------


def test_names_that_cannot_be_are_refused(caffe: tuple[Path, Path], network: Path, tmp_path: Path) -> None:
    before = everything(tmp_path)
    (tmp_path / "folder.onnx").mkdir()
    assert "expected a name that ends in .onnx" in complaint(*caffe, "-o", tmp_path / "net.pb")
    assert "expected a name that ends in .onnx" in complaint(*caffe, "-o", caffe[0])
    assert "is a folder; expected the name of a file" in complaint(*caffe, "-o", tmp_path / "folder.onnx")
    assert "its folder does not exist; make it first" in complaint(*caffe, "-o", tmp_path / "none" / "net.onnx")
    assert "expected a folder" in complaint(network, "-o", tmp_path / "net.prototxt")
    assert "expected a folder" in complaint(network, "-o", network)
    assert "holds the input net.onnx; choose another folder" in complaint(network, "-o", network.parent)
    assert "which this tool did not write; choose another folder" in complaint(network, "-o", tmp_path / "caffe")
    assert "its parent folder does not exist; make it first" in complaint(network, "-o", tmp_path / "none" / "out")
    for words in (("--opset", 13), ("--batch", "fixed"), ("--int8",)):
        said = complaint(network, "-o", tmp_path / "out", *words)
        assert "--opset, --batch and --int8 are for ONNX files" in said
    assert everything(tmp_path) == before


def test_the_input_is_not_overwritten_through_a_link(network: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(network.parent, target_is_directory=True)
    before = network.read_bytes()
    assert "holds the input net.onnx" in complaint(network, "-o", tmp_path / "link")
    assert network.read_bytes() == before


def test_all_layers_without_an_equivalent_are_named_and_nothing_is_left(tmp_path: Path) -> None:
    files = write_net(tmp_path, PROTOTXT + UNKNOWN, BLOBS)
    before = everything(tmp_path)
    text = complaint(*files, "-o", tmp_path / "net.onnx")
    assert text.startswith(f"surgery: {files[0]}: 2 layers cannot be converted: 'mine' (MyOwn): ")
    assert "; 'drawn' (Pooling): pool STOCHASTIC picks at random" in text
    assert everything(tmp_path) == before


def test_all_nodes_without_an_equivalent_are_named_and_nothing_is_left(tmp_path: Path) -> None:
    nodes = [node("Erf", "x", "e", name="first"), node("Sign", "x", "s", name="second"), node("Add", "e s", "y")]
    path = tiny(tmp_path, nodes, inputs={"x": (1, 3)}, outputs=["y"])
    text = complaint(path, "-o", tmp_path / "out")
    assert "2 layers cannot be converted: node 'first' (Erf): " in text
    assert "; node 'second' (Sign): " in text
    assert sorted(found.name for found in tmp_path.iterdir()) == ["net.onnx"]


def test_what_was_there_stays_where_a_conversion_fails(caffe: tuple[Path, Path], network: Path, tmp_path: Path) -> None:
    convert(*caffe, "-o", tmp_path / "net.onnx")
    convert(network, "-o", tmp_path / "out")
    other = tmp_path / "other"
    other.mkdir()
    bad_caffe = write_net(other, PROTOTXT + UNKNOWN, BLOBS)
    bad_onnx = tiny(other, [node("Erf", "x", "y")], inputs={"x": (1, 3)}, outputs=["y"], name="bad")
    before = everything(tmp_path)
    complaint(*bad_caffe, "-o", tmp_path / "net.onnx")
    complaint(bad_onnx, "-o", tmp_path / "out")
    assert everything(tmp_path) == before


def test_what_computes_something_else_is_not_written(
    network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_caffe()
    require_onnxruntime()
    # No conversion is known that is wrong, so that none but exact equality would do.
    monkeypatch.setattr("surgery.verify.TOLERANCE", -1.0)
    result = run(network, "-o", tmp_path / "out", "--verify")
    assert result.exit_code == 1
    assert "from the original's, in ONNX Runtime " in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_network_without_its_weights_is_not_one_of_zeros(tmp_path: Path) -> None:
    net = tmp_path / "net.prototxt"
    net.write_text(
        'input: "data"\ninput_shape { dim: 1 dim: 4 }\n'
        'layer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc" inner_product_param { num_output: 2 } }\n'
    )
    result = CliRunner().invoke(main, ["convert", str(net), "-o", str(tmp_path / "net.onnx")])
    assert result.exit_code == 2
    assert result.stderr == f"surgery: {net}: has no weights; give its .caffemodel as well\n"
    assert not (tmp_path / "net.onnx").exists()
