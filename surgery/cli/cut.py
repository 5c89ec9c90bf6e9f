"""`surgery compress` and `apply`: choose cuts, carry them out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from surgery.cli import budgets, data, options, tables
from surgery.cli.plan import asking_options, keys, planned
from surgery.cli.progress import bar
from surgery.errors import PlanError

if TYPE_CHECKING:
    from surgery.formats import Source
    from surgery.pipeline import Outcome
    from surgery.planning import Means
    from surgery.plans import Plan

RUNTIMES = click.Choice(["auto", "caffe", "onnxruntime", "opencv", "layers", "none"])


def verify_option(command: Any) -> Any:
    return click.option(
        "--verify",
        type=RUNTIMES,
        default="auto",
        show_default=True,
        help="Runtime that checks the written files: the first of caffe, onnxruntime and opencv that is "
        "there and takes them; 'layers' checks each cut layer alone; 'none' checks nothing.",
    )(command)


@click.command()
@click.argument("files", nargs=-1, required=True, type=options.FILE)
@click.option("-o", "--output", required=True, type=options.FILE, help="Folder for the results.")
@asking_options
@verify_option
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def compress(files: tuple[Path, ...], output: Path, verify: str, *, as_json: bool, **asked: Any) -> None:
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
    from surgery.planning import judge_with

    source = _source(files, asked)
    check_destination(output, files)
    if asked["method"] == "none":
        data.check_none(asked, "nothing is cut")
        outcome = copy_through(source, output)
    else:
        model = source.load()
        with bar() as progress:
            made = planned(source, model, asked, progress)
        with bar() as progress, data.calibration(model, keys(made), asked, made.seed, progress) as given:
            made = made if given is None else replace(made, calibration=given.record, refit=asked["refit"])
            judge = judge_with(model, budgets.means(asked))
            outcome = carry_out(source, model, made, output, engines(verify), progress, given, judge=judge)
    _show(outcome, as_json=as_json)


@click.command()
@click.argument("files", nargs=-1, required=True, type=options.FILE)
@click.option("-o", "--output", required=True, type=options.FILE, help="Folder for the results.")
@data.again_options
@click.option("--weights-only", is_flag=True, help="Carry out a plan that is fitted to data without any; worse.")
@options.network_options
@verify_option
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def apply(
    files: tuple[Path, ...], output: Path, verify: str, *, weights_only: bool, as_json: bool, **asked: Any
) -> None:
    """Carry out a plan: the model's files, then plan.json.

    A plan that was fitted to calibration data needs the same data again, or its statistics.

    \b
    Example:
      surgery apply net.prototxt net.caffemodel plan.json -o small
    """
    from surgery.pipeline import carry_out, check_calibration, check_source, copy_through
    from surgery.planning import judge_with
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
            judge = judge_with(model, _means_again(chosen, asked))
            outcome = carry_out(source, model, chosen, output, engines(verify), progress, given, notes, judge)
    _show(outcome, as_json=as_json)


def _means_again(made: Plan, asked: dict[str, Any]) -> Means:
    """Return what a cut network is measured with: the data that its plan was made from, where they are given."""
    from surgery.calibrate import settings_of
    from surgery.planning import Means

    if made.calibration is None or asked["calibrate"] is None:
        return Means()
    settings = settings_of(made.calibration)
    reading = {name: settings[name] for name in ("preprocess", "images", "positions")} | {"scratch": asked["scratch"]}
    return Means(asked["calibrate"], reading)


def _source(files: tuple[Path, ...], asked: dict[str, Any]) -> Source:
    return options.source(files, asked["shapes"], asked["phase"], asked["level"], asked["stages"])


def engines(runtime: str) -> Sequence[str] | None:
    from surgery.pipeline import AUTO_ENGINES

    return {"auto": AUTO_ENGINES, "layers": (), "none": None}.get(runtime, (runtime,))


def _show(outcome: Outcome, *, as_json: bool) -> None:
    report: Any = outcome.report
    if as_json:
        click.echo(tables.as_json(report))
        return
    has_data = report["calibration"] is not None
    heading = ("layer", "method", "rank", "params", "", "MACs", "", "weight err")
    rows: list[tuple[str, ...]] = [(*heading, *(("output err",) if has_data else ()), "solve s")]
    for row in report["layers"]:
        (p0, p1), (m0, m1) = row["params"], row["macs"]
        rank = "x".join(map(str, row["rank"]))
        share = (tables.short(p1), tables.change(p0, p1), tables.short(m1))
        errors = (f"{row['weight_error']:.4f}", *((_response(row),) if has_data else ()))
        name = tables.printable(row["layer"], 40)
        rows.append(
            (name, row["method"], rank, *share, tables.change(m0, m1), *errors, _seconds(outcome, row["layer"]))
        )
    if len(rows) > 1:
        click.echo(tables.table(rows, frozenset(range(2, 10))) + "\n")
    for name, shown in (("params", tables.count), ("macs", tables.count), ("weight_bytes", tables.size)):
        if report["totals"]:
            a, b = report["totals"]["before"][name], report["totals"]["after"][name]
            click.echo(f"{name.replace('_', ' '):13} {shown(a)} -> {shown(b)}  {tables.change(a, b)}")
    for line in _lost(report):
        click.echo(line)
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


def _lost(report: dict[str, Any]) -> list[str]:
    """Return what was predicted and what was measured of the network's output."""
    from surgery.choose import ERROR_NAMES

    predicted, measured, lines = report["predicted"] or {}, report["measured"], []
    if measured is None:
        return []
    for name, told in ERROR_NAMES.items():
        if measured.get(name) is not None:
            foretold = f", {predicted['error']:.4g} predicted" if predicted.get("of") == name else ""
            lines.append(f"{told}: {measured[name]:.4g}{foretold}")
    if measured["agreement"] is not None:
        lines.append(f"best class as the original's: {measured['agreement']:.1%}")
    if measured["accuracy"] is not None:
        lines.append(f"accuracy {measured['original']:.1%} -> {measured['accuracy']:.1%}")
    return lines


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


__all__ = ["apply", "compress"]
