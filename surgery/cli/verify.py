"""`surgery verify`: the same inputs through two models."""

from __future__ import annotations

import zipfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from surgery.cli import options, tables
from surgery.cli.models import RUNTIMES, parse_runtimes, read_models, split_models
from surgery.cli.progress import bar
from surgery.errors import ModelError, PlanError

if TYPE_CHECKING:
    from surgery.formats import Source
    from surgery.model import Model
    from surgery.runtime import Inputs
    from surgery.verify import Comparison, Verdict

AUTO = "auto"


@click.command()
@click.argument("files", nargs=-1, required=True, type=options.FILE)
@options.network_options
@click.option(
    "--runtime",
    metavar="NAME[,NAME]",
    default=AUTO,
    show_default=True,
    help="caffe, onnxruntime or opencv, or one for each model, as in caffe,onnxruntime. auto is the first of these "
    "that is there and runs the model.",
)
@click.option("--inputs", type=options.FILE, help="An .npz of one array per input blob, or an .npy for a single input.")
@click.option("--tolerance", type=float, default=1e-4, show_default=True, help="Largest relative L2 that is equal.")
@click.option("--layers", is_flag=True, help="Compare every blob that both have, not only the outputs.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the random inputs.")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable, on stdout.")
def verify(
    files: tuple[Path, ...],
    runtime: str,
    inputs: Path | None,
    tolerance: float,
    seed: int,
    *,
    layers: bool,
    as_json: bool,
    **network: Any,
) -> None:
    """Run two models on the same inputs and compare all outputs; the models may be of different formats.

    Inputs are random unless given; a file's arrays have the inputs' shapes, or one axis more in front for samples, and
    the first model's names. Inputs and outputs of the two are matched by name, else by position. Exit code 1 when an
    output differs by more than the tolerance; the first that does is named, and with --layers it is where the models
    part.

    \b
    Examples:
      surgery verify a.prototxt a.caffemodel b.prototxt b.caffemodel
      surgery verify a.prototxt a.caffemodel b.onnx --layers
      surgery verify a.prototxt a.caffemodel a.prototxt a.caffemodel --runtime caffe,onnxruntime --inputs faces.npz
    """
    from surgery.verify import engine_pairs
    from surgery.verify import verify as run

    asked = _asked(runtime)
    pairs = split_models(files)
    if len(pairs) != 2:
        raise ModelError(f"expected two models, a.prototxt [a.caffemodel] or a.onnx, and found {len(pairs)}")
    models = agreeing(read_models(pairs, network))
    given = read_inputs(inputs, dict(models[0].format.runnable(models[0]).inputs)) if inputs else None
    with bar() as progress:
        progress("running both models", 0.0)
        verdict = run(models, (pairs[0], pairs[1]), engine_pairs(models, asked), given, seed=seed, layers=layers)
    click.echo(_json(verdict, tolerance) if as_json else _text(verdict, tolerance, models[0]))
    if not verdict.worst.rel_l2 <= tolerance:
        raise SystemExit(1)


def _asked(runtime: str) -> tuple[str | None, str | None]:
    """Return the runtime of each model."""
    names = [None if name == AUTO else name for name in parse_runtimes(runtime, (AUTO, *RUNTIMES))]
    if len(names) > 2:
        raise PlanError(f"--runtime {runtime[:60]}: expected one runtime, or two with a comma, one for each model")
    return names[0], names[-1]


def agreeing(read: list[tuple[Source, Model]]) -> tuple[Model, Model]:
    """Return the two models; one that does not state its inputs' shapes takes those of the other."""
    (_, first), (_, second) = read
    runs = [model.format.runnable(model) for model in (first, second)]
    models = [first, second]
    for i, own in enumerate(runs):
        other = runs[1 - i]
        if own.unready and not other.unready:
            with suppress(ModelError):  # It has inputs of other names, or reads data: what it said stands.
                models[i] = replace(read[i][0], shapes=tuple(other.inputs.items())).load()
    return models[0], models[1]


def read_inputs(path: Path, shapes: dict[str, tuple[int, ...]]) -> list[Inputs]:
    """Return the input sets of a file; raises ModelError where names or shapes are not the network's."""
    arrays = _read_arrays(path, next(iter(shapes), "data"))
    if set(arrays) != set(shapes):
        raise ModelError(f"{path}: holds {sorted(arrays)}; the network's inputs are {sorted(shapes)}")
    batches = {}
    for name, array in arrays.items():
        if array.dtype.kind not in "fiub":
            raise ModelError(f"{path}: '{name}' holds {array.dtype}; expected numbers")
        axes = len(shapes[name])
        if array.ndim not in (axes, axes + 1) or array.shape[array.ndim - axes + 1 :] != shapes[name][1:]:
            raise ModelError(f"{path}: '{name}' has shape {array.shape}; expected {shapes[name]}, or samples of it")
        batches[name] = array if array.ndim == axes + 1 else array[None]
    counts = {len(batch) for batch in batches.values()}
    if counts == {0}:
        raise ModelError(f"{path}: holds no sample")
    if len(counts) != 1:
        raise ModelError(f"{path}: the inputs have different numbers of samples: {sorted(counts)}")
    return [{name: batch[i] for name, batch in batches.items()} for i in range(counts.pop())]


def _read_arrays(path: Path, only: str) -> dict[str, Any]:
    """Return the arrays of an .npz by name; the one of an .npy is called `only`. Nothing is unpickled."""
    import numpy as np

    try:
        loaded = np.load(path, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            return {only: loaded}
        with loaded:
            return dict(loaded)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ModelError(f"{path}: is not an .npy or .npz file of arrays ({error})") from error


def _row(c: Comparison) -> dict[str, Any]:
    return {
        "blob": c.blob,
        "max_abs": c.max_abs,
        "rel_l2": c.rel_l2,
        "top1_agreement": c.top1_agreement,
        "samples": c.samples,
    }


def _json(verdict: Verdict, tolerance: float) -> str:
    first = verdict.first_beyond(tolerance)
    return tables.as_json(
        {
            "format": 1,
            "runtime": verdict.runtime,
            "blobs": [_row(comparison) for comparison in verdict.comparisons],
            "first_difference": first and first.blob,
            "notes": list(verdict.notes),
        }
    )


def _text(verdict: Verdict, tolerance: float, model: Model) -> str:
    rows = [("blob", "max abs", "relative L2", "top-1 agreement", "")]
    for c in verdict.comparisons:
        top1 = "" if c.top1_agreement is None else f"{c.top1_agreement:.1%}"
        verdict_text = "" if c.rel_l2 <= tolerance else "differs"
        rows.append((tables.printable(c.blob, 60), f"{c.max_abs:.3e}", f"{c.rel_l2:.3e}", top1, verdict_text))
    lines = [tables.table(rows, frozenset({1, 2, 3})), ""]
    if first := verdict.first_beyond(tolerance):
        lines.append(tables.printable(f"first difference: {_place(first.blob, model)}", 1000))
    lines += [tables.printable(f"note: {note}", 1000) for note in verdict.notes]
    return "\n".join([*lines, f"{verdict.comparisons[0].samples} inputs in {verdict.runtime}"])


def _place(blob: str, model: Model) -> str:
    """Return the blob and the layer of the first model that finishes it."""
    makers = [node for node in model.nodes if blob in node.outputs]
    return f"'{blob}'" + (f", made by '{makers[-1].key}' ({makers[-1].type})" if makers else "")
