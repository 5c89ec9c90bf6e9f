"""`surgery package`: a network and all that ships with it, as one file; or a check of such a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from surgery.cli import options, tables
from surgery.cli.progress import bar
from surgery.errors import PlanError
from surgery.targets import PROFILES, REWRITES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from surgery.package import Checked


@click.command()
@click.argument("files", nargs=-1, type=options.FILE)
@click.option("-o", "--output", type=options.FILE, metavar="OUT.zip", help="The parcel to write.")
@click.option("--target", type=click.Choice(tuple(PROFILES)), help="The runtime that is to run the network.")
@options.network_options
@click.option(
    "--batch", type=click.IntRange(1, 1 << 16), default=1, show_default=True, help="Batch size in the parcel."
)
@click.option(
    "--rewrite",
    "rewrites",
    multiple=True,
    type=click.Choice(tuple(REWRITES)),
    metavar="NAME",
    help=f"A portable rewrite that may be done; repeatable: {', '.join(REWRITES)}.",
)
@click.option("--onnx-twin", "has_twin", is_flag=True, help="Put the network in as ONNX too.")
@click.option(
    "--preprocess",
    type=options.FILE,
    metavar="FILE",
    help="JSON that says how pictures become inputs; default: the network's own transform_param.",
)
@click.option("--mean", type=options.FILE, metavar="FILE", help="The mean, where --preprocess has none.")
@click.option(
    "--inputs",
    type=options.FILE,
    metavar="PATH",
    help="Data for the golden vectors: a folder of images, .npy or .npz, or a Caffe list file. Default: random.",
)
@click.option("--samples", type=click.IntRange(3, 100), default=3, show_default=True, help="How many golden vectors.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of random inputs.")
@click.option("--labels", type=options.FILE, metavar="FILE", help="Names of the classes, one a line.")
@click.option("--plan", type=options.FILE, metavar="FILE", help="The plan.json that the network was cut by.")
@click.option("--report", type=options.FILE, metavar="FILE", help="The report.json of the command that cut it.")
@click.option(
    "--timings", type=options.FILE, metavar="FILE", help="Times for the report: what `surgery bench --json` printed."
)
@click.option("--license", "licence", type=options.FILE, metavar="FILE", help="The licence of the original network.")
@click.option("--source-note", "note", metavar="TEXT", help="Where the original network comes from.")
@click.option("--check", "received", type=options.FILE, metavar="PARCEL.zip", help="Check this parcel instead.")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable, on stdout.")
def package(
    files: tuple[Path, ...],
    output: Path | None,
    target: str | None,
    rewrites: tuple[str, ...],
    received: Path | None,
    *,
    as_json: bool,
    **asked: Any,
) -> None:
    """Pack a network for whoever ships it, or check a parcel that was received.

    A parcel is a zip: the network made ready for its target (Input layer, nothing that only training needs), golden
    inputs and outputs with tolerances measured between runtimes, a program that checks them, how pictures become
    inputs, what each layer takes, and a report. The same inputs give the same bytes. A network that the target cannot
    run is refused with every reason; `surgery lint --target` tells them too.

    --check exits with 1 where a file was changed or an output is not the golden one, with 2 where it is no parcel.

    \b
    Examples:
      surgery package deploy.prototxt net.caffemodel -o net.zip --target caffe-android-lib
      surgery package deploy.prototxt net.caffemodel -o net.zip --target caffe-1.0 --onnx-twin \\
          --preprocess preprocess.json --labels labels.txt --inputs pictures
      surgery package --check net.zip
    """
    if received is not None:
        if files or output or target:
            raise PlanError("--check takes a parcel and nothing else; leave the model, -o and --target out")
        click.echo(_checked(received, as_json=as_json))
        return
    if not files or output is None or target is None:
        raise PlanError("expected a model, -o OUT.zip and --target, or --check PARCEL.zip")
    from surgery import package as parcel

    source = options.source(files, *(asked.pop(name) for name in ("shapes", "phase", "level", "stages")))
    with bar() as progress:
        facts = parcel.package(parcel.Asked(source, target, allow=rewrites, **asked), output, progress)
    click.echo(tables.as_json(facts) if as_json else _text(output, facts))


def _checked(received: Path, *, as_json: bool) -> str:
    from surgery.package import check

    checked = check(received)
    return _checked_json(checked) if as_json else _checked_text(received, checked)


def _text(output: Path, facts: Mapping[str, Any]) -> str:
    golden = facts["golden"]
    rows = [("output", "tolerance", *(tables.printable(name, 40) for name in golden["distances"]))]
    for name, tolerance in golden["tolerances"].items():
        distances = (f"{own[name]:.1e}" for own in golden["distances"].values())
        rows.append((tables.printable(name, 60), f"{tolerance:g}", *distances))
    lines = [f"changed: {change}" for change in facts["changes"]]
    lines += [f"note: {note}" for note in (*facts["notes"], *golden["notes"])]
    told = [tables.table(rows, frozenset(range(1, len(rows[0])))), ""]
    told += [tables.printable(line, 1000) for line in lines]
    made = f"{golden['samples']} golden vectors, {tables.printable(golden['from'])}, from {golden['reference']}"
    original = facts["original"]
    same = f"not compared with the given network: {original['reason']}"
    if original["runtime"]:
        same = f"the given network's outputs are within {max(original['distances'].values()):.1e} of it"
    size = tables.size(output.stat().st_size)
    return "\n".join([*told, made, tables.printable(same, 1000), f"wrote {output}: {size}, for {facts['target']}"])


def _checked_text(received: Path, checked: Checked) -> str:
    rows = [("runtime", "output", "distance")]
    for runtime, distances in checked.distances.items():
        rows += [(runtime, tables.printable(name, 60), f"{own:.1e}") for name, own in distances.items()]
    return "\n".join(
        [
            tables.table(rows, frozenset({2})),
            "",
            f"{received}: whole and unchanged, {checked.files} files for {tables.printable(checked.target, 60)}; "
            f"{checked.samples} golden vectors agree",
            f"sha256 {checked.sha256}",
        ]
    )


def _checked_json(checked: Checked) -> str:
    return tables.as_json(
        {
            "format": 1,
            "sha256": checked.sha256,
            "files": checked.files,
            "target": checked.target,
            "samples": checked.samples,
            "distances": checked.distances,
        }
    )
