"""`extract`, `fold` and `fc-to-conv` as a person calls them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from surgery import formats
from surgery.cli import main
from tests.engines import require_caffe, require_onnxruntime
from tests.formats.caffe.test_convolve import dense
from tests.formats.caffe.test_fold import CONV, INPUT, NORM, RELU, SCALE, C, layer, norm_blobs, scale_blobs
from tests.formats.onnx.test_edits import FOLDS, SHAPE
from tests.nets import conv_blobs, dense_blobs, write_net
from tests.onnx_nets import tiny

DIGITS = Path(__file__).resolve().parents[2] / "models" / "digits"
FILES = [str(DIGITS / "deploy.prototxt"), str(DIGITS / "digits.caffemodel")]


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def report(output: Path) -> dict:  # type: ignore[type-arg]
    return json.loads((output / "report.json").read_text())


def normed(folder: Path) -> list[str]:
    return [
        str(path)
        for path in write_net(folder, INPUT + CONV + NORM + SCALE + RELU, {**C, "n": norm_blobs(), "s": scale_blobs()})
    ]


def test_a_part_is_written_and_verified(tmp_path: Path) -> None:
    require_caffe()
    result = run("extract", *FILES, "-o", tmp_path / "part", "--outputs", "pool2", "--verify", "caffe")
    assert result.exit_code == 0, result.output
    found = report(tmp_path / "part")
    assert found["verified"]["worst_rel_l2"] == 0
    assert sorted(found["files"]) == sorted(path.name for path in (tmp_path / "part").iterdir())
    assert [node.outputs[0] for node in formats.load([tmp_path / "part" / "deploy.prototxt"]).nodes][-1] == "pool2"


def test_a_part_from_the_middle_is_fed_what_the_whole_computes_there(tmp_path: Path) -> None:
    require_caffe()
    arguments = ["--inputs", "pool2", "--outputs", "prob", "--verify", "caffe", "--json"]
    result = run("extract", *FILES, "-o", tmp_path / "part", *arguments)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["verified"]["blobs"] > 1
    assert found["verified"]["worst_rel_l2"] < 1e-6
    part = formats.load([tmp_path / "part" / "deploy.prototxt"])
    assert list(part.format.runnable(part).inputs) == ["pool2"]


def test_commas_separate_blobs(tmp_path: Path) -> None:
    result = run("extract", *FILES, "-o", tmp_path / "part", "--outputs", "pool2,conv2", "--verify", "none")
    assert result.exit_code == 0, result.output
    assert report(tmp_path / "part")["edits"] == [{"outputs": ["pool2", "conv2"], "inputs": []}]
    assert "note: 'conv2' is read by 'pool2': to be fetched by name" in result.stdout


def test_a_prototxt_alone_is_enough_to_extract(tmp_path: Path) -> None:
    result = run("extract", FILES[0], "-o", tmp_path / "part", "--outputs", "conv1", "--verify", "none")
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (tmp_path / "part").iterdir()) == ["deploy.prototxt", "report.json"]


def test_scales_are_folded_and_verified(tmp_path: Path) -> None:
    require_caffe()
    result = run("fold", *normed(tmp_path), "-o", tmp_path / "folded", "--verify", "caffe")
    assert result.exit_code == 0, result.output
    assert "c took in n, s" in result.stdout
    found = report(tmp_path / "folded")
    assert found["edits"] == [{"layer": "c", "absorbed": ["n", "s"]}]
    assert found["layers"] == [4, 2]
    assert found["left"] == []
    assert found["verified"]["worst_rel_l2"] < 1e-5


def test_what_stays_is_listed(tmp_path: Path) -> None:
    more = CONV.replace('"c"', '"e"') + layer("BatchNorm", "m", "e", "f") + layer("TanH", "t", "e", "g")
    blobs = {**C, "n": norm_blobs(), "e": conv_blobs(8, 6, 3, 3, bias=False), "m": norm_blobs()}
    files = write_net(tmp_path, INPUT + CONV + NORM + more, blobs)
    result = run("fold", *files, "-o", tmp_path / "folded", "--verify", "none")
    assert result.exit_code == 0, result.output
    assert "left alone: m: its input 'e' is needed as it is: 't' reads it too" in result.stdout


def test_only_the_layers_named_are_changed(tmp_path: Path) -> None:
    result = run("fold", *normed(tmp_path), "-o", tmp_path / "folded", "--layer", "z*")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "--layer z*: no layer has that name" in result.stderr
    other = run("fold", *normed(tmp_path), "-o", tmp_path / "folded", "--layer", "r")
    assert other.exit_code == 1
    result = run("fc-to-conv", *FILES, "-o", tmp_path / "conv", "--layer", "ip1", "--verify", "none")
    assert result.exit_code == 0, result.output
    assert report(tmp_path / "conv")["edits"] == [{"layer": "ip1"}]


def test_where_nothing_can_be_done_nothing_is_written(tmp_path: Path) -> None:
    result = run("fold", *FILES, "-o", tmp_path / "folded")
    assert (result.exit_code, result.stderr) == (1, "surgery: nothing to cut: no BatchNorm, Scale or Bias to fold\n")
    assert not (tmp_path / "folded").exists()
    conv = run("fc-to-conv", *normed(tmp_path), "-o", tmp_path / "conv")
    assert (conv.exit_code, conv.stderr) == (1, "surgery: nothing to cut: no fully connected layer\n")


def test_a_fully_convolutional_network_is_verified_number_by_number(tmp_path: Path) -> None:
    require_caffe()
    result = run("fc-to-conv", *FILES, "-o", tmp_path / "conv", "--verify", "caffe")
    assert result.exit_code == 0, result.output
    assert "output 'prob' was 1x10 and is 1x10x1x1" in result.stdout
    assert report(tmp_path / "conv")["verified"]["worst_rel_l2"] < 1e-5


def test_a_network_that_cannot_run_is_written_unverified_with_the_reason(tmp_path: Path) -> None:
    files = write_net(tmp_path, INPUT + CONV + layer("MyOwn", "m", "c", "d"), C)
    result = run("extract", *files, "-o", tmp_path / "part", "--outputs", "d")
    assert result.exit_code == 0, result.output
    assert "not verified: " in result.stdout
    assert "MyOwn" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--outputs", "nothing"], "no blob is named 'nothing'"),
        (["--outputs", "prob", "--inputs", "prob"], "'prob' is asked for as an output, but it is an input"),
    ],
)
def test_a_wrong_request_is_one_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    result = run("extract", *FILES, "-o", tmp_path / "part", *arguments)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert message in result.stderr
    assert not (tmp_path / "part").exists()


def test_where_nothing_runs_each_layer_is_checked_alone(tmp_path: Path) -> None:
    own = layer("MyOwn", "m", "c", "d") + dense("f", "data", "g", 5)
    blobs = {**C, "n": norm_blobs(), "f": dense_blobs(5, 432)}
    files = write_net(tmp_path, INPUT + CONV + NORM + own, blobs)
    for verb, key in (("fold", "c"), ("fc-to-conv", "f")):
        result = run(verb, *files, "-o", tmp_path / verb, "--json")
        assert result.exit_code == 0, result.output
        verified = json.loads(result.stdout)["verified"]
        assert (verified["runtime"], verified["blobs"], verified["worst_blob"]) == ("layers only", 1, key)
        assert 0 < verified["worst_rel_l2"] < 1e-5
        assert "MyOwn" in verified["reason"]


def test_onnx_files_take_the_same_verbs(tmp_path: Path) -> None:
    require_onnxruntime()
    nodes, weights, *_ = FOLDS["one with a bias"]
    path = tiny(tmp_path, nodes, inputs={"x": SHAPE}, weights=weights, outputs=["y"])
    result = run("fold", path, "-o", tmp_path / "folded")
    assert result.exit_code == 0, result.output
    assert "conv took in norm" in result.stdout
    assert report(tmp_path / "folded")["verified"]["worst_rel_l2"] < 1e-5
    result = run("extract", path, "-o", tmp_path / "tail", "--inputs", "c", "--outputs", "y")
    assert result.exit_code == 0, result.output
    assert report(tmp_path / "tail")["layers"] == [3, 2]
    assert report(tmp_path / "tail")["verified"]["worst_rel_l2"] == 0


def test_weights_are_needed_to_fold(tmp_path: Path) -> None:
    result = run("fold", normed(tmp_path)[0], "-o", tmp_path / "folded")
    assert result.exit_code == 1
    assert "n: no file holds weights for it" in result.stderr
