"""`surgery diff`: what a person and a script see, and the exit codes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from surgery.cli import main
from surgery.diff import models
from surgery.factor import METHODS
from surgery.model import Model, Splice
from tests.diff.networks import network, written
from tests.engines import require_onnxruntime

Files = Sequence[Path]


def run(*words: object) -> Result:
    return CliRunner().invoke(main, ["diff", *map(str, words)])


def told(*words: object, code: int) -> dict[str, Any]:
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
    assert not result.stdout
    return result.stderr


def files(model: Model) -> tuple[Path, ...]:
    found: tuple[Path, ...] = model.native.files if model.format.name == "caffe" else (model.native.graph.path,)
    return found


@pytest.fixture(scope="module")
def lenet(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return network("lenet", tmp_path_factory.mktemp("lenet"))


@pytest.fixture(scope="module")
def cut(lenet: Model, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """LeNet with conv2 and ip1 cut."""
    edits = []
    for key, method, rank in (("conv2", "svd-channel", (12,)), ("ip1", "svd", (20,))):
        op = lenet.format.lift(lenet, lenet.node(key))
        edits.append(Splice(key, METHODS[method].factor(op, rank).chain))  # type: ignore[arg-type]
    return written(lenet.edit(*edits), tmp_path_factory.mktemp("cut"))


def test_the_text_names_each_split_with_its_look_rank_and_error(lenet: Model, cut: Model) -> None:
    result = run(*files(lenet), *files(cut))
    assert result.exit_code == 1
    lines = [" ".join(line.split()) for line in result.stdout.splitlines() if line.startswith(("split", "changed"))]
    errors = [line.rpartition(" weights ")[2] for line in lines]
    assert [line.rpartition(" weights ")[0] for line in lines] == [
        "split conv2 -> conv2_1, conv2_2 svd-channel of rank 12,",
        "split ip1 -> ip1_1, ip1_2 svd of rank 20,",
    ]
    assert all(error.endswith("% off") for error in errors)
    assert "2 split; 6 the same" in result.stdout
    assert "relu1" not in result.stdout


def test_no_line_is_wider_than_a_hundred_columns(lenet: Model, cut: Model) -> None:
    shown = run(*files(lenet), *files(cut)).stdout.splitlines()[3:]
    assert max(map(len, shown)) <= 100
    assert "\x1b" not in "".join(shown)


def test_all_shows_every_layer(lenet: Model, cut: Model) -> None:
    shown = run(*files(lenet), *files(cut), "--all").stdout
    for node in lenet.nodes[1:]:
        assert node.key in shown
    found = told(*files(lenet), *files(cut), "--all", code=1)
    assert [layer["name"] for layer in found["b"]["layers"]] == [node.key for node in cut.nodes[1:]]


def test_json_tells_what_the_documentation_says(lenet: Model, cut: Model) -> None:
    found = told(*files(lenet), *files(cut), code=1)
    assert list(found) == ["format", "same", "identical", "a", "b", "network", "entries", "numeric", "notes"]
    assert (found["format"], found["same"], found["identical"]) == (1, False, False)
    entry = found["entries"][0]
    assert list(entry) == ["kind", "a", "b", "renamed", "moved", "changes", "weights", "training", "chains"]
    (chain,) = entry["chains"]
    assert {key: chain[key] for key in ("whole", "chain", "shape", "ranks")} == {
        "whole": "conv2",
        "chain": ["conv2_1", "conv2_2"],
        "shape": "svd-channel",
        "ranks": [12],
    }
    keys = {key for part in (found, entry, chain, found["a"]) for key in part}
    documented = (Path(__file__).parents[2] / "docs" / "diff.md").read_text()
    assert [key for key in keys if f"`{key}`" not in documented] == []


def test_identical_files_are_told_without_reading_them(lenet: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "compare_models", None)
    monkeypatch.setattr("surgery.formats.caffe.text.parse", None)
    found = told(*files(lenet), *files(lenet), code=0)
    assert (found["same"], found["identical"], found["entries"]) == (True, True, [])
    assert "identical" in run(*files(lenet), *files(lenet)).stdout


def test_a_comment_leaves_the_network_the_same_but_not_identical(lenet: Model, tmp_path: Path) -> None:
    prototxt, weights = files(lenet)
    other = tmp_path / "other.prototxt"
    other.write_text("# another day\n" + prototxt.read_text())
    found = told(prototxt, weights, other, weights, code=0)
    assert (found["same"], found["identical"]) == (True, False)
    assert "differ only in what none of these states" in run(prototxt, weights, other, weights).stdout


def test_lone_weights_can_be_compared_with_each_other_and_with_a_models(lenet: Model, cut: Model) -> None:
    first, second = files(lenet)[1], files(cut)[1]
    alone = told(first, second, code=1)
    assert {name for entry in alone["entries"] for name in entry["a"]} == {"conv2", "ip1"}
    assert told(first, *files(cut), code=1)["entries"] == told(*files(lenet), second, code=1)["entries"]
    assert told(*files(lenet), first, code=0)["same"]


def test_both_formats_are_one_network(lenet: Model, cut: Model, tmp_path: Path) -> None:
    onnx = files(network("lenet", tmp_path, "onnx"))
    assert told(*files(lenet), *onnx, code=0)["same"]
    assert [entry["kind"] for entry in told(*onnx, *files(cut), code=1)["entries"]] == ["split", "split"]


def test_running_both_tells_where_they_part(cut: Model, tmp_path: Path, lenet: Model) -> None:
    require_onnxruntime()
    onnx = network("lenet", tmp_path, "onnx")
    op = onnx.format.lift(onnx, onnx.node("conv2"))
    chain = METHODS["svd-channel"].factor(op, (12,)).chain  # type: ignore[arg-type]
    other = written(onnx.edit(Splice("conv2", chain)), tmp_path / "onnx-cut")
    pictures = tmp_path / "pictures.npy"
    np.save(pictures, np.random.default_rng(0).random((2, 1, 1, 28, 28), dtype=np.float32))
    for given in (7, pictures):
        numeric = told(*files(onnx), *files(other), "--inputs", given, code=1)["numeric"]
        assert numeric["parting"] == "conv2"
        errors = {row["blob"]: row["relative_error"] for row in numeric["blobs"]}
        order = [blob for blob in errors if "Reshape" not in blob and "before" not in blob]
        assert order == ["conv1", "pool1", "conv2", "pool2", "ip1", "ip2"]
        assert errors["conv1"] == errors["pool1"] == 0
        assert errors["conv2"] > 1e-3
    shown = run(*files(onnx), *files(other), "--inputs", 7).stdout
    assert "they part at 'conv2', made by 'conv2'" in shown


def test_the_page_is_written_and_no_model_is_overwritten(lenet: Model, cut: Model, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert run(*files(lenet), *files(cut), "--html", page).exit_code == 1
    assert "conv2_1" in page.read_text()
    before = files(cut)[0].read_bytes()
    assert "is one of the models" in complaint(*files(lenet), *files(cut), "--html", files(cut)[0])
    assert files(cut)[0].read_bytes() == before


def test_what_cannot_be_compared_is_refused_in_one_line(lenet: Model, tmp_path: Path) -> None:
    prototxt, weights = files(lenet)
    assert "found 1" in complaint(prototxt, weights)
    assert "found 3" in complaint(prototxt, prototxt, prototxt)
    assert "no such file" in complaint(prototxt, tmp_path / "absent.onnx")
    assert "is a folder" in complaint(tmp_path, tmp_path)
    assert "weights alone cannot be run" in complaint(weights, prototxt, weights, "--inputs", 1)
    assert "to compare with a lone .caffemodel" in complaint(weights, prototxt)
    damaged = tmp_path / "damaged.prototxt"
    damaged.write_text("layer { name: ")
    result = run(prototxt, damaged)
    assert result.exit_code == 2
    assert "damaged.prototxt:1:15: expected a value" in result.stderr  # The line itself and a caret follow.
