"""`surgery compress`, `plan` and `apply`: choose cuts, carry them out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from surgery.cli import data, options, tables
from surgery.cli.progress import bar
from surgery.errors import NothingToCutError, PlanError

if TYPE_CHECKING:
    from surgery.formats import Source
    from surgery.pipeline import Outcome
    from surgery.plans import Plan

RUNTIMES = click.Choice(["auto", "caffe", "onnxruntime", "opencv", "layers", "none"])


def _verify_option(command: Any) -> Any:
    return click.option(
        "--verify",
        "runtime",
        type=RUNTIMES,
        default="auto",
        show_default=True,
        help="Runtime that checks the written files: the first of caffe, onnxruntime and opencv that is "
        "there and takes them; 'layers' checks each cut layer alone; 'none' checks nothing.",
    )(command)


@click.command()
@click.argument("files", nargs=-1, required=True, type=options.FILE)
@click.option("-o", "--output", required=True, type=options.FILE, help="Folder for the results.")
@options.cut_options
@data.data_options
@options.network_options
@_verify_option
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def compress(files: tuple[Path, ...], output: Path, runtime: str, *, as_json: bool, **asked: Any) -> None:
    """Cut a network's layers, verify the result and write it.

    \b
    Examples:
      surgery compress net.prototxt net.caffemodel -o small --params 0.3
      surgery compress net.prototxt net.caffemodel -o small --layer 'fc6=svd:rank=256' --layer 'fc7=svd:energy=0.9'
      surgery compress net.prototxt net.caffemodel -o copy --method none
      surgery compress model.onnx -o small --macs 0.5
      surgery compress model.onnx -o small --macs 0.5 --calibrate images/ --preprocess preprocess.json
    """
    from surgery.output import check_destination
    from surgery.pipeline import carry_out, copy_through

    source = _source(files, asked)
    check_destination(output, files)
    if asked["method"] == "none":
        data.check_none(asked, "nothing is cut")
        outcome = copy_through(source, output)
    else:
        model = source.load()
        made = _plan(model, asked)
        with bar() as progress, data.calibration(model, _keys(made), asked, made.seed, progress) as given:
            made = made if given is None else replace(made, calibration=given.record, refit=asked["refit"])
            outcome = carry_out(source, model, made, output, _engines(runtime), progress, given)
    _show(outcome, as_json=as_json)


@click.command()
@click.argument("files", nargs=-1, required=True, type=options.FILE)
@click.option("-o", "--output", type=options.FILE, help="File for the plan; default: standard output.")
@options.cut_options
@data.data_options
@options.network_options
def plan(files: tuple[Path, ...], output: Path | None, **asked: Any) -> None:
    """Choose cuts and write them as a plan: JSON to read, edit and apply.

    \b
    Example:
      surgery plan net.prototxt net.caffemodel -o plan.json --layer 'fc*' --energy 0.95
    """
    from surgery.formats import digest
    from surgery.output import check_file, write_file
    from surgery.plans import Plan, to_json

    if output is not None:
        check_file(output, (*files, *data.files(asked)))
    if asked["method"] == "none":
        data.check_none(asked, "nothing is cut")
        made = Plan(digest(files), ())
    else:
        source = _source(files, asked)
        model = source.load()
        made = _plan(model, asked)
        if not made.cuts:
            raise NothingToCutError(tuple(f"{left.key}: {left.reason}" for left in made.left))
        with data.calibration(model, _keys(made), asked, made.seed) as given:
            made = made if given is None else replace(made, calibration=given.record, refit=asked["refit"])
    if output is None:
        click.echo(to_json(made), nl=False)
        return
    write_file(output, to_json(made))


@click.command()
@click.argument("files", nargs=-1, required=True, type=options.FILE)
@click.option("-o", "--output", required=True, type=options.FILE, help="Folder for the results.")
@data.again_options
@click.option("--weights-only", is_flag=True, help="Carry out a plan that is fitted to data without any; worse.")
@options.network_options
@_verify_option
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def apply(
    files: tuple[Path, ...], output: Path, runtime: str, *, weights_only: bool, as_json: bool, **asked: Any
) -> None:
    """Carry out a plan: the model's files, then plan.json.

    A plan that was fitted to calibration data needs the same data again, or its statistics.

    \b
    Example:
      surgery apply net.prototxt net.caffemodel plan.json -o small
    """
    from surgery.pipeline import carry_out, check_calibration, check_source, copy_through
    from surgery.plans import from_json

    plans = [file for file in files if file.suffix == ".json"]
    if len(plans) != 1:
        raise PlanError(f"expected one plan (.json) behind the model's files, found {len(plans)}")
    if not plans[0].is_file():
        raise PlanError(f"{plans[0]}: no such file")
    chosen = from_json(plans[0].read_text(encoding="utf-8", errors="replace"), plans[0])
    source = _source(tuple(file for file in files if file != plans[0]), asked)
    check_source(source.files, chosen)
    if chosen.calibration is None:
        data.check_none(asked, "the plan was made without data")
        weights_only = False
    if weights_only:
        data.check_none(asked, "--weights-only is asked for")
        chosen = replace(chosen, calibration=None, refit=False)
    notes = ["fitted to the weights only, though the plan was made with calibration data"] if weights_only else []
    if not chosen.cuts:
        outcome = copy_through(source, output)
    else:
        model = source.load()
        with bar() as progress, data.recorded(model, chosen, asked, progress) as given:
            check_calibration(chosen, given)
            outcome = carry_out(source, model, chosen, output, _engines(runtime), progress, given, notes)
    _show(outcome, as_json=as_json)


def _source(files: tuple[Path, ...], asked: dict[str, Any]) -> Source:
    return options.source(files, asked["shapes"], asked["phase"], asked["level"], asked["stages"])


def _keys(made: Plan) -> tuple[str, ...]:
    return tuple(key for cut in made.cuts for key in cut.keys)


def _plan(model: Any, asked: dict[str, Any]) -> Plan:
    from surgery.pipeline import make_plan

    amounts = ("rank", "energy", "params", "macs")
    names = ("layers", "method", *amounts, "algorithm", "options", "share", "force", "seed", "threads")
    return make_plan(model, options.request(**{name: asked[name] for name in names}))[1]


def _engines(runtime: str) -> Sequence[str] | None:
    from surgery.pipeline import AUTO_ENGINES

    return {"auto": AUTO_ENGINES, "layers": (), "none": None}.get(runtime, (runtime,))


def _show(outcome: Outcome, *, as_json: bool) -> None:
    report: Any = outcome.report
    if as_json:
        click.echo(tables.as_json(report))
        return
    has_data = report["calibration"] is not None
    heading = ("layer", "method", "rank", "params", "", "MACs", "", "weight error")
    rows: list[tuple[str, ...]] = [(*heading, *(("response error",) if has_data else ()), "solve s")]
    for row in report["layers"]:
        (p0, p1), (m0, m1) = row["params"], row["macs"]
        rank = "x".join(map(str, row["rank"]))
        share = (f"{p0:,} -> {p1:,}", tables.change(p0, p1), f"{tables.count(m0)} -> {tables.count(m1)}")
        errors = (f"{row['weight_error']:.4f}", *((_response(row),) if has_data else ()))
        name = tables.printable(row["layer"], 60)
        rows.append(
            (name, row["method"], rank, *share, tables.change(m0, m1), *errors, _seconds(outcome, row["layer"]))
        )
    if len(rows) > 1:
        click.echo(tables.table(rows, frozenset({2, 4, 6, 7, 8, 9})) + "\n")
    for name, shown in (("params", tables.count), ("macs", tables.count), ("weight_bytes", tables.size)):
        if report["totals"]:
            a, b = report["totals"]["before"][name], report["totals"]["after"][name]
            click.echo(f"{name.replace('_', ' '):13} {shown(a)} -> {shown(b)}  {tables.change(a, b)}")
    for row in report["layers"]:
        if row["multiplications"] is not None:
            text = f"{row['layer']}: {tables.count(row['multiplications'])} multiplications are left"
            click.echo(tables.printable(f"{text} of {tables.count(row['macs'][0])}; the rest are additions"))
    for left in report["left"]:
        click.echo(tables.printable(f"left alone: {left['layer']}: {left['reason']}"))
    for note in report["notes"]:
        click.echo(f"note: {note}")
    click.echo(tables.printable(_verified(report["verified"], cut=bool(report["layers"])), 1000))
    click.echo("wrote " + " ".join(str(path) for path in outcome.files))


def _seconds(outcome: Outcome, layer: str) -> str:
    solved = outcome.timings.get("layers", {}).get(layer)
    return "" if solved is None else f"{solved['solve']:.2f}"


def _response(row: dict[str, Any]) -> str:
    return "?" if row["response_error"] is None else f"{row['response_error']:.4f}"


def _verified(verified: dict[str, Any] | None, *, cut: bool) -> str:
    if verified is None:
        return "not verified: --verify none" if cut else "copied byte for byte: nothing was cut"
    why = f" ({verified['reason']})" if verified["reason"] else ""
    return (
        f"verified: {verified['runtime']}{why}; {verified['blobs']} blobs, "
        f"worst relative L2 {verified['worst_rel_l2']:.1e} at '{verified['worst_blob']}'"
    )


__all__ = ["apply", "compress", "plan"]
