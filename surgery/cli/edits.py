"""`surgery extract`, `fold`, `merge` and `fc-to-conv`: edits that change a network's form and not what it computes."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from surgery.cli import options, tables
from surgery.errors import NothingToCutError, PlanError

if TYPE_CHECKING:
    from surgery.editing import Decision
    from surgery.model import Model, Refusal

_RUNTIMES = click.Choice(["auto", "caffe", "onnxruntime", "opencv", "none"])


def _common(command: Any) -> Any:
    """Add what all three verbs take."""
    for add in reversed(
        (
            click.argument("files", nargs=-1, required=True, type=options.FILE),
            click.option("-o", "--output", required=True, type=options.FILE, help="Folder for the results."),
            options.network_options,
            click.option(
                "--verify",
                "runtime",
                type=_RUNTIMES,
                default="auto",
                show_default=True,
                help="Runtime that checks the written files; auto is the first that runs the model.",
            ),
            click.option("--json", "as_json", is_flag=True, help="Print the report as JSON."),
        )
    ):
        command = add(command)
    return command


def _layer_option(command: Any) -> Any:
    return click.option(
        "--layer", "layers", multiple=True, metavar="NAME", help="Layers to change: a name or a glob; default: all."
    )(command)


@click.command()
@_common
@click.option(
    "--outputs", "outputs", multiple=True, required=True, metavar="BLOB[,BLOB]", help="What the result computes."
)
@click.option("--inputs", "inputs", multiple=True, metavar="BLOB[,BLOB]", help="Where the result begins.")
def extract(outputs: tuple[str, ...], inputs: tuple[str, ...], **asked: Any) -> None:
    """Write the part of a network that leads to some blobs, from its inputs or from blobs in its middle.

    A blob means its last value, behind everything that works in place on it. Layers of another phase, level or stage
    go. Layers that stay keep their text and weights byte for byte.

    \b
    Examples:
      surgery extract net.prototxt net.caffemodel -o features --outputs pool5
      surgery extract net.onnx -o head --inputs pool5 --outputs prob
    """

    def decide(model: Model) -> Decision:
        from surgery.editing import Decision
        from surgery.model import Extract

        change = Extract(_blobs(model, outputs), _blobs(model, inputs))
        return Decision([change], [{"outputs": list(change.outputs), "inputs": list(change.inputs)}])

    _run("extract", decide, **asked)


@click.command()
@_common
@_layer_option
def fold(layers: tuple[str, ...], **asked: Any) -> None:
    """Fold BatchNorm, Scale and Bias into the weights of the layer before them.

    What stays is listed with the reason. The blob behind the last layer folded keeps its name. The result is for
    inference: a training network would no longer gather statistics.

    \b
    Example:
      surgery fold deploy.prototxt net.caffemodel -o folded
    """

    def decide(model: Model) -> Decision:
        from surgery.editing import Decision
        from surgery.folding import folding

        found = folding(model)
        wanted = chosen(model, layers, {fold.key for fold in found.folds})
        folds = [fold for fold in found.folds if fold.key in wanted]
        if not folds:
            raise NothingToCutError(_reasons(found.left, "no BatchNorm, Scale or Bias to fold"))
        return Decision(folds, [{"layer": f.key, "absorbed": list(f.absorbed)} for f in folds], found.left)

    _run("fold", decide, **asked)


@click.command("fc-to-conv")
@_common
@_layer_option
def fc_to_conv(layers: tuple[str, ...], **asked: Any) -> None:
    """Write fully connected layers as convolutions over all they read, so that the network takes larger images.

    The weights stay the same numbers; (N, outputs) becomes (N, outputs, 1, 1). A layer stays, with the reason, where
    something behind it would compute something else from that.

    \b
    Example:
      surgery fc-to-conv deploy.prototxt net.caffemodel -o fully-convolutional
    """

    def decide(model: Model) -> Decision:
        from surgery.editing import Decision
        from surgery.model import Convolve

        found, left = model.format.convolvable(model, chosen(model, layers, {node.key for node in model.nodes}))
        if not found:
            raise NothingToCutError(_reasons(left, "no fully connected layer"))
        return Decision([Convolve(found)], [{"layer": key} for key in found], left)

    _run("fc-to-conv", decide, **asked)


@click.command()
@_common
@_layer_option
def merge(layers: tuple[str, ...], **asked: Any) -> None:
    """Multiply chains of factors back into one layer each, so that a cut can be undone or made anew at another rank.

    A chain is layers without anything between them, such as a cut makes: conv_1, conv_2 become conv. --layer names any
    of its layers.

    \b
    Example:
      surgery merge small/net.prototxt small/net.caffemodel -o whole
    """

    def decide(model: Model) -> Decision:
        from surgery.editing import Decision
        from surgery.merging import merging

        found = merging(model)
        wanted = chosen(model, layers, {key for merge in found.merges for key in merge.keys})
        merges = [merge for merge in found.merges if wanted & {*merge.keys}]
        if not merges:
            raise NothingToCutError(_reasons(found.left, "no layers follow each other with nothing between them"))
        return Decision(merges, [{"layer": m.name, "merged": list(m.keys)} for m in merges], found.left)

    _run("merge", decide, **asked)


def _run(verb: str, decide: Any, files: tuple[Path, ...], output: Path, runtime: str, **asked: Any) -> None:
    from surgery.editing import carry_out
    from surgery.verify import AUTO_ENGINES

    source = options.source(files, asked["shapes"], asked["phase"], asked["level"], asked["stages"])
    engines: Sequence[str] | None = {"auto": AUTO_ENGINES, "none": None}.get(runtime, (runtime,))
    paths, report = carry_out(source, verb, decide, output, engines)
    if asked["as_json"]:
        click.echo(tables.as_json(report))
    else:
        _show(paths, report)


def _blobs(model: Model, texts: Iterable[str]) -> tuple[str, ...]:
    """Return the blobs that options name; a comma separates two unless it belongs to a name."""
    known = {name for node in model.nodes for name in (*node.inputs, *node.outputs)}
    names = [name for text in texts for name in ([text] if text in known else text.split(","))]
    return tuple(dict.fromkeys(names))


def chosen(model: Model, patterns: Sequence[str], candidates: Collection[str]) -> set[str]:
    """Return the candidates that the patterns name, all without any; raises PlanError for one that names no layer."""
    if not patterns:
        return set(candidates)
    keys = [node.key for node in model.nodes]
    found = set[str]()
    for pattern in patterns:
        named = {key for key in keys if key == pattern} or {key for key in keys if fnmatch.fnmatchcase(key, pattern)}
        if not named:
            raise PlanError(f"--layer {pattern[:60]}: no layer has that name; `surgery inspect` lists the names")
        found |= named
    return found & set(candidates)


def _reasons(left: Sequence[Refusal], otherwise: str) -> tuple[str, ...]:
    return tuple(f"{refusal.key}: {refusal.reason}" for refusal in left) or (otherwise,)


def _show(paths: Sequence[Path], report: dict[str, Any]) -> None:
    for row in report["edits"]:
        if "absorbed" in row:
            click.echo(tables.printable(f"{row['layer']} took in {', '.join(row['absorbed'])}"))
        elif "merged" in row:
            click.echo(tables.printable(f"{row['layer']} is {', '.join(row['merged'])} multiplied"))
        elif "layer" in row:
            click.echo(tables.printable(f"{row['layer']} is a convolution"))
    for name in ("layers", "params"):
        before, after = report[name]
        click.echo(f"{name:7} {tables.count(before)} -> {tables.count(after)}")
    for left in report["left"]:
        click.echo(tables.printable(f"left alone: {left['layer']}: {left['reason']}"))
    for note in report["notes"]:
        click.echo(tables.printable(f"note: {note}"))
    click.echo(tables.printable(_verified(report["verified"]), 1000))
    click.echo("wrote " + " ".join(map(str, paths)))


def _verified(verified: dict[str, Any] | None) -> str:
    if verified is None:
        return "not verified: --verify none"
    if not verified["blobs"]:
        return f"not verified: {verified['reason']}"
    why = f" ({verified['reason']})" if verified["reason"] else ""
    return (
        f"verified: {verified['runtime']}{why}; {verified['blobs']} blobs, worst relative L2 "
        f"{verified['worst_rel_l2']:.1e} at '{verified['worst_blob']}'"
    )


__all__ = ["chosen", "extract", "fc_to_conv", "fold", "merge"]
