from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from surgery.cli import main
from tests.engines import require_onnxruntime
from tests.package.parcels import tiny, tiny_parcel


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    require_onnxruntime()
    files = [str(path) for path in tiny(tmp_path / "in").files]
    return ["package", *files, "-o", str(tmp_path / "net.zip"), "--target", "caffe-android-lib"]


def run(*words: str) -> Result:
    return CliRunner().invoke(main, list(words))


def test_a_parcel_is_made_and_checked(words: list[str], tmp_path: Path) -> None:
    made = run(*words)
    assert made.exit_code == 0, made.output
    for told in ("conv", "changed: ", "note: ", "3 golden vectors, random, seed 0", f"wrote {tmp_path / 'net.zip'}: "):
        assert told in made.output
    assert (tmp_path / "net.zip").read_bytes() == tiny_parcel()
    checked = run("package", "--check", str(tmp_path / "net.zip"))
    assert checked.exit_code == 0, checked.output
    assert "whole and unchanged" in checked.output
    assert "3 golden vectors agree" in checked.output


def test_json_has_the_facts_of_the_parcel_and_of_the_check(words: list[str], tmp_path: Path) -> None:
    made = run(*words, "--json")
    assert json.loads(made.stdout)["target"] == "caffe-android-lib"
    checked = json.loads(run("package", "--check", str(tmp_path / "net.zip"), "--json").stdout)
    assert checked["samples"] == 3
    assert len(checked["sha256"]) == 64


def test_a_changed_file_exits_with_1_and_what_is_no_parcel_with_2(tmp_path: Path) -> None:
    require_onnxruntime()
    data = bytearray(tiny_parcel())
    data[data.index(b"# A network for")] ^= 1
    (tmp_path / "x.zip").write_bytes(data)
    changed = run("package", "--check", str(tmp_path / "x.zip"))
    assert changed.exit_code == 1
    assert (
        changed.stderr
        == f"surgery: {tmp_path / 'x.zip'}: 'README.md' was changed: it is not what SHA256SUMS says; get it anew\n"
    )
    (tmp_path / "x.zip").write_bytes(b"hello, this is not a parcel")
    assert run("package", "--check", str(tmp_path / "x.zip")).exit_code == 2


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (["--check", "x.zip"], "--check takes a parcel and nothing else"),
        (["--inputs", "nowhere"], "no such file or folder"),
        (["--preprocess", "nowhere"], "no such file"),
        (["--samples", "2"], "3<=x<=100"),
        (["--rewrite", "magic"], "magic"),
        (["--onnx-twin", "--target", "onnxruntime"], "is an ONNX file already"),
    ],
)
def test_a_request_that_cannot_be_met_is_one_line_and_leaves_nothing(
    more: list[str], reason: str, words: list[str], tmp_path: Path
) -> None:
    result = run(*words, *more)
    assert result.exit_code == 2
    assert reason in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    assert {path.name for path in tmp_path.iterdir()} == {"in"}


def test_without_a_model_or_a_parcel_it_says_what_is_expected() -> None:
    result = run("package")
    assert result.exit_code == 2
    assert "expected a model, -o OUT.zip and --target, or --check PARCEL.zip" in result.stderr
