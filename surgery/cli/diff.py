"""`surgery diff`: what became of every layer of a network in another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from surgery.cli import options, tables
from surgery.cli.models import read_models
from surgery.cli.progress import bar
from surgery.cli.verify import agreeing, read_inputs
from surgery.errors import ModelError, PlanError

if TYPE_CHECKING:
    from surgery.diff.difference import Difference, Numeric
    from surgery.formats import Source
    from surgery.model import Model

    Files = tuple[Path, ...]


@click.command()
@click.argument("files", nargs=-1, required=True, type=options.FILE)
@options.network_options
@click.option("--all", "is_whole", is_flag=True, help="Also what is the same, names in full, what only training reads.")
@click.option(
    "--inputs",
    metavar="PATH|SEED",
    help="Run both, and compare the blobs of the same name: on the arrays of an .npz or .npy, or on random numbers.",
)
@click.option("--html", type=options.FILE, help="Write a page with both graphs, which opens anywhere.")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable, on stdout; docs/diff.md says what is what.")
def diff(
    files: tuple[Path, ...], inputs: str | None, html: Path | None, *, is_whole: bool, as_json: bool, **network: Any
) -> None:
    """Tell what differs between two models, of one format or of two, layer by layer.

    Layers are matched by name, by their weights, by what they read and by their place. A layer in whose place a chain
    of linear layers stands is told as split, with the chain's look, its ranks, and how far its product is off. Of two
    formats one is converted, and what layers are called does not count. Two .caffemodel can be compared alone.

    Exit code 0 when both are the same network, 1 when they differ, 2 when they cannot be compared.

    \b
    Examples:
      surgery diff a.prototxt a.caffemodel b.prototxt b.caffemodel
      surgery diff a.prototxt a.caffemodel a.onnx --inputs 0
      surgery diff a.onnx b.onnx --html diff.html
    """
    from surgery.diff.files import are_identical

    pair = _pair(files)
    _check_page(html, files)
    is_read = is_whole or html is not None or inputs is not None
    if not is_read and are_identical(*pair):
        found = _unread(pair)
    else:
        found = _difference(pair, inputs, network, with_spectra=html is not None)
    if html:
        from surgery.diff.page import write

        write(found, html)
    click.echo(_shown(found, is_whole=is_whole, as_json=as_json))
    if not (found.is_same and (found.numeric is None or found.numeric.parting is None)):
        raise SystemExit(1)


def _pair(files: Sequence[Path]) -> tuple[Files, Files]:
    """Return the files of both models: a definition begins one, and so do weights behind weights or behind ONNX."""
    from surgery.formats import is_onnx, is_weights, split

    models: list[Files] = []
    for file in files:
        if models and is_weights(file) and not is_weights(models[-1][-1]) and not is_onnx(models[-1][-1]):
            models[-1] += (file,)
        else:
            models.append((file,))
    if len(models) != 2:
        raise ModelError(
            f"expected two models, a.prototxt [a.caffemodel], a.onnx or a.caffemodel, and found {len(models)}"
        )
    for model in models:
        split(model, needs_definition=False)
    return models[0], models[1]


def _check_page(page: Path | None, files: Sequence[Path]) -> None:
    """Raise PlanError where the page would take the place of a model."""
    if page and any(page.resolve() == file.resolve() for file in files):
        raise PlanError(f"--html {page}: is one of the models; choose another name")


def _unread(pair: tuple[Files, Files]) -> Difference:
    from surgery.diff.difference import Difference, Side

    first, second = (Side(_names(files), "", ()) for files in pair)
    return Difference(first, second, (), is_identical=True)


def _difference(
    pair: tuple[Files, Files], inputs: str | None, network: dict[str, Any], *, with_spectra: bool
) -> Difference:
    from surgery.diff.files import are_identical
    from surgery.diff.models import compare_models, compare_weights
    from surgery.formats import is_weights

    if any(is_weights(files[0]) for files in pair):
        if inputs is not None:
            raise PlanError("--inputs: weights alone cannot be run; give the prototxt of both")
        compared, numeric = compare_weights(*map(_weights, pair)), None
    else:
        read = read_models(pair, network)
        (_, a), (_, b) = read
        compared = compare_models(a, b, (_names(pair[0]), _names(pair[1])))
        numeric = None if inputs is None else _numeric(read, pair, inputs)
    found = compared.with_spectra() if with_spectra else compared.difference
    return replace(found, is_identical=are_identical(*pair), numeric=numeric)


def _names(files: Files) -> tuple[str, ...]:
    return tuple(map(str, files))


def _weights(files: Files) -> Path:
    """Return the file of weights among a model's; raises ModelError where there is none."""
    from surgery.formats import split

    stored = split(files, needs_definition=False)[1]
    if stored is None:
        raise ModelError(f"{files[0]}: has no weights of its own to compare with a lone .caffemodel; give them as well")
    return stored


def _numeric(read: list[tuple[Source, Model]], pair: tuple[Files, Files], inputs: str) -> Numeric:
    from surgery.diff.numeric import numeric

    models = agreeing(read)
    is_seed = inputs.isascii() and inputs.isdigit()
    given = None if is_seed else read_inputs(Path(inputs), dict(models[0].format.runnable(models[0]).inputs))
    with bar() as progress:
        progress("running both models", 0.0)
        return numeric(models, pair, given, seed=int(inputs) if is_seed else 0)


def _shown(found: Difference, *, is_whole: bool, as_json: bool) -> str:
    from surgery.cli.diff_view import text, whole_text
    from surgery.diff.facts import all_facts, facts

    if as_json:
        return tables.as_json((all_facts if is_whole else facts)(found))
    return (whole_text if is_whole else text)(found)
