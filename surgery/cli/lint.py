"""`surgery lint`: what Caffe would do with these files, silently or not."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from surgery.cli import options, tables
from surgery.formats.caffe.targets import TARGETS

COLOURS = {"error": "red", "warning": "yellow", "note": "cyan"}


@click.command()
@click.argument("files", nargs=-1, required=True, type=options.FILE)
@options.network_options
@click.option(
    "--target", type=click.Choice(tuple(TARGETS)), help="Judge by this runtime alone; default: all of Caffe's."
)
@click.option("--json", "as_json", is_flag=True, help="Machine-readable, on stdout.")
def lint(
    files: tuple[Path, ...],
    shapes: tuple[str, ...],
    phase: str,
    level: int | None,
    stages: tuple[str, ...],
    target: str | None,
    *,
    as_json: bool,
) -> None:
    """Tell what Caffe would refuse, drop or do in silence: a prototxt, weights, or both.

    Exit code 1 when there is an error: something that Caffe aborts on or computes wrongly.

    \b
    Examples:
      surgery lint deploy.prototxt net.caffemodel
      surgery lint deploy.prototxt --target caffe-android-lib
    """
    from surgery.errors import ModelError
    from surgery.formats import is_onnx, split
    from surgery.formats.caffe import lint as lints
    from surgery.formats.caffe import text
    from surgery.formats.caffe.netstate import NetState, state_of

    definition, stored = split(files, needs_definition=False)
    if definition is not None and is_onnx(definition):
        raise ModelError(f"{definition}: is an ONNX model; lint tells what Caffe does with a prototxt and its weights")
    state = NetState(phase, level or 0, stages)
    if definition is not None:
        state = state_of(text.read(definition), phase=phase, level=level, stages=stages)
    stated = dict(options.parse_shape(shape) for shape in shapes)
    findings = lints.lint(definition, stored, state=state, input_shapes=stated, target=target)
    if as_json:
        rows = [asdict(finding) for finding in findings]
        click.echo(tables.as_json({"format": 1, "findings": rows}))
    else:
        for finding in findings:
            severity = tables.styled(f"{finding.severity}:", fg=COLOURS[finding.severity])
            click.echo(f"{severity} {tables.printable(finding.where)}: {tables.printable(finding.message)}")
        click.echo(_summary([finding.severity for finding in findings]))
    if any(finding.severity == "error" for finding in findings):
        raise SystemExit(1)


def _summary(severities: list[str]) -> str:
    if not severities:
        return "nothing to say: Caffe does what the files say"
    counts = [(severities.count(name), name) for name in COLOURS if name in severities]
    return ", ".join(f"{n} {name}" if n == 1 else f"{n} {name}s" for n, name in counts)
