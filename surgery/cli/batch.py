"""`surgery batch`: compress every model below a folder, on several processes or a cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from surgery.cli import budgets, cut, options, tables, workers
from surgery.cli.progress import bar
from surgery.errors import PlanError

if TYPE_CHECKING:
    from surgery.batch import Row
    from surgery.choose import Amount, Request


@click.command()
@click.argument("folder", type=options.FILE)
@click.option("-o", "--output", required=True, type=options.FILE, help="Folder for the results.")
@options.cut_options
@budgets.budget_options
@budgets.timing_options
@options.network_options
@cut.verify_option
@workers.worker_options(
    "Default: the number of cores over --threads; 1 where times are measured, which others on the machine disturb."
)
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
def batch(
    folder: Path,
    output: Path,
    verify: str,
    *,
    as_json: bool,
    **asked: Any,
) -> None:
    """Compress every model below a folder, each as `surgery compress` does it.

    Models are .onnx files, and .caffemodel files with the prototxt in the same folder that fits them. OUT gets a folder
    for each, named like the model's file, and batch.json, which tells what became of all. Interrupted and run again,
    or run again with more models, it does only what is not done. The files are the same wherever the work was done,
    unless times are measured there (--speedup or --latency without --table). Networks that differ share no samples:
    all is chosen by weights and times, and --max-drop is refused.

    Exit codes: 0 all are done; 1 some are not; 2 the request is wrong.

    \b
    Examples:
      surgery batch zoo -o small --macs 0.5
      surgery batch zoo -o small --macs 0.5 --scheduler tcp://10.0.0.5:8786
      surgery batch zoo -o fast --speedup 2 --runtime onnxruntime
    """
    from surgery.batch import batch as compressed
    from surgery.formats import Source
    from surgery.planning import Means

    reading = Source(
        (), asked["phase"], asked["level"], asked["stages"], tuple(map(options.parse_shape, asked["shapes"]))
    )
    amount, engines = budgets.amount(asked), cut.engines(verify)
    request, means = _request(asked, amount), Means(table=budgets.table(asked), runtime=asked["runtime"])
    with workers.workers(asked, _processes(asked, amount)) as runner, bar() as progress:
        rows, seconds = compressed(folder, output, reading, request, engines, runner, progress, means)
    click.echo(_json(rows, seconds) if as_json else _text(rows, seconds, output))
    click.get_current_context().exit(0 if all(row.status == "done" for row in rows) else 1)


def _request(asked: dict[str, Any], amount: Amount) -> Request | None:
    """Return what is asked for, None where nothing is to be cut; raises PlanError."""
    if amount.max_drop is not None:
        raise PlanError("--max-drop needs samples, which networks do not share; compress each by itself for that")
    return None if asked["method"] == "none" else options.request(asked, amount)


def _processes(asked: dict[str, Any], amount: Amount) -> int:
    """Return how many processes work where the command line does not say."""
    from surgery.running import default_processes

    is_timed = bool({"speedup", "latency"} & {*amount.budgets}) and asked["table"] is None
    return 1 if is_timed else default_processes(asked["threads"])


def _json(rows: Sequence[Row], seconds: Mapping[str, float]) -> str:
    return tables.as_json([asdict(row) | {"seconds": seconds.get(row.model)} for row in rows])


def _text(rows: Sequence[Row], seconds: Mapping[str, float], output: Path) -> str:
    lines = [("model", "params", "", "MACs", "", "verified", "seconds")]
    done = [row for row in rows if row.status == "done"]
    for row in done:
        (p0, p1), (m0, m1) = row.params, row.macs
        lines.append(
            (
                tables.printable(row.model, 60),
                f"{tables.count(p0)} -> {tables.count(p1)}",
                tables.change(p0, p1),
                f"{tables.count(m0)} -> {tables.count(m1)}",
                tables.change(m0, m1),
                str(row.verified["runtime"]) if row.verified else "no",
                f"{seconds[row.model]:.1f}" if row.model in seconds else "before",
            )
        )
    told = [tables.table(lines, frozenset({2, 4, 6})), ""] if done else []
    told += [tables.printable(f"{r.status}: {r.model}: {r.reason}", 1000) for r in rows if r.status != "done"]
    return "\n".join([*told, f"{len(done)} of {len(rows)} models are done; see {output / 'batch.json'}"])


__all__ = ["batch"]
