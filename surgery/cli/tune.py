"""`surgery tune`: train a cut network, with or without labels, to make up for what the cut lost."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from surgery.cli import options, tables
from surgery.cli.cut import engines, verify_option
from surgery.cli.progress import bar
from surgery.errors import DataError, ModelError, PlanError
from surgery.tune.goal import TARGETS, TEMPERATURE, parse_weights
from surgery.tune.recipe import BATCHNORMS, COURSES, OPTIMIZERS, SCHEDULES, Recipe

if TYPE_CHECKING:
    from surgery.plans import Plan
    from surgery.tune.asked import Asked

# Engine -> the module that trains in it; PyTorch's takes seconds to load.
ENGINES = {"torch": "surgery.tune.tuning", "caffe": "surgery.tune.caffe.tuning"}
PLAN = "plan.json"
ROWS = {"original": "original", "cut": "cut", "tuned": "tuned"}

_WHAT = options.stacked(
    click.option(
        "--teacher",
        multiple=True,
        required=True,
        type=options.FILE,
        metavar="MODEL",
        help="The original network, its weights behind it: --teacher net.prototxt net.caffemodel.",
    ),
    click.option(
        "--data",
        required=True,
        type=options.FILE,
        metavar="PATH",
        help="What to train on: a folder of images, .npy or .npz, or a Caffe list file; with --engine caffe also .h5, "
        "a text that names some, or an LMDB. One sample of ten is only measured on.",
    ),
    click.option("--labels", type=options.FILE, metavar="FILE", help="Text with the class of each sample."),
    click.option("-o", "--output", required=True, type=options.FILE, help="Folder for the results."),
    click.option("--plan", type=options.FILE, metavar="FILE", help=f"The cuts; default: {PLAN} beside CUT-MODEL."),
    click.option("--test", type=options.FILE, metavar="PATH", help="More data, to measure the networks on in the end."),
    click.option("--test-labels", type=options.FILE, metavar="FILE", help="The class of each of its samples."),
)
_READING = options.stacked(
    click.option(
        "--preprocess",
        type=options.FILE,
        metavar="FILE",
        help="JSON that says how images become inputs; default: the plan's, else the network's own transform_param.",
    ),
    click.option("--images", type=click.IntRange(min=2), metavar="N", help="Read only N samples, spread over all."),
    click.option(
        "--crop",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        metavar="N",
        help="Move each training sample by up to N pixels: the preprocessing's crop, or zeros come in.",
    ),
    click.option("--mirror", is_flag=True, help="Mirror half of the training samples, at random."),
)
_HOW = options.stacked(
    click.option("--engine", type=click.Choice(list(ENGINES)), default="torch", show_default=True),
    click.option(
        "--target",
        type=click.Choice(TARGETS),
        help="Match true classes, the teacher's outputs, its responses at each cut layer, or a mixture; default: "
        "labels where there are any, else distil.",
    ),
    click.option("--weights", metavar="PART=W,...", help="Of a mixture, like labels=1,distil=0.5."),
    click.option(
        "--temperature",
        type=click.FloatRange(min=0, min_open=True),
        default=TEMPERATURE,
        show_default=True,
        help="Divides the scores of both networks for distil.",
    ),
    click.option(
        "--schedule",
        type=click.Choice(SCHEDULES),
        default="one-shot",
        show_default=True,
        help="Train the cut network once; or cut the teacher layer by layer and train after each; hybrid: layer by "
        "layer what is cut by CP, all else in one go.",
    ),
    click.option(
        "--group", "groups", multiple=True, metavar="GLOB", help="Layers that are cut and trained together; repeatable."
    ),
    click.option("--rechoose", is_flag=True, help="Choose ranks again before each step; they only fall."),
    click.option("--layer", "layers", multiple=True, metavar="GLOB", help="Layers that may change; default: all."),
)
_RECIPE = options.stacked(
    click.option(
        "--epochs", type=click.IntRange(min=1), default=Recipe.epochs, show_default=True, help="Of each step."
    ),
    click.option(
        "--rate", type=click.FloatRange(min=0), metavar="R", help="Learning rate; default: found by short trials."
    ),
    click.option("--course", type=click.Choice(COURSES), default=Recipe.course, show_default=True),
    click.option(
        "--warm-up",
        type=click.FloatRange(min=0),
        default=Recipe.warm_up,
        show_default=True,
        metavar="EPOCHS",
        help="In which the learning rate climbs.",
    ),
    click.option("--optimizer", type=click.Choice(OPTIMIZERS), default=Recipe.optimizer, show_default=True),
    click.option("--momentum", type=click.FloatRange(0, 1, max_open=True), default=Recipe.momentum, show_default=True),
    click.option("--decay", type=click.FloatRange(min=0), default=Recipe.decay, show_default=True, help="Of weights."),
    click.option(
        "--batchnorm",
        type=click.Choice(BATCHNORMS),
        default=Recipe.batchnorm,
        show_default=True,
        help="Normalise by each batch in training, or by the stored statistics.",
    ),
    click.option(
        "--patience",
        type=click.IntRange(min=1),
        default=Recipe.patience,
        show_default=True,
        metavar="EPOCHS",
        help="Without a smaller held-back loss, after which training ends.",
    ),
    click.option(
        "--batch", type=click.IntRange(min=1), default=Recipe.batch, show_default=True, help="Samples a step."
    ),
    click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True),
    click.option("--threads", type=click.IntRange(min=1), help="Default: as many as there are processors."),
    click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True),
    click.option("--fresh", is_flag=True, help="Begin anew where a killed run would go on."),
)


@click.command()
@click.argument("files", nargs=-1, required=True, type=options.FILE, metavar="CUT-MODEL")
@_WHAT
@_READING
@_HOW
@_RECIPE
@options.network_options
@verify_option
@click.option("--json", "as_json", is_flag=True, help="Print the facts as JSON.")
def tune(files: tuple[Path, ...], output: Path, verify: str, engine: str, *, as_json: bool, **asked: Any) -> None:
    """Train a cut network to make up for what the cut lost; only its weights change.

    What the cut binds stays so: zeros of pruned factors, signs, weights of -1, 0 and 1. A run that was killed goes on
    where it was, and ends with the same weights. Needs PyTorch: pip install 'surgery[torch]'.

    \b
    Examples:
      surgery tune small/net.prototxt small/net.caffemodel --teacher net.prototxt net.caffemodel --data images/ -o tuned
      surgery tune small/net.onnx --teacher net.onnx --data train.npz --labels labels.txt -o tuned --mirror --crop 4
    """
    if engine == "torch":
        from surgery.tune.installed import require_torch

        require_torch()
    own, teacher = split_teacher(files, asked["teacher"])
    wanted = _asked(own, teacher, _plan(own, asked["plan"]), asked)
    with bar() as progress:
        outcome = importlib.import_module(ENGINES[engine]).tune(wanted, output, engines(verify), progress)
    if as_json:
        click.echo(tables.as_json(dict(outcome.facts)))
    else:
        _show(outcome.files, outcome.facts)


def split_teacher(files: Sequence[Path], teacher: Sequence[Path]) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Return the files of the cut network and of the teacher.

    An option takes one file, so that weights behind `--teacher net.prototxt` come with CUT-MODEL's files: those that
    cannot be its own, as they stand before its definition or behind its weights, are the teacher's. Raises ModelError.
    """
    from surgery.formats import is_weights

    definitions = [i for i, file in enumerate(files) if not is_weights(file)]
    if len(definitions) != 1:
        found = f"{len(definitions)} definitions" if definitions else "weights alone"
        raise ModelError(f"CUT-MODEL is {found}; expected one prototxt with its weights, or one .onnx")
    at = definitions[0]
    is_onnx = files[at].suffix.lower() == ".onnx"
    own = files[at : at + 1] if is_onnx else files[at : at + 2]
    rest = [file for i, file in enumerate(files) if not at <= i < at + len(own)]
    return tuple(own), (*teacher, *rest)


