"""`surgery batch` as a person calls it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from surgery.choose import Amount, Request
from surgery.choose.latency import LatencyTable
from surgery.choose.latency_csv import to_csv
from surgery.choose.selecting import select
from surgery.cli import main
from surgery.errors import PlanError
from surgery.formats import load
from surgery.planning.timed import shapes_at_stake
from surgery.running import default_processes
from surgery.survey import survey
from tests.shared import REPOSITORY

DIGITS = REPOSITORY / "models" / "digits"
MODEL = Path("digits") / "digits.caffemodel"
ASKED = ("--macs", "0.6", "--layer", "ip*", "--layer", "conv2=tucker2", "--verify", "layers")


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    shutil.copytree(DIGITS, tmp_path / "zoo" / "digits")
    return tmp_path / "zoo"


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "timings.json"}


def test_it_writes_what_compress_writes(zoo: Path, tmp_path: Path) -> None:
    assert run("batch", zoo, "-o", tmp_path / "many", *ASKED).exit_code == 0
    files = (DIGITS / "deploy.prototxt", DIGITS / "digits.caffemodel")
    assert run("compress", *files, "-o", tmp_path / "one", *ASKED).exit_code == 0
    assert bytes_of(tmp_path / "many" / MODEL) == bytes_of(tmp_path / "one")


def test_method_none_copies(zoo: Path, tmp_path: Path) -> None:
    assert run("batch", zoo, "-o", tmp_path / "out", "--method", "none").exit_code == 0
    copied = tmp_path / "out" / MODEL / "deploy.caffemodel"
    assert copied.read_bytes() == (DIGITS / "digits.caffemodel").read_bytes()


def test_the_table_has_a_line_for_each_model_and_says_what_was_done_before(zoo: Path, tmp_path: Path) -> None:
    first, second = (run("batch", zoo, "-o", tmp_path / "out", *ASKED) for _ in range(2))
    assert first.exit_code == second.exit_code == 0
    heading, line, *_ = second.stdout.splitlines()
    assert heading.split() == ["model", "params", "MACs", "verified", "seconds"]
    assert line.split()[0] == str(MODEL)
    assert line.split()[-1] == "before"
    assert first.stdout.splitlines()[1].split()[-1] != "before"
    assert "1 of 1 models are done; see" in second.stdout


def table_in(folder: Path) -> Path:
    """Write times of the bundled network's layers, and of their cuts, that grow with the MACs."""
    model = load((DIGITS / "deploy.prototxt", DIGITS / "digits.caffemodel"))
    choices, _ = select(survey(model), Request(amount=Amount(speedup=2)))
    rows = {shape: shape.macs / 1e6 for choice in choices for shape in shapes_at_stake(choice)}
    path = folder / "times.csv"
    path.write_text(to_csv(LatencyTable("caffe", 1, "a board", rows)))
    return path


def test_times_of_another_machine_go_along_with_each_model(zoo: Path, tmp_path: Path) -> None:
    asked = ("--speedup", "2", "--table", table_in(tmp_path), "--verify", "none")
    shutil.copytree(DIGITS, zoo / "more")  # Two, so that there are two processes.
    assert run("batch", zoo, "-o", tmp_path / "many", "--processes", "2", *asked).exit_code == 0
    files = (DIGITS / "deploy.prototxt", DIGITS / "digits.caffemodel")
    assert run("compress", *files, "-o", tmp_path / "one", *asked).exit_code == 0
    assert bytes_of(tmp_path / "many" / MODEL) == bytes_of(tmp_path / "one")
    before, after = json.loads((tmp_path / "one" / "plan.json").read_text())["predicted"]["ms"]
    assert after <= before / 2


@pytest.mark.parametrize(
    ("asked", "processes"),
    [
        (("--macs", "0.5"), default_processes(1)),
        (("--macs", "0.5", "--threads", "1000"), 1),
        (("--speedup", "2"), 1),
        (("--latency", "1ms"), 1),
        (("--latency", "1ms", "--processes", "3"), 3),
        (("--speedup", "2", "--table"), default_processes(1)),
    ],
)
def test_where_times_are_measured_one_process_works_alone_unless_others_are_asked_for(
    asked: tuple[str, ...], processes: int, zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted: list[int] = []

    def refused(processes: int) -> None:
        wanted.append(processes)
        raise PlanError("enough")

    monkeypatch.setattr("surgery.running.local", refused)
    table = (table_in(tmp_path),) if asked[-1] == "--table" else ()
    assert "enough" in run("batch", zoo, "-o", tmp_path / "out", *asked, *table).stderr
    assert wanted == [processes]


def test_one_that_fails_is_a_line_and_exit_code_1(zoo: Path, tmp_path: Path) -> None:
    (zoo / "damaged.onnx").write_bytes(b"\xff" * 40)
    result = run("batch", zoo, "-o", tmp_path / "out", *ASKED)
    assert result.exit_code == 1
    assert "skipped: damaged.onnx: damaged.onnx: at byte " in result.stdout
    assert "1 of 2 models are done" in result.stdout


def test_json_tells_all(zoo: Path, tmp_path: Path) -> None:
    (row,) = json.loads(run("batch", zoo, "-o", tmp_path / "out", "--json", *ASKED).stdout)
    assert (row["model"], row["status"], row["reason"]) == (str(MODEL), "done", None)
    assert row["macs"][1] <= 0.6 * row["macs"][0]
    assert row["seconds"] > 0
    reports = {"report.json", "report.html", "report.md"}
    assert {"plan.json", "deploy.prototxt", "deploy.caffemodel"} | reports == set(row["results"])


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("-o", "out", "--macs", "2"), "macs is 2.0; expected a share"),
        (("-o", "zoo/out", "--macs", "0.5"), "must not lie in each other"),
        (("-o", "out", "--macs", "0.5", "--processes", "2", "--scheduler", "tcp://127.0.0.1:1"), "exclude each other"),
        (("-o", "out", "--macs", "0.5", "--scheduler", "nonsense"), "--scheduler"),
        (("-o", "out", "--max-drop", "1%"), "--max-drop needs samples, which networks do not share"),
        (("-o", "out", "--macs", "0.5", "--calibrate", "images"), "--calibrate"),
        (("-o", "out", "--speedup", "2", "--table", "none.csv"), "none.csv: no such file"),
        (("-o", "out", "--speedup", "0.5"), "speedup is 0.5; expected a number above 1"),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_code_2(
    arguments: tuple[str, ...], reason: str, zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("batch", "zoo", *arguments)
    assert result.exit_code == 2
    assert reason in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_interrupt_keeps_what_is_done_and_ends_with_130(zoo: Path, tmp_path: Path) -> None:
    for i in range(8):
        shutil.copytree(DIGITS, zoo / f"more{i}")
    places = (str(zoo), "-o", str(tmp_path / "out"))
    command = [sys.executable, "-m", "surgery", "batch", *places, "--processes", "2", *ASKED]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, cwd=REPOSITORY, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        while not (done := statuses(tmp_path / "out").count("done")):
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGINT)  # As a terminal does.
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err.strip()) == (130, "surgery: interrupted")
    kept = statuses(tmp_path / "out")
    assert kept.count("done") >= done
    assert "waiting" in kept
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]
    result = run("batch", zoo, "-o", tmp_path / "out", *ASKED)
    assert result.exit_code == 0
    assert result.stdout.count(" before\n") == kept.count("done")


def statuses(output: Path) -> list[str]:
    try:
        return [row["status"] for row in json.loads((output / "batch.json").read_text())["models"]]
    except FileNotFoundError:
        return []
