"""Options that say who does work that falls into parts: processes of this machine, or a cluster."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import click

from surgery.cli.options import Command, stacked
from surgery.errors import PlanError

if TYPE_CHECKING:
    from surgery.running import Runner


def worker_options(processes: str) -> Callable[[Command], Command]:
    """Return what adds the options, with the help for --processes."""
    return lambda command: stacked(
        click.option("--processes", type=click.IntRange(1, 1024), metavar="N", help=processes),
        click.option(
            "--scheduler", metavar="ADDRESS", help="Work on the Dask cluster there, like tcp://10.0.0.5:8786."
        ),
    )(command)


# One process by default: each holds a network and its maps, and runs again what is before its layers.
measuring_worker_options = worker_options(
    "Measure what cuts lose in so many processes, each as large as one. Default: 1."
)


def workers(asked: dict[str, Any], processes: int) -> AbstractContextManager[Runner]:
    """Return a runner with the workers that the command line names, by default so many processes."""
    from surgery.running import cluster, local

    if asked["scheduler"] is None:
        return local(asked["processes"] or processes)
    if asked["processes"] is not None:
        raise click.UsageError("--processes and --scheduler exclude each other: a cluster has its own workers")
    return cluster(asked["scheduler"])


def measuring_workers(asked: dict[str, Any]) -> AbstractContextManager[Runner | None]:
    """Return a runner to measure a network in parts with, None where this process does all."""
    named = next((name for name in ("processes", "scheduler") if asked[name] is not None), None)
    if named is None:
        return nullcontext()
    if asked["calibrate"] is None:
        raise PlanError(f"--{named} says who measures what cuts lose; give samples with --calibrate, or leave it out")
    return workers(asked, 1)
