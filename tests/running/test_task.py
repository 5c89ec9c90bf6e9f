"""A task's key tells all that its result depends on; what goes wrong in it is one line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from surgery.running import Done, Failure, File, Task
from surgery.running.task import perform
from tests.running import deeds


@pytest.fixture
def task(tmp_path: Path) -> Task:
    (tmp_path / "one.txt").write_text("one")
    return Task(deeds.joined, {"mark": "m"}, {"a/one.txt": File.of(tmp_path / "one.txt")})


def test_the_key_changes_with_function_arguments_names_and_bytes(task: Task, tmp_path: Path) -> None:
    (file,) = task.files.values()
    (tmp_path / "other.txt").write_text("other")
    others = [
        replace(task, function=deeds.refused),
        replace(task, arguments={"mark": "n"}),
        replace(task, files={"b/one.txt": file}),
        replace(task, files={"a/one.txt": File.of(tmp_path / "other.txt")}),
    ]
    assert len({task.key, *(other.key for other in others)}) == 5


def test_the_key_is_the_same_wherever_the_files_lie(task: Task, tmp_path: Path) -> None:
    (tmp_path / "elsewhere.txt").write_text("one")
    assert replace(task, files={"a/one.txt": File.of(tmp_path / "elsewhere.txt")}).key == task.key


def test_the_key_changes_with_the_version(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    before = task.key
    monkeypatch.setattr("surgery.running.task.__version__", "0.0.0")
    assert task.key != before


def test_the_value_is_what_json_makes_of_it(task: Task, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    outcome = perform(task.function, task.arguments, {"a/one.txt": tmp_path / "one.txt"}, tmp_path / "out")
    assert outcome == Done({"length": 4, "names": ["a/one.txt"]}, tmp_path / "out")


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (deeds.refused, "a/one.txt: holds nothing of use, and /x neither"),
        (deeds.missing, "/absent.txt: No such file or directory"),
        (deeds.faulty, "a fault of this tool, please report it: KeyError at deeds.py:"),
    ],
)
def test_what_goes_wrong_is_one_line_without_paths(function: object, reason: str, tmp_path: Path) -> None:
    outcome = perform(function, {}, {"a/one.txt": tmp_path / "one.txt"}, tmp_path / "out")  # type: ignore[arg-type]
    assert isinstance(outcome, Failure)
    assert outcome.reason.startswith(reason)
    assert str(tmp_path) not in outcome.reason
