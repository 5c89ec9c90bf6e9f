"""`surgery advise`: every method on one layer at equal cost, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from surgery.cli import data, options, tables
from surgery.cli.progress import bar
from surgery.errors import NothingToCutError, PlanError

if TYPE_CHECKING:
    from surgery.advice import Advice, Trial
    from surgery.fitting import Fitted
    from surgery.timing import Timing

FORMAT = 1
HEADING = ("method", "rank", "weight", "output", "params", "MACs", "bytes", "ms", "10 to 90 %", "solve")
LEGEND = """weight: relative error of the weights; output: response error on samples held out, with data;
ms: the layer alone, the median and the percentiles; solve: seconds; --json has the numbers in full"""


@click.command()
@click.argument("files", nargs=-1, required=True, type=options.FILE)
@click.option("--layer", required=True, metavar="NAME", help="The layer to try.")
@click.option("--macs", type=float, metavar="M", help="Share of the layer's own MACs that may remain.")
@click.option("--params", type=float, metavar="P", help="Share of the layer's own parameters that may remain.")
@data.data_options
@options.network_options
@click.option(
    "--runtime",
    type=click.Choice(["onnxruntime", "caffe", "opencv"]),
    default="onnxruntime",
    show_default=True,
    help="Runtime in which the layer is timed.",
)
@click.option("--threads", type=click.IntRange(1, 1024), default=1, show_default=True, help="Of solves and runtime.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Machine-readable, on stdout.")
def advise(
    files: tuple[Path, ...],
    layer: str,
    macs: float | None,
    params: float | None,
    *,
    as_json: bool,
    **asked: Any,
) -> None:
    """Try every method on one layer at equal cost and measure what each gives; nothing is written.

    With --calibrate or --statistics the errors are those of the layer's output on samples held out, and the table is
    sorted by them; without, by the error of the weights. The times are the layer's alone, in the shapes that the
    network states, the methods taking turns.

    \b
    Examples:
      surgery advise net.prototxt net.caffemodel --layer conv3_2 --macs 0.5
      surgery advise model.onnx --layer conv3_2 --macs 0.5 --calibrate images/ --preprocess preprocess.json
    """
    if macs is None and params is None:
        raise PlanError("how much is to remain? give --macs or --params, a share of the layer's own", layer)
    advice = _advice(files, layer, macs=macs, params=params, **asked)
    if not any(trial.fitted for trial in advice.trials):
        raise NothingToCutError(tuple(f"{t.method}: {t.refusal}" for t in advice.trials))
    click.echo(_json(advice) if as_json else _text(advice))


def _advice(files: tuple[Path, ...], layer: str, *, macs: float | None, params: float | None, **asked: Any) -> Advice:
    from surgery.advice import advise as tried
    from surgery.advice import site_of
    from surgery.choose import Amount

    source = options.source(files, asked["shapes"], asked["phase"], asked["level"], asked["stages"])
    amount, model = Amount(params=params, macs=macs), source.load()
    site_of(model, layer)  # Before data is read for it.
    named = {name: asked[name] for name in ("runtime", "threads", "seed")}
    with bar() as progress, data.calibration(model, (layer,), asked, asked["seed"], progress) as given:
        statistics = given.statistics_for((layer,), {}) if given is not None else None
        return tried(source, layer, amount, statistics=statistics, progress=progress, **named)


def _json(advice: Advice) -> str:
    own = advice.site
    rows = [_row(trial) for trial in advice.trials]
    return tables.as_json(
        {
            "format": FORMAT,
            "layer": own.key,
            "params": own.op.params,
            "macs": own.facts.macs,
            "milliseconds": _milliseconds(advice.own_timing),
            "untimed": advice.untimed,
            "methods": rows,
        }
    )


def _row(trial: Trial) -> dict[str, Any]:
    head: dict[str, Any] = {"method": trial.method, "options": dict(trial.options), "refusal": trial.refusal}
    if trial.fitted is None:
        return head
    return head | {
        "rank": list(trial.rank),
        "weight_error": trial.fitted.fit.relative_error,
        "response_error": trial.fitted.response_error,
        "params": trial.params,
        "macs": trial.macs,
        "bytes": 4 * trial.params,
        "milliseconds": _milliseconds(trial.timing),
        "solve_seconds": round(trial.solve_s, 3),
    }


def _milliseconds(timing: Timing | None) -> dict[str, float] | None:
    if timing is None:
        return None
    own = timing.milliseconds
    return {"median": own.median, "p10": own.p10, "p90": own.p90}


def _text(advice: Advice) -> str:
    own, op = advice.site, advice.site.op
    whole = (tables.short(op.params), tables.short(own.facts.macs), tables.size(4 * op.params))
    rows: list[tuple[str, ...]] = [
        HEADING,
        (tables.printable(own.key, 20), "", "", "", *whole, *_times(advice.own_timing), ""),
    ]
    rows += [_line(trial, trial.fitted) for trial in advice.trials if trial.fitted is not None]
    lines = [tables.table(rows, frozenset(range(1, len(HEADING)))), "", LEGEND]
    lines += [tables.printable(f"not {t.method}: {t.refusal}") for t in advice.trials if t.refusal]
    lines += [tables.printable(f"not timed: {advice.untimed}")] if advice.untimed else []
    return "\n".join(lines).rstrip()


def _line(trial: Trial, fitted: Fitted) -> tuple[str, ...]:
    error = fitted.response_error
    return (
        " ".join([trial.method, *trial.options.values()]),
        "x".join(map(str, trial.rank)),
        f"{fitted.fit.relative_error:.4f}",
        "" if error is None else f"{error:.4f}",
        tables.short(trial.params),
        tables.short(trial.macs),
        tables.size(4 * trial.params),
        *_times(trial.timing),
        f"{trial.solve_s:.2f}",
    )


def _times(timing: Timing | None) -> tuple[str, str]:
    if timing is None:
        return "", ""
    own = timing.milliseconds
    return f"{own.median:.2f}", f"{own.p10:.2f}-{own.p90:.2f}"


__all__ = ["advise"]
