"""`surgery verify`: the same inputs through two models."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from surgery.cli import options, tables
from surgery.cli.progress import bar
from surgery.errors import ModelError

if TYPE_CHECKING:
    from surgery.runtime import Inputs
    from surgery.verify import Comparison, Verdict


@click.command()
@click.argument("files", nargs=-1, required=True, type=options.FILE)
@options.network_options
@click.option("--runtime", type=click.Choice(["auto", "caffe", "opencv"]), default="auto", show_default=True)
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
    """Run two models on the same inputs and compare all outputs.

    Inputs are random unless given; a file's arrays have the inputs' shapes, or one axis more in front for samples.
    Exit code 1 when an output differs by more than the tolerance.

    \b
    Examples:
      surgery verify a.prototxt a.caffemodel b.prototxt b.caffemodel
      surgery verify a.prototxt a.caffemodel b.prototxt b.caffemodel --inputs faces.npz --layers --runtime caffe
    """
    from surgery.verify import verify as run

    pairs = split_models(files)
    sources = [
        options.source(p, network["shapes"], network["phase"], network["level"], network["stages"]) for p in pairs
    ]
    models = (sources[0].load(), sources[1].load())
    given = _read_inputs(inputs, dict(models[0].format.runnable(models[0]).inputs)) if inputs else None
    engine = _engine(runtime)
    with bar() as progress:
        progress(f"running both models in {engine}", 0.0)
        verdict = run(models, pairs, engine, given, seed=seed, layers=layers)
    click.echo(_json(verdict) if as_json else _text(verdict, tolerance))
    if not verdict.worst.rel_l2 <= tolerance:
        raise SystemExit(1)


def split_models(files: tuple[Path, ...]) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Return the files of two models; each begins with its definition."""
    from surgery.formats import is_weights

    starts = [i for i, file in enumerate(files) if not is_weights(file)]
    if len(starts) != 2 or starts[0] != 0:
        raise ModelError("expected two models: a.prototxt [a.caffemodel] b.prototxt [b.caffemodel]")
    return files[: starts[1]], files[starts[1] :]


def _engine(runtime: str) -> str:
    from surgery.pipeline import AUTO_ENGINES
    from surgery.runtime import ENGINES

    if runtime != "auto":
        return runtime
    return next((name for name in AUTO_ENGINES if ENGINES[name].missing() is None), AUTO_ENGINES[-1])


def _read_inputs(path: Path, shapes: dict[str, tuple[int, ...]]) -> list[Inputs]:
    """Return the input sets of a file; raises ModelError where names or shapes are not the network's."""
    import numpy as np

    try:
        loaded = np.load(path, allow_pickle=False)
        arrays = dict(loaded) if isinstance(loaded, np.lib.npyio.NpzFile) else {next(iter(shapes), "data"): loaded}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ModelError(f"{path}: is not an .npy or .npz file of arrays ({error})") from error
    if set(arrays) != set(shapes):
        raise ModelError(f"{path}: holds {sorted(arrays)}; the network's inputs are {sorted(shapes)}")
    batches = {}
    for name, array in arrays.items():
        if array.dtype.kind not in "fiub":
            raise ModelError(f"{path}: '{name}' holds {array.dtype}; expected numbers")
        axes = len(shapes[name])
        if array.ndim not in (axes, axes + 1) or array.shape[-axes + 1 :] != shapes[name][1:]:
            raise ModelError(f"{path}: '{name}' has shape {array.shape}; expected {shapes[name]}, or samples of it")
        batches[name] = array if array.ndim == axes + 1 else array[None]
    counts = {len(batch) for batch in batches.values()}
    if counts == {0}:
        raise ModelError(f"{path}: holds no sample")
    if len(counts) != 1:
        raise ModelError(f"{path}: the inputs have different numbers of samples: {sorted(counts)}")
    return [{name: batch[i] for name, batch in batches.items()} for i in range(counts.pop())]


def _row(c: Comparison) -> dict[str, Any]:
    return {
        "blob": c.blob,
        "max_abs": c.max_abs,
        "rel_l2": c.rel_l2,
        "top1_agreement": c.top1_agreement,
        "samples": c.samples,
    }


def _json(verdict: Verdict) -> str:
    rows = [_row(comparison) for comparison in verdict.comparisons]
    return tables.as_json({"format": 1, "runtime": verdict.runtime, "blobs": rows})


def _text(verdict: Verdict, tolerance: float) -> str:
    rows = [("blob", "max abs", "relative L2", "top-1 agreement", "")]
    for c in verdict.comparisons:
        top1 = "" if c.top1_agreement is None else f"{c.top1_agreement:.1%}"
        verdict_text = "" if c.rel_l2 <= tolerance else "differs"
        rows.append((tables.printable(c.blob, 60), f"{c.max_abs:.3e}", f"{c.rel_l2:.3e}", top1, verdict_text))
    samples = verdict.comparisons[0].samples
    return tables.table(rows, frozenset({1, 2, 3})) + f"\n\n{samples} inputs in {verdict.runtime}"
