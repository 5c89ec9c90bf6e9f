"""`surgery` on ONNX files, in a process of its own: same verbs, same plan, one clear line for what does not go."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from tests.formats.onnx.engine import check
from tests.formats.onnx.test_onnx import small


def surgery(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "surgery", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("outside", [False, True], ids=["in one file", "data outside"])
def test_compress_cuts_verifies_and_reports(outside: bool, tmp_path: Path) -> None:
    path = small(tmp_path)
    if outside:
        onnx.save(onnx.load(path), path, save_as_external_data=True, location="w.bin", size_threshold=64)
    asked = ["--params", "0.5", "--policy", "uniform"]
    done = surgery("compress", path, "-o", tmp_path / "out", *asked, "--verify", "onnxruntime")
    assert (done.returncode, done.stderr) == (0, "")
    assert "verified: ONNX Runtime" in done.stdout
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [row["layer"] for row in report["layers"]] == ["one", "two", "three"]
    assert report["totals"]["after"]["params"] <= 0.5 * report["totals"]["before"]["params"]
    assert report["verified"]["worst_rel_l2"] < 1e-5
    assert report["files"][:-5] == (["net.onnx", "net.onnx.data"] if outside else ["net.onnx"])
    check(tmp_path / "out" / "net.onnx")
    again = surgery("compress", path, "-o", tmp_path / "out", *asked, "--verify", "layers")
    assert (again.returncode, again.stderr) == (0, "")
    assert "verified: layers only" in again.stdout


def test_a_plan_is_made_and_applied(tmp_path: Path) -> None:
    path, plan = small(tmp_path), tmp_path / "plan.json"
    assert surgery("plan", path, "-o", plan, "--layer", "three=svd:rank=3").returncode == 0
    done = surgery("apply", path, plan, "-o", tmp_path / "out")
    assert done.returncode == 0
    assert [tensor.dims for tensor in check(tmp_path / "out" / "net.onnx").graph.initializer][-2:] != []
    other = tmp_path / "other"
    other.mkdir()
    changed = small(other)
    changed.write_bytes(changed.read_bytes() + b"\x10\x00")
    refused = surgery("apply", changed, plan, "-o", tmp_path / "new")
    assert refused.returncode == 2
    assert "the plan is for other files" in refused.stderr


def test_an_empty_plan_copies_byte_for_byte_with_data_in_folders(tmp_path: Path) -> None:
    path = small(tmp_path)
    (tmp_path / "data").mkdir()
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="data/w.bin", size_threshold=64)
    for _ in range(2):  # The second time over the first.
        done = surgery("compress", path, "-o", tmp_path / "out", "--method", "none")
        assert (done.returncode, done.stderr) == (0, "")
        for name in ("net.onnx", "data/w.bin"):
            assert (tmp_path / "out" / name).read_bytes() == (tmp_path / name).read_bytes()


def test_inspect_lists_nodes_and_what_they_cost(tmp_path: Path) -> None:
    path = small(tmp_path)
    done = surgery("inspect", path, "--shape", "x=2,4,8,8")
    assert "three  Gemm     2x10" in done.stdout
    assert "memory with every tensor kept" in done.stdout
    assert surgery("inspect", path, "--json").stdout.startswith('{\n "format": 1')


@pytest.mark.parametrize("verb", [("lint",), ("upgrade", "-o", "new"), ("deploy", "-o", "new")])
def test_what_only_caffe_files_take_says_so_in_one_line(verb: tuple[str, ...], tmp_path: Path) -> None:
    done = surgery(*verb, small(tmp_path))
    assert done.returncode == 2
    assert "is an ONNX model" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    path = small(tmp_path)
    path.write_bytes(path.read_bytes()[:-40])
    for verb in (("inspect",), ("plan",), ("compress", "-o", tmp_path / "out", "--method", "none")):
        done = surgery(*verb, path)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert "cut off or damaged" in done.stderr
