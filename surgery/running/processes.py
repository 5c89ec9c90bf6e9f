"""Carry out tasks on this machine, each in one of several processes: one that dies takes only its own task along."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path

from surgery.running.outcomes import Lost, Outcomes, Runner, outcomes
from surgery.running.task import Outcome, Task, perform

GRACE_S = 5.0  # for a worker to remove its temporary files

# concurrent.futures breaks a whole pool when one worker dies and does not say whose; pipes of our own do.
_SPAWN = multiprocessing.get_context("spawn")  # A fork of a process with BLAS threads may hang.


def default_processes(threads: int) -> int:
    """Return how many processes of so many threads keep the cores busy that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // threads)


@contextmanager
def local(processes: int) -> Iterator[Runner]:
    """Give a runner with so many processes; one process is this one."""
    yield _Local(processes)


@dataclass(frozen=True)
class _Local:
    workers: int

    def map(self, tasks: Sequence[Task], scratch: Path) -> Outcomes:
        """See `Runner`."""
        if min(self.workers, len(tasks)) <= 1:
            yield from outcomes(_Here(), tasks, scratch)
            return
        pool = _Processes(self.workers)
        try:
            yield from outcomes(pool, tasks, scratch)
        finally:
            pool.end()


class _Here:
    """Carries out a task in this process, at once."""

    def __init__(self) -> None:
        self.done: deque[tuple[int, Outcome]] = deque()

    def room(self) -> bool:
        return not self.done

    def start(self, index: int, task: Task, folder: Path) -> None:
        self.done.append((index, _performed(task, folder)))

    def finished(self) -> tuple[int, Outcome]:
        return self.done.popleft()

    def forget(self, index: int) -> None:
        pass


class _Worker:
    """A process at the other end of a pipe, and the number of the task it is at."""

    def __init__(self) -> None:
        self.pipe, theirs = _SPAWN.Pipe()
        # A daemon ends with this process.
        self.process = _SPAWN.Process(target=_serve, args=(theirs,), daemon=True)
        resource_tracker.ensure_running()  # Its start, which the first process's brings about, lets interrupts through.
        # Ctrl-C reaches all processes, at any time; the first ends the others, which never see it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()  # So that only the worker holds that end, and its death closes it.
        self.index: int | None = None


class _Processes:
    def __init__(self, processes: int) -> None:
        self.processes = processes
        self.workers: list[_Worker] = []

    def room(self) -> bool:
        return len(self._busy()) < self.processes

    def start(self, index: int, task: Task, folder: Path) -> None:
        idle = next((worker for worker in self.workers if worker.index is None), None)
        if idle is None:
            idle = _Worker()
            self.workers.append(idle)
        idle.index = index
        with suppress(BrokenPipeError, ConnectionResetError):  # It died while idle; `finished` finds that out.
            idle.pipe.send((task, folder))

    def finished(self) -> tuple[int, Outcome | Lost]:
        worker = next(worker for worker in self._busy() if worker.pipe in wait([w.pipe for w in self._busy()]))
        index, worker.index = worker.index, None
        assert index is not None
        try:
            return index, worker.pipe.recv()
        except (EOFError, ConnectionResetError):
            worker.process.join()
            self.workers.remove(worker)
            return index, Lost(_how(worker.process.exitcode or 0))

    def forget(self, index: int) -> None:
        pass

    def end(self) -> None:
        """End all workers, busy or not."""
        for worker in self.workers:
            worker.pipe.close()
            worker.process.terminate()
        for worker in self.workers:
            worker.process.join(GRACE_S)
            worker.process.kill()
            worker.process.join()

    def _busy(self) -> list[_Worker]:
        return [worker for worker in self.workers if worker.index is not None]


def _how(code: int) -> str:
    if code == -signal.SIGKILL:
        return "its process was stopped by SIGKILL: most likely there was not enough memory"
    return (
        f"its process was stopped by {signal.Signals(-code).name}"
        if code < 0
        else f"its process ended with code {code}"
    )


def _serve(pipe: Connection) -> None:
    """Carry out tasks until the pipe closes."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit())  # Unwinds, so that temporary files go.
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            pipe.send(_performed(*pipe.recv()))


def _performed(task: Task, folder: Path) -> Outcome:
    return perform(task.function, task.arguments, {name: file.path for name, file in task.files.items()}, folder)
