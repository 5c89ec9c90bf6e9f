"""The outcomes of tasks as they come: workers are kept busy, and a task whose worker was lost is started again."""

from __future__ import annotations

import shutil
from collections import Counter, deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from surgery.running.task import Failure, Outcome, Task

TRIES = 3
Outcomes = Generator[tuple[int, Outcome], None, None]  # A task's number, and what became of it.


class Runner(Protocol):
    """Carries out tasks."""

    @property
    def workers(self) -> int:
        """How many tasks it carries out at a time."""
        ...

    def map(self, tasks: Sequence[Task], scratch: Path) -> Outcomes:
        """Yield each task's number and what became of it, as they finish.

        Results come in folders below `scratch`, and go with the next outcome. Closed early, it ends its workers.
        """
        ...


@dataclass(frozen=True)
class Lost:
    """The worker, or what it held, was lost before there was an outcome."""

    reason: str


class Pool(Protocol):
    """Workers, each of which carries out a task at a time."""

    def room(self) -> bool:
        """Return whether one more task can be started now; never False while none is running."""
        ...

    def start(self, index: int, task: Task, folder: Path) -> None:
        """Begin a task, whose results go into the empty `folder`."""
        ...

    def finished(self) -> tuple[int, Outcome | Lost]:
        """Wait for one of the tasks that were started."""
        ...

    def forget(self, index: int) -> None:
        """Let go of what is held for a task that has its outcome."""
        ...


def outcomes(pool: Pool, tasks: Sequence[Task], scratch: Path) -> Outcomes:
    """Carry out `tasks` in `pool`; see `Runner.map`. A task that lost its worker TRIES times has failed."""
    waiting, running, tries = deque(range(len(tasks))), 0, Counter[int]()
    while waiting or running:
        while waiting and pool.room():
            index = waiting.popleft()
            pool.start(index, tasks[index], _empty(scratch / str(index)))
            tries[index] += 1
            running += 1
        index, outcome = pool.finished()
        running -= 1
        if isinstance(outcome, Lost) and tries[index] < TRIES:
            waiting.append(index)
            continue
        yield index, Failure(f"{outcome.reason} ({TRIES} times)") if isinstance(outcome, Lost) else outcome
        shutil.rmtree(scratch / str(index))
        pool.forget(index)


def _empty(folder: Path) -> Path:
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir()
    return folder
