"""`surgery bench` says what it measured, of whom and how; what cannot be timed is one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from surgery.cli import main
from tests.engines import require, require_onnxruntime, require_opencv
from tests.runtime.onnx_files import conv_relu
from tests.shared import REPOSITORY

DIGITS = [REPOSITORY / "models/digits/deploy.prototxt", REPOSITORY / "models/digits/digits.caffemodel"]


def run(*words: object) -> Result:
    return CliRunner().invoke(main, ["bench", *map(str, words)])


def bench(*words: object) -> dict[str, Any]:
    result = run(*words, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_json_says_what_was_measured(tmp_path: Path) -> None:
    require_onnxruntime()
    first, second = conv_relu(tmp_path / "a.onnx"), conv_relu(tmp_path / "b.onnx")
    found = bench(first, second, "--repeat", 4, "--warmup", 2, "--threads", 2, "--seed", 3)
    rows, machine = found.pop("models"), found.pop("machine")
    assert machine.endswith(" cores")
    assert found == {"format": 1, "threads": 2, "rounds": 4, "warmup": 2, "seed": 3}
    assert [row["model"] for row in rows] == ["a.onnx", "b.onnx"]
    for row in rows:
        assert set(row) == {
            "model", "runtime", "version", "inputs", "passes_in_a_turn", "milliseconds", "ratio"
        }  # fmt: skip
        assert row["runtime"] == "onnxruntime"
        assert row["version"].startswith("ONNX Runtime ")
        assert row["inputs"] == {"data": [1, 2, 5, 5]}
        assert row["passes_in_a_turn"] >= 1
        for spread in (row["milliseconds"], row["ratio"]):
            assert set(spread) == {"smallest", "p10", "median", "p90"}
            assert 0 < spread["smallest"] <= spread["p10"] <= spread["median"] <= spread["p90"]
    assert rows[0]["ratio"] == {"smallest": 1, "p10": 1, "median": 1, "p90": 1}


def test_each_runtime_runs_each_model(tmp_path: Path) -> None:
    require_onnxruntime()
    require_opencv()
    model = conv_relu(tmp_path / "a.onnx")
    rows = bench(model, model, "--runtime", "opencv,onnxruntime", "--repeat", 1)["models"]
    assert [row["runtime"] for row in rows] == ["opencv", "opencv", "onnxruntime", "onnxruntime"]


def test_a_larger_batch_takes_longer(tmp_path: Path) -> None:
    require_onnxruntime()
    model = conv_relu(tmp_path / "a.onnx", batch="N")
    times = []
    for batch in (1, 1000):
        (row,) = bench(model, "--shape", f"data={batch},2,5,5", "--repeat", 5)["models"]
        assert row["inputs"] == {"data": [batch, 2, 5, 5]}
        times.append(row["milliseconds"]["median"])
    assert times[1] > 2 * times[0]


@pytest.mark.parametrize("runtime", ["caffe", "opencv"])
def test_the_table_names_model_runtime_shapes_and_threads(runtime: str) -> None:
    engine = require(runtime)
    result = run(*DIGITS, *DIGITS, "--runtime", runtime, "--repeat", 2)
    assert result.exit_code == 0, result.output
    heading, first, second, _, how, shapes = result.stdout.splitlines()
    assert heading.split("  ")[0] == "model"
    for line in (first, second):  # Two of the same name are told apart by their paths, where those differ.
        assert line.startswith(str(DIGITS[0]))
        assert f" {runtime} " in line
    assert how == f"1 thread, 2 rounds; {engine.version()}"
    assert shapes == f"{DIGITS[0]}: data 1x1x8x8"


def test_requests_that_cannot_be_met_are_one_line(tmp_path: Path) -> None:
    require_onnxruntime()
    good, junk = conv_relu(tmp_path / "a.onnx"), tmp_path / "junk.onnx"
    junk.write_bytes(b"\xff" * 40)
    for words, message in (
        ([good, "--runtime", "tensorrt"], "no runtime 'tensorrt'; expected caffe, onnxruntime, opencv"),
        ([tmp_path / "w.caffemodel"], "weights without a model"),
        ([tmp_path / "none.onnx"], "no such file"),
        ([good, "--shape", "other=1,2"], "'other'"),
        ([good, "--shape", "data=x"], "expected like data=1,3,224,224"),
        ([junk], "junk.onnx"),
        ([good, "--shape", "data=1,3,5,5"], "data"),
    ):
        result = run(*words)
        assert result.exit_code == 2, (words, result.output)
        assert isinstance(result.exception, SystemExit), words
        assert result.stderr.count("\n") == 1, result.stderr
        assert message in result.stderr, (words, result.stderr)


def test_caffe_refuses_onnx_in_one_line(tmp_path: Path) -> None:
    require("caffe")
    result = run(conv_relu(tmp_path / "a.onnx"), "--runtime", "caffe")
    assert result.exit_code == 2
    assert "caffe: runs no ONNX files" in result.stderr
