"""`surgery upgrade` and `deploy`: bring old spellings up to date, make a deploy net of a training net."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from surgery.cli import options

if TYPE_CHECKING:
    from surgery.formats.caffe.text import Document


@click.command()
@click.argument("files", nargs=-1, required=True, type=options.FILE)
@click.option("-o", "--output", required=True, type=options.FILE, help="Folder for the results.")
@click.option("--solver", is_flag=True, help="The file is a solver, not a network.")
def upgrade(files: tuple[Path, ...], output: Path, *, solver: bool) -> None:
    """Turn V0 and V1 files into V2 as Caffe does on reading; comments and unknown fields stay.

    Takes a prototxt, a caffemodel, or both. What is V2 already comes out byte for byte.

    \b
    Examples:
      surgery upgrade old.prototxt old.caffemodel -o new
      surgery upgrade solver.prototxt --solver -o new
    """
    from surgery.formats.caffe import upgrade as upgrades

    _write(files, output, upgrades.upgrade_solver if solver else upgrades.upgrade, upgrade_weights=True)


@click.command()
@click.argument("files", nargs=-1, required=True, type=options.FILE)
@click.option("-o", "--output", required=True, type=options.FILE, help="Folder for the results.")
@options.network_options
def deploy(
    files: tuple[Path, ...],
    output: Path,
    shapes: tuple[str, ...],
    phase: str,
    level: int | None,
    stages: tuple[str, ...],
) -> None:
    """Make a deploy net of a train_val: data layers become Input, losses and Accuracy go, rules are resolved.

    The weights, where given, are copied as they are.

    \b
    Example:
      surgery deploy train_val.prototxt net.caffemodel -o deployed --shape data=1,3,224,224
    """
    from surgery.formats.caffe import deploy as deploys
    from surgery.formats.caffe.netstate import state_of

    stated = dict(options.parse_shape(text) for text in shapes)

    def deployed(document: Document) -> Document:
        return deploys.deploy(document, state_of(document, phase=phase, level=level, stages=stages), stated)

    _write(files, output, deployed, upgrade_weights=False)


def _write(
    files: tuple[Path, ...], output: Path, rework: Callable[[Document], Document], *, upgrade_weights: bool
) -> None:
    """Write each file reworked into the folder `output`, under its own name."""
    from surgery.errors import ModelError
    from surgery.formats import is_onnx, is_weights, split
    from surgery.formats.caffe import text, weights
    from surgery.output import REPORT, TOOL, check_destination, staged

    definition, stored = split(files, needs_definition=not upgrade_weights)
    if definition is not None and is_onnx(definition):
        raise ModelError(f"{definition}: is an ONNX model; only Caffe's prototxt and weights can be reworked so")
    check_destination(output, files)
    document = rework(text.read(definition)) if definition else None
    opened = weights.read(stored) if stored else None
    with staged(output) as staging:
        if document is not None and definition is not None:
            (staging / definition.name).write_bytes(document.encode())
        if opened is not None and stored is not None:
            old = upgrade_weights and isinstance(opened, weights.BinaryWeights) and opened.is_old
            (opened.upgraded() if old and isinstance(opened, weights.BinaryWeights) else opened).write(
                {}, staging / stored.name
            )
        names = [path.name for path in files]
        report = {"tool": TOOL, "format": 1, "source": {"files": names}, "files": [*names, REPORT]}
        (staging / REPORT).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    click.echo("wrote " + " ".join(str(output / path.name) for path in files if not is_weights(path) or stored))
