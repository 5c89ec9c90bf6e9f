"""`surgery lint --target` gives the answer that packaging would, without a parcel."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from surgery.cli import main
from surgery.errors import TargetError
from surgery.targets import PROFILES, prepare
from tests.nets import Blobs, conv_blobs
from tests.targets.nets import INPUT, layer, source

CONV = "convolution_param { num_output: 2 kernel_size: 3 engine: CUDNN }"
RUNS = INPUT + layer("Convolution", CONV)
CLIPPED = RUNS + layer("ReLU6", name="r", bottom="y", top="y")
WARPED = CLIPPED + layer("Warp", name="w", bottom="y", top="z")
BLOBS: Blobs = {"a": conv_blobs(2, 3, 3, 3)}


def lint(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["lint", *map(str, arguments)])
    return result.exit_code, result.output


def facts(*arguments: object) -> tuple[int, dict[str, Any]]:
    code, out = lint(*arguments, "--json")
    return code, json.loads(out)


@pytest.mark.parametrize("target", PROFILES)
@pytest.mark.parametrize("text", [RUNS, CLIPPED, WARPED])
def test_the_exit_code_is_that_of_preparing(text: str, target: str, tmp_path: Path) -> None:
    given = source(tmp_path, text, BLOBS)
    for rewrites in ((), ("relu6",)):
        try:
            prepare(given, target, tmp_path, allow=rewrites)
            runs = True
        except TargetError:
            runs = False
        options = [word for name in rewrites for word in ("--rewrite", name)]
        code, found = facts(*given.files, "--target", target, *options)
        assert (code, found["target"]["can_run"]) == (int(not runs), runs)
        assert not (runs and any(finding["severity"] == "error" for finding in found["findings"]))


def test_every_reason_is_told_and_a_rewrite_is_offered(tmp_path: Path) -> None:
    code, out = lint(*source(tmp_path, WARPED, BLOBS).files, "--target", "caffe-android-lib")
    assert code == 1
    assert "caffe-android-lib cannot run it, for 2 reasons:\n" in out
    assert "  r: layer type 'ReLU6'; caffe-android-lib has no such type: --rewrite relu6 writes ReLU6 as" in out
    assert "  w: layer type 'Warp'; caffe-android-lib has no such type: run the network elsewhere" in out


def test_what_packaging_mends_is_a_warning(tmp_path: Path) -> None:
    files = source(tmp_path, RUNS, BLOBS).files
    code, out = lint(*files, "--target", "caffe-android-lib")
    assert code == 0
    assert "warning: a: engine: CUDNN: caffe-android-lib refuses the file" in out
    assert "`surgery package` mends it\n" in out
    assert "caffe-android-lib can run it, made ready by `surgery package`:\n  stripped: 1 engine\n" in out
    assert lint(*files)[0] == 0


def test_without_a_target_nothing_is_said_of_targets(tmp_path: Path) -> None:
    given = source(tmp_path, WARPED, BLOBS)
    code, found = facts(*given.files)
    assert code == 1
    assert "target" not in found
    code, out = lint(*given.files, "--rewrite", "relu6")
    assert code == 2
    assert "name it with --target" in out


def test_an_onnx_model_is_judged_by_a_target(tmp_path: Path) -> None:
    (model,) = prepare(source(tmp_path, RUNS, BLOBS), "onnxruntime", tmp_path).files
    for target in PROFILES:
        code, found = facts(model, "--target", target)
        assert (code, found["findings"], found["target"]["can_run"]) == (0, [], True)
    assert lint(model)[0] == 2


def test_a_file_that_is_no_network_is_told_once(tmp_path: Path) -> None:
    broken = RUNS.replace("num_output: 2", "num_output: x")
    code, found = facts(source(tmp_path, broken).files[0], "--target", "opencv")
    assert code == 1
    assert [finding["code"] for finding in found["findings"]] == ["wrong-type"]
    assert [problem["code"] for problem in found["target"]["problems"]] == ["no-network"]


def test_weights_alone_are_judged_as_they_are(tmp_path: Path) -> None:
    code, found = facts(source(tmp_path, RUNS, BLOBS).files[1], "--target", "caffe-1.0")
    assert code == 0
    assert "target" not in found
