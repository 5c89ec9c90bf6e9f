"""A Dask scheduler with workers in processes of their own, on loopback: `python -m tests.clusters` runs one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.shared import REPOSITORY

WORKERS = 3


@contextmanager
def cluster_address() -> Iterator[str]:
    """Give the address of a scheduler with three workers; skips the test without dask.distributed."""
    pytest.importorskip("distributed", reason="dask.distributed is not installed")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.clusters"]
    # Its log tells of the workers that a test kills.
    quiet: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, **quiet, text=True, env=environment) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address, "the cluster did not start"
        yield address
        process.communicate()  # The end of its input ends it.


def kill_a_busy_worker(client: Any) -> int:
    """Kill a worker that has something to do; return its process's number."""
    busy = [worker for worker, tasks in client.processing().items() if tasks]
    (pid,) = client.run(os.getpid, workers=busy[:1]).values()
    os.kill(pid, signal.SIGKILL)
    return int(pid)


def main() -> None:
    from distributed import LocalCluster

    local = {"dashboard_address": None, "worker_dashboard_address": None, "host": "127.0.0.1"}
    with LocalCluster(n_workers=WORKERS, threads_per_worker=1, processes=True, **local) as cluster:
        print(cluster.scheduler_address, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
