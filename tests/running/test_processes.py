"""Tasks give the same on one process and on several; a process that dies takes nothing else along."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from surgery.running import Done, Failure, File, Outcome, Runner, Task, default_processes, local
from surgery.running.processes import _Processes
from tests.running import deeds
from tests.shared import REPOSITORY

TEXTS = ("first", "second", "third")


def tasks_in(folder: Path) -> list[Task]:
    """A task for each text, which reads a file of its own and one that all share."""
    for text in TEXTS:
        (folder / f"{text}.txt").write_text(text)
    shared = File.of(folder / "first.txt")
    return [Task(deeds.joined, {}, {"a/b.txt": shared, "c.txt": File.of(folder / f"{t}.txt")}) for t in TEXTS]


def outcomes_of(runner: Runner, tasks: list[Task], folder: Path) -> dict[int, object]:
    """What came of each task: a reason, or its value and the files it wrote."""
    scratch = folder / "scratch"
    scratch.mkdir()
    found = {index: told(outcome) for index, outcome in runner.map(tasks, scratch)}
    assert not list(scratch.iterdir())
    scratch.rmdir()
    return found


def told(outcome: Outcome) -> object:
    if isinstance(outcome, Failure):
        return outcome.reason
    paths = sorted(path for path in outcome.folder.rglob("*") if path.is_file())
    return outcome.value, {path.relative_to(outcome.folder).as_posix(): path.read_text() for path in paths}


@pytest.mark.parametrize("processes", [1, 2])
def test_every_task_gives_its_value_and_its_files(processes: int, tmp_path: Path) -> None:
    with local(processes) as runner:
        found = outcomes_of(runner, tasks_in(tmp_path), tmp_path)
    texts = ["first" + text for text in TEXTS]
    assert found == {
        i: (
            {"length": len(text), "names": ["a/b.txt", "c.txt"]},
            {"deep/length.txt": str(len(text)), "joined.txt": text},
        )
        for i, text in enumerate(texts)
    }


def test_a_task_whose_process_was_killed_is_done_again_and_one_that_always_dies_has_failed(tmp_path: Path) -> None:
    whole = tasks_in(tmp_path)
    tasks = [
        Task(deeds.killed_at_first, {"mark": str(tmp_path / "mark")}, whole[0].files),
        Task(deeds.killed, {}, {}),
        *whole,
    ]
    with local(2) as runner:
        found = outcomes_of(runner, tasks, tmp_path)
    with local(1) as runner:
        assert outcomes_of(runner, whole, tmp_path) == {i: found[i + 2] for i in range(3)}
    assert found[0] == found[2]
    assert found[1] == "its process was stopped by SIGKILL: most likely there was not enough memory (3 times)"


def test_left_early_no_worker_lives_on(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    tasks = [Task(deeds.slow, {"mark": str(mark)}, {}), *tasks_in(tmp_path)]
    with local(2) as runner, closing(runner.map(tasks, tmp_path)) as outcomes:
        assert isinstance(next(outcomes)[1], Done)
        while not (mark.exists() and mark.read_text()):
            time.sleep(0.01)
    assert not is_alive(int(mark.read_text()))


INTERRUPTED = """
import sys
from pathlib import Path
from surgery.running import Task, local
from tests.running import deeds

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    tasks = [Task(deeds.slow, {"mark": str(folder / f"mark{i}")}, {}) for i in range(2)]
    with local(2) as runner:
        try:
            list(runner.map(tasks, folder))
        except KeyboardInterrupt:
            print("interrupted")
"""


def test_an_interrupt_ends_the_workers_without_a_word_of_theirs(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(INTERRUPTED)
    command = [sys.executable, tmp_path / "program.py", tmp_path]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=environment, text=True, start_new_session=True, **pipes) as process:  # type: ignore[call-overload]
        marks = [tmp_path / "mark0", tmp_path / "mark1"]
        while not all(mark.exists() and mark.read_text() for mark in marks):
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)  # As a terminal does.
        out, err = process.communicate(timeout=60)
    assert (out, err) == ("interrupted\n", "")
    assert not any(is_alive(int(mark.read_text())) for mark in marks)


def test_an_interrupt_passes_by_a_worker_that_has_only_just_been_started(tmp_path: Path) -> None:
    task, *_ = tasks_in(tmp_path)
    pool = _Processes(1)
    (tmp_path / "out").mkdir()
    pool.start(0, task, tmp_path / "out")
    os.kill(pool.workers[0].process.pid or 0, signal.SIGINT)  # It has yet to import all.
    assert isinstance(pool.finished()[1], Done)
    pool.end()


def test_the_default_leaves_each_process_its_threads() -> None:
    assert default_processes(1) >= default_processes(2) >= 1
    assert default_processes(10**6) == 1


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
