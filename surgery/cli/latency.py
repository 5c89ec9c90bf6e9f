"""The part of `surgery bench` that times single layers, or writes what a device needs to do so."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from surgery.cli import options
from surgery.cli.progress import bar
from surgery.errors import NothingToCutError, PlanError
from surgery.output import check_destination, check_file, staged, write_file

if TYPE_CHECKING:
    from surgery.choose.latency import Shape
    from surgery.formats import Source
    from surgery.model import Model


def layer_options(command: options.Command) -> options.Command:
    """Add the options that ask for the times of layers."""
    return options.stacked(
        click.option("--table", type=options.FILE, metavar="CSV", help="Time single layers and write this file."),
        click.option(
            "--device-files", type=options.FILE, metavar="DIR", help="Write files to time layers by `caffe time`."
        ),
        click.option(
            "--method", metavar="NAME[,NAME]", help="Methods whose cuts are timed; by default those of `surgery plan`."
        ),
        click.option("--fresh", is_flag=True, help="With --table: measure anew what is known from earlier runs."),
    )(command)


def layer_times(
    models: Sequence[tuple[Source, Model]], runtimes: Sequence[str], repeat: int | None, asked: dict[str, Any]
) -> dict[str, Any]:
    """Write the table or the folder that was asked for, and return what was made; raises PlanError."""
    if asked["table"] is not None and asked["device_files"] is not None:
        raise PlanError("--table measures here and --device-files elsewhere; give one of them")
    option = "--device-files" if asked["table"] is None else "--table"
    if len(models) != 1 or len(runtimes) != 1:
        raise PlanError(f"{option} is for one model in one runtime; found {len(models)} and {len(runtimes)}")
    ((source, model),) = models
    if asked["table"] is None:
        return _device_files(asked["device_files"], source, _shapes(model, asked["method"]), asked["threads"])
    check_file(asked["table"], source.files)
    if asked["table"].exists():
        raise PlanError(f"--table {asked['table']}: is there already, perhaps with times of a device; give a new name")
    return _table(asked["table"], _shapes(model, asked["method"]), runtimes[0], repeat, asked)


def told(made: dict[str, Any]) -> str:
    """Return what was made as a line."""
    if "folder" in made:
        return f"{made['folder']}: {made['shapes']} layers to time; {made['read']} says how"
    return f"{made['table']}: {made['shapes']} layers timed in {made['runtime']} on {made['machine']}"


def _shapes(model: Model, methods: str | None) -> list[Shape]:
    """Return the shapes that a plan by these methods asks for."""
    from surgery.choose import Amount, Request
    from surgery.choose.request import parse_methods
    from surgery.choose.selecting import Choice
    from surgery.factor import METHODS
    from surgery.planning.timed import shapes_at_stake
    from surgery.survey import survey

    chosen = [METHODS[name] for name in (parse_methods(methods) if methods else Request().methods)]
    found: dict[Shape, None] = {}
    for site in survey(model, chosen).sites:
        able = tuple(method for method in chosen if method.name in site.break_even)
        found |= dict.fromkeys(shapes_at_stake(Choice(site, able, Amount())))
    if not found:
        raise NothingToCutError(())
    return list(found)


def _table(
    file: Path, shapes: Sequence[Shape], runtime: str, repeat: int | None, asked: dict[str, Any]
) -> dict[str, Any]:
    from surgery.choose.latency_csv import to_csv
    from surgery.measure.latency import ROUNDS, measure_table

    with bar() as progress:
        table = measure_table(
            shapes,
            runtime,
            threads=asked["threads"],
            rounds=repeat or ROUNDS,
            warmup=asked["warmup"],
            progress=progress,
            known=not asked["fresh"],
        )
    write_file(file, to_csv(table))
    return {"table": str(file), "shapes": len(shapes), "runtime": runtime, "machine": table.machine}


def _device_files(folder: Path, source: Source, shapes: Sequence[Shape], threads: int) -> dict[str, Any]:
    from surgery.measure.device import README, device_files

    check_destination(folder, source.files)
    with staged(folder) as staging:
        device_files(shapes, staging, threads=threads)
    return {"folder": str(folder), "shapes": len(shapes), "runtime": "caffe", "read": str(folder / README)}
