"""`surgery bench`: how long models take, side by side."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from surgery.cli import latency, options, tables
from surgery.cli.models import RUNTIMES, parse_runtimes, read_models, split_models
from surgery.cli.progress import bar
from surgery.errors import PlanError

if TYPE_CHECKING:
    from surgery.timing import Spread, Timing

ROUNDS = 30


@click.command()
@click.argument("files", nargs=-1, required=True, type=options.FILE)
@options.network_options
@latency.layer_options
@click.option(
    "--runtime",
    metavar="NAME[,NAME...]",
    default="onnxruntime",
    show_default=True,
    help="caffe, onnxruntime or opencv; of several, each runs every model.",
)
@click.option("--threads", type=click.IntRange(1, 1024), default=1, show_default=True)
@click.option("--repeat", type=click.IntRange(1, 10**6), help="Rounds of turns; 30 by default, with --table 10.")
@click.option("--warmup", type=click.IntRange(1, 10**6), default=3, show_default=True, help="Passes before the first.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the random inputs.")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable, on stdout.")
def bench(
    files: tuple[Path, ...],
    runtime: str,
    threads: int,
    repeat: int | None,
    warmup: int,
    seed: int,
    *,
    as_json: bool,
    **asked: Any,
) -> None:
    """Time the forward pass of models side by side, or with --table the layers of one.

    Each model is loaded once, in a process of its own, and warmed up; then they take turns, round by round. The median
    is over rounds, and so is the ratio to the first model: each round gives one. Loading is not counted. Inputs are
    random, in the shapes that the models state.

    With --table each layer of one model is timed by itself, and so is what cuts make of it at some ranks; `surgery plan
    --table` reads the file. --device-files writes what someone needs to make that table on another device.

    \b
    Examples:
      surgery bench net.prototxt net.caffemodel small/net.prototxt small/net.caffemodel
      surgery bench net.prototxt net.caffemodel net.onnx --runtime onnxruntime,opencv --threads 4 --json
      surgery bench net.prototxt net.caffemodel --table laptop.csv --runtime caffe
      surgery bench net.prototxt net.caffemodel --device-files for-the-phone
    """
    from surgery.timing import Entrant, measure

    runtimes = list(dict.fromkeys(parse_runtimes(runtime, RUNTIMES)))
    models = read_models(split_models(files), asked)
    if asked["table"] is not None or asked["device_files"] is not None:
        made = latency.layer_times(models, runtimes, repeat, {**asked, "threads": threads, "warmup": warmup})
        click.echo(tables.as_json({"format": 1, **made}) if as_json else latency.told(made))
        return
    if asked["method"] or asked["fresh"]:
        raise PlanError("--method and --fresh are about the times of layers; give --table too")
    labels = _labels([source.files[0] for source, _ in models])
    entrants = [
        Entrant(label, model, source.files, name)
        for name in runtimes
        for label, (source, model) in zip(labels, models, strict=True)
    ]
    run = {"threads": threads, "rounds": repeat or ROUNDS, "warmup": warmup, "seed": seed}
    with bar() as progress:
        timings = measure(entrants, progress=progress, **run)
    click.echo(_json(timings, run) if as_json else _text(timings, run))


def _labels(files: list[Path]) -> list[str]:
    """Return a short name for each model: the file's, with its folder where two have the same."""
    counts = Counter(file.name for file in files)
    return [file.name if counts[file.name] == 1 else str(file) for file in files]


def _json(timings: list[Timing], asked: dict[str, int]) -> str:
    from surgery.measure.latency import machine

    rows = [
        {
            "model": t.label,
            "runtime": t.runtime,
            "version": t.version,
            "inputs": {name: list(shape) for name, shape in t.inputs.items()},
            "passes_in_a_turn": t.passes,
            "milliseconds": asdict(t.milliseconds),
            "ratio": asdict(t.ratio),
        }
        for t in timings
    ]
    return tables.as_json({"format": 1, "machine": machine(), **asked, "models": rows})


def _text(timings: list[Timing], asked: dict[str, int]) -> str:
    rows = [("model", "runtime", "ms, median", "10 to 90 %", "fastest", "ratio", "10 to 90 %")]
    for t in timings:
        own, ratio = t.milliseconds, t.ratio
        rows.append(
            (
                tables.printable(t.label, 60),
                t.runtime,
                f"{own.median:.3f}",
                _range(own),
                f"{own.smallest:.3f}",
                f"{ratio.median:.3f}",
                _range(ratio),
            )
        )
    shapes = dict.fromkeys(
        f"{t.label}: " + ", ".join(f"{name} {tables.shape(shape)}" for name, shape in t.inputs.items()) for t in timings
    )
    threads = "1 thread" if asked["threads"] == 1 else f"{asked['threads']} threads"
    versions = ", ".join(dict.fromkeys(t.version for t in timings))
    lines = [f"{threads}, {asked['rounds']} rounds; {versions}", *(tables.printable(line) for line in shapes)]
    return tables.table(rows, frozenset({2, 3, 4, 5, 6})) + "\n\n" + "\n".join(lines)


def _range(spread: Spread) -> str:
    return f"{spread.p10:.3f} to {spread.p90:.3f}"
