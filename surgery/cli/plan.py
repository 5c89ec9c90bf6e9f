"""`surgery plan`: choose cuts and write them as a plan, or several plans along a trade-off curve."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from surgery.cli import budgets, data, options, plan_view, tables, workers
from surgery.cli.progress import bar
from surgery.errors import NothingToCutError, PlanError

if TYPE_CHECKING:
    from surgery.choose import Request
    from surgery.cli.data import Progress
    from surgery.formats import Source
    from surgery.model import Model
    from surgery.plans import Plan


def asking_options(command: options.Command) -> options.Command:
    """Add all options that say what is asked of a plan, and what it is measured with."""
    return options.stacked(
        options.cut_options,
        budgets.budget_options,
        budgets.measuring_options,
        workers.measuring_worker_options,
        data.data_options,
        options.network_options,
    )(command)


@click.command()
@click.argument("files", nargs=-1, required=True, type=options.FILE)
@click.option("-o", "--output", type=options.FILE, help="File for the plan; default: standard output.")
@click.option("--markdown", type=options.FILE, metavar="FILE", help="Write the plan as a table for a reader as well.")
@click.option(
    "--sweep",
    metavar="M,M,...",
    help="A plan for each of these shares of the MACs, like 0.9,0.75,0.5; --output is then a folder for them and for "
    "the trade-off curve.",
)
@asking_options
def plan(files: tuple[Path, ...], output: Path | None, markdown: Path | None, sweep: str | None, **asked: Any) -> None:
    """Choose cuts and write them as a plan: JSON to read, edit and apply.

    Of a plan behind the model's files, cuts with "pinned": true and layers left with "forbidden": true stay as they
    are; the rest is chosen anew.

    \b
    Examples:
      surgery plan net.prototxt net.caffemodel -o plan.json --layer 'fc*' --energy 0.95
      surgery plan model.onnx -o plan.json --macs 0.5 --calibrate images/ --preprocess preprocess.json
      surgery plan model.onnx plan.json -o again.json --macs 0.4
      surgery plan model.onnx -o curve --sweep 0.9,0.75,0.5,0.33 --calibrate images/
    """
    from surgery.output import check_file, write_file
    from surgery.plans import Plan, to_json

    models, old = _split(files)
    source = _source(models, asked)
    if sweep is not None:
        _sweep(source, old, output, sweep, {**asked, "markdown": markdown})
        return
    for target in filter(None, (output, markdown)):
        check_file(target, (*files, *data.files(asked), *budgets.files(asked)))
    if asked["method"] == "none":
        data.check_none(asked, "nothing is cut")
        made = Plan(_digest(models), ())
    else:
        model = source.load()
        with bar() as progress:
            made = planned(source, model, asked, progress, old)
        if not made.cuts:
            raise NothingToCutError(tuple(f"{left.key}: {left.reason}" for left in made.left))
        made = _bound(model, made, asked)
    if markdown is not None:
        write_file(markdown, plan_view.markdown(made))
    if output is None:
        click.echo(to_json(made), nl=False)
        return
    write_file(output, to_json(made))
    click.echo(plan_view.text(made))
    click.echo(tables.printable(f"wrote {output}", 1000))


def planned(source: Source, model: Model, asked: dict[str, Any], progress: Progress, old: Plan | None = None) -> Plan:
    """Return the plan that the command line asks for, with all measured that it takes."""
    from surgery.planning import make_plan

    request = _request(model, asked, old)
    with workers.measuring_workers(asked) as runner:
        return make_plan(source, model, request, replace(budgets.means(asked), runner=runner), progress)


def _bound(model: Model, made: Plan, asked: dict[str, Any]) -> Plan:
    """Return a plan that remembers the data it is to be fitted to."""
    with data.calibration(model, keys(made), asked, made.seed) as given:
        return made if given is None else replace(made, calibration=given.record, refit=asked["refit"])


def keys(made: Plan) -> tuple[str, ...]:
    """Return all layers that a plan cuts."""
    return tuple(key for cut in made.cuts for key in cut.keys)


def _request(model: Model, asked: dict[str, Any], old: Plan | None) -> Request:
    request = options.request(asked, budgets.amount(asked))
    if old is None:
        return request
    if old.digest != model.format.digest(model):
        raise PlanError("the plan to go on from is for other files; leave it out")
    pinned = tuple(cut for cut in old.cuts if cut.pinned)
    return replace(request, pinned=pinned, forbidden=tuple(left.key for left in old.left if left.forbidden))


def _sweep(source: Source, old: Plan | None, output: Path | None, text: str, asked: dict[str, Any]) -> None:
    """Write a plan for each share, and the curve as table, JSON and plots."""
    from surgery.output import check_destination
    from surgery.planning import curve, sweep

    if output is None:
        raise PlanError("--sweep makes several files; give a folder for them with --output")
    for name in ("markdown", "max_drop"):
        if asked[name] is not None:
            raise PlanError(f"--sweep does not go with --{name.replace('_', '-')}; leave one of them out")
    check_destination(output, source.files)
    shares = _shares(text)
    model = source.load()
    request = _request(model, asked, old)
    with bar() as progress, workers.measuring_workers(asked) as runner:
        made = sweep(source, model, request, shares, replace(budgets.means(asked), runner=runner), progress)
    rows = curve.write(output, shares, [_bound(model, each, asked) for each in made])
    click.echo(plan_view.curve(rows))
    click.echo(tables.printable(f"wrote {output}", 1000))


def _shares(text: str) -> list[float]:
    try:
        shares = [float(part) for part in text.split(",")]
    except ValueError:
        shares = []
    if not shares or not all(0 < share <= 1 for share in shares):
        raise PlanError(f"--sweep is '{text[:60]}'; expected shares above 0 and at most 1, like 0.9,0.75,0.5")
    return sorted(set(shares), reverse=True)


def _split(files: tuple[Path, ...]) -> tuple[tuple[Path, ...], Plan | None]:
    """Return the model's files and the plan behind them."""
    from surgery.plans import from_json

    plans = [file for file in files if file.suffix == ".json"]
    if len(plans) > 1:
        raise PlanError(f"expected one plan (.json) behind the model's files, found {len(plans)}")
    if plans and not plans[0].is_file():
        raise PlanError(f"{plans[0]}: no such file")
    read = [from_json(each.read_text(encoding="utf-8", errors="replace"), each) for each in plans]
    return tuple(file for file in files if file not in plans), (read[0] if read else None)


def _source(files: tuple[Path, ...], asked: dict[str, Any]) -> Source:
    return options.source(files, asked["shapes"], asked["phase"], asked["level"], asked["stages"])


def _digest(files: tuple[Path, ...]) -> str:
    from surgery.formats import digest

    return digest(files)


__all__ = ["plan"]
