"""`surgery plan` and `surgery compress` measure on several processes what they measure on one."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from surgery.cli import main
from tests.shared import REPOSITORY

DIGITS = REPOSITORY / "models" / "digits"
FILES = (DIGITS / "deploy.prototxt", DIGITS / "digits.caffemodel")
ASKED = ("--macs", "0.5", "--method", "svd,svd-channel", "--images", "12", "--positions", "4")


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_a_plan_is_the_same_whoever_measured_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plans = []
    for name, processes in (("one", ()), ("two", ("--processes", "2"))):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))
        path = tmp_path / f"{name}.json"
        result = run("plan", *FILES, "-o", path, *ASKED, "--calibrate", DIGITS / "calibration.npz", *processes)
        assert result.exit_code == 0, result.stderr
        plans.append(path.read_bytes())
    assert plans[0] == plans[1]
    kept = [sorted(path.name for path in (tmp_path / name).rglob("*.json")) for name in ("one", "two")]
    assert kept[0] == kept[1] != []


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (("--processes", "2"), "--processes says who measures what cuts lose; give samples with --calibrate"),
        (("--scheduler", "tcp://127.0.0.1:1"), "--scheduler says who measures what cuts lose; give samples"),
        (("--calibrate", DIGITS / "calibration.npz", "--scheduler", "nonsense"), "--scheduler nonsense: is no address"),
        (
            ("--calibrate", DIGITS / "calibration.npz", "--scheduler", "tcp://127.0.0.1:1", "--processes", "2"),
            "--processes and --scheduler exclude each other",
        ),
    ],
)
@pytest.mark.parametrize("verb", ["plan", "compress"])
def test_what_is_wrong_is_one_line_and_exit_code_2(
    verb: str, asked: tuple[str | Path, ...], reason: str, tmp_path: Path
) -> None:
    if "nonsense" in asked:
        pytest.importorskip("distributed", reason="dask.distributed is not installed")
    result = run(verb, *FILES, "-o", tmp_path / "out", *ASKED[:2], *asked)
    assert result.exit_code == 2
    assert reason in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
