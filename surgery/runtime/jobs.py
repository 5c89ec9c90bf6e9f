"""Hand jobs to worker processes, because a runtime that dislikes a file may abort the process it lives in."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from surgery.runtime.engine import Array, Job, Passes

WORKER = Path(__file__).with_name("worker.py")
LIMIT_S = 600  # for loading a net, and for one pass: minutes more than the slowest engine takes for the largest net


@dataclass(frozen=True)
class Interpreter:
    """How an engine's worker is started: the Python's command line, and what its environment adds to ours."""

    command: Sequence[str | Path]
    environment: Mapping[str, str]

    @classmethod
    def own(cls) -> Interpreter:
        """Return the interpreter that surgery itself runs in, for engines that are installed beside it."""
        # Without its own folder first in the path, where modules of the same names as engines live.
        return cls([sys.executable, "-P"], {})


@dataclass(frozen=True)
class Success:
    """What a worker made of one job: the blobs of each input set, or what else the job asked for."""

    blobs: list[dict[str, Array]]
    facts: dict[str, Any]  # JSON


@dataclass(frozen=True)
class Failure:
    """How one job ended early.

    Attributes:
        error: what a Python exception said, or None if the process died.
        signal: the name of the signal that ended the process, or None.
        position: the layer that was running, or None if the net did not run yet.
        log: all that the process had written to standard error.
    """

    error: str | None
    signal: str | None
    position: str | None
    log: str


def run_in_worker(
    engine: str, jobs: Sequence[Job], *, task: str, python: Interpreter, threads: int
) -> list[Success | Failure]:
    """Return one outcome for each job, in order.

    `task` is the worker's function. Jobs share one interpreter, and so the seconds it takes to start; each runs in a
    fork of it, so that only its own job dies with it.
    """
    if not jobs:
        return []
    # Without fork (Windows) a process for each job gives the same isolation, only slower.
    batches = [list(jobs)] if hasattr(os, "fork") else [[job] for job in jobs]
    outcomes: list[Success | Failure] = []
    for batch in batches:
        with tempfile.TemporaryDirectory(prefix="surgery-") as name:
            folder = Path(name)
            _write_request(folder, engine, task, batch, threads)
            process = subprocess.run(
                [*python.command, WORKER, folder],
                env={**os.environ, **python.environment, **thread_limits(threads)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                check=False,
            )
            startup_log = process.stderr.decode(errors="replace")
            outcomes += [_read_outcome(folder / str(i), process.returncode, startup_log) for i in range(len(batch))]
    return outcomes


class EndedEarlyError(Exception):
    """A worker that was to be timed ended before it was told to; `failure` says how."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.error)
        self.failure = failure


@contextmanager
def timed_in_worker(engine: str, job: Job, *, python: Interpreter, threads: int) -> Iterator[Passes]:
    """Load the job's net in a worker and hand out what runs it; raises EndedEarlyError, then or when it is called."""
    with tempfile.TemporaryDirectory(prefix="surgery-") as name:
        folder = Path(name)
        _write_request(folder, engine, "time", [job], threads)
        with subprocess.Popen(
            [*python.command, WORKER, folder],
            env={**os.environ, **python.environment, **thread_limits(threads)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            bufsize=1,  # A line is an order.
        ) as process:
            timed = _TimedWorker(process, folder / "0")
            try:
                timed.answer()  # Once it is loaded.
                yield timed
            finally:
                timed.end()


class _TimedWorker:
    """Sends a number of passes to a worker and gets the seconds back that they took.

    They are measured there, so that neither the pipe nor another worker that takes turns with this one counts.
    """

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self._process = process
        self._folder = folder

    def __call__(self, number: int) -> float:
        """Run `number` passes and return the seconds they took together."""
        with suppress(BrokenPipeError):  # A dead worker does not answer; that tells more than the broken pipe.
            cast("IO[str]", self._process.stdin).write(f"{number}\n")
        return float(self.answer())

    def answer(self) -> str:
        """Return the worker's next line; raises EndedEarlyError."""
        line = cast("IO[str]", self._process.stdout).readline()
        if line:
            return line
        self._process.wait()
        outcome = _read_outcome(self._folder, self._process.returncode, "")
        raise EndedEarlyError(outcome if isinstance(outcome, Failure) else Failure("ended early", None, None, ""))

    def end(self) -> None:
        """End the worker: there are no more orders."""
        with suppress(BrokenPipeError):
            cast("IO[str]", self._process.stdin).close()


_SIGNALS = {
    "SIGFPE": "an integer division by zero, as a stride of 0 causes",
    "SIGSEGV": "memory that is not its own was read or written",
    "SIGABRT": "it gave itself up without a message",
    "SIGKILL": "most likely there was not enough memory",
    "SIGALRM": f"loading it, or one pass over one input, took longer than {LIMIT_S} s",
}


def stopped(failure: Failure) -> str:
    """Return, for a process that died without an exception, what of or its last words."""
    if failure.signal is not None:
        meaning = _SIGNALS.get(failure.signal)
        return f"stopped by {failure.signal}" + (f": {meaning}" if meaning else "")
    return failure.log.strip().rsplit("\n", 1)[-1] or "stopped without a message"


def thread_limits(threads: int) -> dict[str, str]:
    """Return the environment that keeps a process's BLAS to `threads` threads."""
    return {"OPENBLAS_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}


def _write_request(folder: Path, engine: str, task: str, jobs: Sequence[Job], threads: int) -> None:
    for number, job in enumerate(jobs):
        own = folder / str(number)
        own.mkdir()
        for i, arrays in enumerate(job.inputs):
            # Blob names may hold '/' and anything else, so names travel in the request and files are numbered.
            for j, array in enumerate(arrays.values()):
                np.save(own / f"in-{i}-{j}.npy", array, allow_pickle=False)
        request = {
            "engine": engine,
            "task": task,
            "threads": threads,
            "limit_s": LIMIT_S,
            "files": [str(path.absolute()) for path in job.files],
            "inputs": [list(arrays) for arrays in job.inputs],
            "outputs": None if job.outputs is None else list(job.outputs),
            "all_blobs": job.all_blobs,
            "phase": job.phase,
            "level": job.level,
            "stages": list(job.stages),
        }
        (own / "request.json").write_text(json.dumps(request), encoding="utf-8")


def _read_outcome(own: Path, returncode: int, startup_log: str) -> Success | Failure:
    result = _json_or_empty(own / "result.json")
    if "error" not in result and "blobs" in result:
        blobs = [
            {name: np.load(own / f"out-{i}-{j}.npy") for j, name in enumerate(names)}
            for i, names in enumerate(result["blobs"])
        ]
        return Success(blobs, result["facts"])
    log = own / "log.txt"
    position = own / "position.txt"
    return Failure(
        error=result.get("error"),
        signal=result.get("signal") or signal_name(returncode),
        position=position.read_text(encoding="utf-8").split("\n")[0] or None if position.exists() else None,
        log=log.read_text(encoding="utf-8", errors="replace") if log.exists() else startup_log,
    )


def _json_or_empty(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def signal_name(returncode: int) -> str | None:
    """Return the name of the signal that ended a process, or None if it ended by itself."""
    return signal.Signals(-returncode).name if returncode < 0 else None