def _plan(own: Sequence[Path], given: Path | None) -> Plan | None:
    """Return the cuts that made a network: those of the plan named, else of the one beside it."""
    from surgery.plans import from_json

    path = given or own[0].parent / PLAN
    if not path.is_file():
        if given is None:
            return None
        raise PlanError(f"{given}: no such file")
    return from_json(path.read_text(encoding="utf-8", errors="replace"), path)


def _asked(own: tuple[Path, ...], teacher: tuple[Path, ...], plan: Plan | None, asked: dict[str, Any]) -> Asked:
    from surgery.calibrate import read_preprocess
    from surgery.tune.asked import Asked
    from surgery.tune.data import Augment

    network = [asked[name] for name in ("shapes", "phase", "level", "stages")]
    if asked["test_labels"] and not asked["test"]:
        raise DataError(asked["test_labels"], "states labels of --test; give that too, or leave it out")
    recipe = [each.name for each in fields(Recipe)]
    same = ("data", "labels", "images", "target", "temperature", "schedule", "groups", "rechoose", "layers")
    return Asked(
        options.source(own, *network),
        options.source(teacher, *network),
        plan=plan,
        preprocess=read_preprocess(asked["preprocess"]) if asked["preprocess"] else None,
        augment=Augment(asked["crop"], asked["mirror"]),
        weights=parse_weights(asked["weights"]) if asked["weights"] else {},
        recipe=Recipe(**{name: asked[name] for name in recipe}),
        threads=asked["threads"] or os.cpu_count() or 1,
        **{name: asked[name] for name in (*same, "device", "test", "test_labels", "fresh")},
    )


def _show(files: Sequence[Path], facts: Any) -> None:
    heading = ("samples", "network", "loss", "accuracy", "as the original")
    rows: list[tuple[str, ...]] = [heading]
    for of, scores in facts["scores"].items():
        for name, label in ROWS.items():
            score = scores[name]
            shares = ("" if score[key] is None else f"{score[key]:.2%}" for key in ("accuracy", "agreement"))
            loss = "" if score["loss"] is None else f"{score['loss']:.4g}"
            rows.append((of, label, loss, *shares))
    if len(rows) > 1:
        click.echo(tables.table(rows, frozenset({2, 3, 4})) + "\n")
    for i, step in enumerate(facts["steps"], 1):
        found = " (found)" if step["found"] else ""
        best = f"best behind epoch {step['best']} of {len(step['epochs'])}" if step["best"] else "no epoch was better"
        click.echo(tables.printable(f"step {i}: {step['cut']}: learning rate {step['rate']:.2g}{found}, {best}"))
    for note in facts["notes"]:
        click.echo(tables.printable(f"note: {note}"))
    click.echo(tables.printable(_verified(facts["verified"]), 1000))
    click.echo("wrote " + " ".join(map(str, files)))


def _verified(verified: Any) -> str:
    if verified is None:
        return "not verified: --verify none"
    if not verified["blobs"]:
        return f"not verified: {verified['reason']}"
    worst = f"worst relative L2 {verified['worst_rel_l2']:.1e} at '{verified['worst_blob']}'"
    return f"verified: {verified['runtime']}; {verified['blobs']} blobs, {worst}"


__all__ = ["split_teacher", "tune"]
