"""`tune` as a person calls it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from surgery.cli import main
from surgery.cli.tune import split_teacher
from surgery.errors import ModelError
from surgery.plans import Cut, to_json
from tests.shared import REPOSITORY
from tests.tune.cases import cut, data, small

CUTS = (Cut("conv", "svd-spatial", (2,)), Cut("fc", "svd", (4,)))


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def written(folder: Path) -> list[str | Path]:
    """Write a network, its cut with the plan, and data; return a command line without an output."""
    source = small(folder)
    own, plan = cut(source, CUTS, folder / "cut")
    (folder / "cut" / "plan.json").write_text(to_json(plan))
    samples, labels = data(folder)
    model = [*own.files, "--teacher", *source.files]
    return ["tune", *model, "--data", samples, "--labels", labels, "--epochs", 2, "--rate", 0.05, "--verify", "none"]


def require_torch() -> None:
    pytest.importorskip("torch", reason="torch is not installed")


@pytest.mark.parametrize(
    ("files", "teacher", "expected"),
    [
        ("c.prototxt c.caffemodel t.caffemodel", "t.prototxt", "c.prototxt c.caffemodel | t.prototxt t.caffemodel"),
        ("t.caffemodel c.prototxt c.caffemodel", "t.prototxt", "c.prototxt c.caffemodel | t.prototxt t.caffemodel"),
        ("c.prototxt c.caffemodel", "t.prototxt t.caffemodel", "c.prototxt c.caffemodel | t.prototxt t.caffemodel"),
        ("c.onnx", "t.onnx", "c.onnx | t.onnx"),
        ("c.onnx t.caffemodel", "t.prototxt", "c.onnx | t.prototxt t.caffemodel"),
    ],
)
def test_weights_go_to_the_network_that_they_stand_behind(files: str, teacher: str, expected: str) -> None:
    found = split_teacher(tuple(map(Path, files.split())), tuple(map(Path, teacher.split())))
    assert " | ".join(" ".join(map(str, each)) for each in found) == expected


def test_one_cut_network_is_expected() -> None:
    with pytest.raises(ModelError, match="2 definitions"):
        split_teacher((Path("a.onnx"), Path("b.onnx")), (Path("t.onnx"),))
    with pytest.raises(ModelError, match="weights alone"):
        split_teacher((Path("a.caffemodel"),), (Path("t.onnx"),))


def test_a_tuning_tells_before_and_after_and_where_it_wrote(tmp_path: Path) -> None:
    require_torch()
    result = run(*written(tmp_path), "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    wanted = [["held", "back", name] for name in ("original", "cut", "tuned")]
    assert [line.split()[:3] for line in lines[1:4]] == wanted
    assert lines[-1] == f"wrote {tmp_path / 'out' / 'cut.prototxt'} {tmp_path / 'out' / 'cut.caffemodel'}"
    assert "<svg" in (tmp_path / "out" / "report.html").read_text()


def test_facts_come_as_json_without_times(tmp_path: Path) -> None:
    require_torch()
    command = written(tmp_path)
    first, second = (run(*command, "-o", tmp_path / name, "--json") for name in ("one", "two"))
    assert first.exit_code == 0, first.output
    assert first.stdout == second.stdout
    facts = json.loads(first.stdout)
    assert [step["cut"] for step in facts["steps"]] == ["1 by svd, 1 by svd-spatial"]
    assert sorted(facts["files"]) == sorted(path.name for path in (tmp_path / "one").iterdir())


def test_without_pytorch_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    result = run(*written(tmp_path), "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "pip install 'surgery[torch]'" in result.stderr


def test_nothing_but_a_tuning_loads_pytorch() -> None:
    show = "main(['--help'], standalone_mode=False)"
    code = f"import sys; from surgery.cli import main; {show}; print('torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--target", "mixed", "--weights", "labels"], "--weights labels"),
        (["--test-labels", "labels.txt"], "--test"),
        (["--plan", "none.json"], "no such file"),
        (["--layer", "pool"], "--layer pool"),
        (["--group", "pool"], "--group pool"),
        (["--course", "wave"], "'wave'"),
        (["--epochs", "0"], "--epochs"),
    ],
)
def test_bad_options_are_one_line_and_leave_nothing(tmp_path: Path, more: list[str], told: str) -> None:
    require_torch()
    command = written(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    result = run(*command, "-o", tmp_path / "out", *more)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("surgery: ")
    assert result.stderr.count("\n") == 1
    assert told in result.stderr
    assert sorted(tmp_path.rglob("*")) == before
