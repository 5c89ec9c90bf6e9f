"""Hand jobs to worker processes, because a runtime that dislikes a file may abort the process it lives in."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from surgery.runtime.engine import Array, Job

WORKER = Path(__file__).with_name("worker.py")


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
    engine: str,
    jobs: Sequence[Job],
    *,
    task: str,
    python: Sequence[str | Path],
    environment: Mapping[str, str],
    threads: int,
) -> list[Success | Failure]:
    """Return one outcome for each job, in order.

    `task` is the worker's function, `python` the interpreter's command line. Jobs share one interpreter, and
    so the seconds it takes to start; each runs in a fork of it, so that only its own job dies with it.
    """
    # Without fork (Windows) a process for each job gives the same isolation, only slower.
    batches = [list(jobs)] if hasattr(os, "fork") else [[job] for job in jobs]
    outcomes: list[Success | Failure] = []
    for batch in batches:
        with tempfile.TemporaryDirectory(prefix="surgery-") as name:
            folder = Path(name)
            _write_request(folder, engine, task, batch, threads)
            process = subprocess.run(
                [*python, WORKER, folder],
                env={**os.environ, **environment, **thread_limits(threads)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                check=False,
            )
            startup_log = process.stderr.decode(errors="replace")
            outcomes += [_read_outcome(folder / str(i), process.returncode, startup_log) for i in range(len(batch))]
    return outcomes


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
                np.save(own / f"in-{i}-{j}.npy", np.ascontiguousarray(array, dtype=np.float32).reshape(array.shape))
        request = {
            "engine": engine,
            "task": task,
            "threads": threads,
            "prototxt": str(job.prototxt.absolute()),
            "weights": None if job.weights is None else str(job.weights.absolute()),
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
