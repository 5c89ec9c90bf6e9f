"""`surgery convert`: the same network in the other format."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from surgery.cli import options, tables
from surgery.errors import PlanError, VerificationError

if TYPE_CHECKING:
    from surgery.formats import Source
    from surgery.model import Model
    from surgery.verify import Verdict

OLDEST_OPSET, NEWEST_OPSET = 13, 22


@click.command()
@click.argument("files", nargs=-1, required=True, type=options.FILE)
@click.option("-o", "--output", required=True, type=options.FILE, help="OUT.onnx, or for Caffe a folder.")
@options.network_options
@click.option(
    "--opset", type=click.IntRange(OLDEST_OPSET, NEWEST_OPSET), help=f"Of the ONNX file; default: {OLDEST_OPSET}."
)
@click.option("--batch", type=click.Choice(["fixed", "dynamic"]), help="Batch size of the ONNX file; default: fixed.")
@click.option("--fold", is_flag=True, help="Fold BatchNorm, Scale and Bias into weights first.")
@click.option(
    "--verify",
    "is_verified",
    is_flag=True,
    help="Run both, the Caffe one in real Caffe or OpenCV, and compare the outputs before anything is written.",
)
@click.option("--json", "as_json", is_flag=True, help="Machine-readable, on stdout.")
def convert(
    files: tuple[Path, ...],
    output: Path,
    opset: int | None,
    batch: str | None,
    *,
    fold: bool,
    is_verified: bool,
    as_json: bool,
    **network: Any,
) -> None:
    """Convert Caffe to ONNX (-o OUT.onnx) or ONNX to Caffe (-o DIR); the numbers stay.

    Tensors are called like Caffe's blobs. A training network is deployed first: its data layers become inputs, losses
    go. What the other format cannot express stops the conversion, with every such layer named.

    \b
    Examples:
      surgery convert deploy.prototxt net.caffemodel -o net.onnx
      surgery convert deploy.prototxt net.caffemodel -o net.onnx --batch dynamic --opset 17
      surgery convert net.onnx -o caffe-net --verify
    """
    source = options.source(files, network["shapes"], network["phase"], network["level"], network["stages"])
    model = source.load()
    with tempfile.TemporaryDirectory(prefix="surgery-") as scratch:
        if fold:
            source, model = _folded(source, model, Path(scratch))
        if model.format.name == "onnx":
            if opset or batch:
                raise PlanError("--opset and --batch are for ONNX files; this makes a Caffe network")
            paths, verdict = _to_caffe(source, model, files, output, is_verified=is_verified)
        else:
            paths, verdict = _to_onnx(
                source, model, files, output, opset or OLDEST_OPSET, batch or "fixed", is_verified=is_verified
            )
    click.echo(_json(paths, verdict) if as_json else _text(paths, verdict, is_verified=is_verified))


def _to_onnx(
    source: Source, model: Model, files: Sequence[Path], output: Path, opset: int, batch: Any, *, is_verified: bool
) -> tuple[list[Path], Verdict | None]:
    from surgery.convert.to_onnx import to_onnx
    from surgery.output import staged_file

    if output.suffix.lower() != ".onnx":
        raise PlanError(f"-o {output}: expected a name that ends in .onnx")
    conversion = to_onnx(model, opset=opset, batch=batch)
    with staged_file(output, files) as target:
        written = conversion.save(target)
        verdict = _verified(source, model, (target,)) if is_verified else None
    return [output.with_name(path.name) for path in written], verdict


def _to_caffe(
    source: Source, model: Model, files: Sequence[Path], output: Path, *, is_verified: bool
) -> tuple[list[Path], Verdict | None]:
    from surgery.convert.to_caffe import to_caffe
    from surgery.formats import stem_of
    from surgery.output import REPORT, TOOL, check_destination, staged

    check_destination(output, files)
    conversion = to_caffe(model)
    with staged(output) as staging:
        written = conversion.save(staging, stem_of(files))
        verdict = _verified(source, model, written) if is_verified else None
        names = [path.name for path in written]
        report = {"tool": TOOL, "format": 1, "verb": "convert", "source": {"files": [file.name for file in files]}}
        report |= {"files": [*names, REPORT], "tensors": dict(conversion.tensors)}
        (staging / REPORT).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return [output / name for name in names], verdict


def _folded(source: Source, model: Model, scratch: Path) -> tuple[Source, Model]:
    """Return the model with all that can be folded folded, as files of its own."""
    from dataclasses import replace

    from surgery.folding import folding
    from surgery.formats import stem_of

    folds = folding(model).folds
    if not folds:
        return source, model
    folded = model.edit(*folds)
    source = replace(source, files=folded.format.save(folded, scratch, stem_of(source.files)))
    return source, source.load()


def _verified(source: Source, model: Model, written: Sequence[Path]) -> Verdict:
    """Compare what was written with the original; raises VerificationError where they differ."""
    from surgery.formats import load
    from surgery.verify import TOLERANCE, engine_pairs, verify

    result = load(written)
    engines: dict[str, tuple[str, ...]] = {"caffe": ("caffe", "opencv"), "onnx": ("onnxruntime",)}
    pairs = [
        pair
        for pair in engine_pairs((model, result), (None, None))
        if pair[0] in engines[model.format.name] and pair[1] in engines[result.format.name]
    ]
    verdict = verify((model, result), (source.files, tuple(written)), pairs, None)
    if not verdict.worst.rel_l2 <= TOLERANCE:
        worst = verdict.worst
        raise VerificationError(
            f"output '{worst.blob}' is {worst.rel_l2:.2e} (relative L2) from the original's, in {verdict.runtime}; "
            f"at most {TOLERANCE:g} is float32 rounding"
        )
    return verdict


def _facts(verdict: Verdict) -> dict[str, Any]:
    return {"runtime": verdict.runtime, "outputs": len(verdict.comparisons), "worst_rel_l2": verdict.worst.rel_l2}


def _json(paths: Sequence[Path], verdict: Verdict | None) -> str:
    facts = None if verdict is None else _facts(verdict)
    return tables.as_json({"format": 1, "files": [str(path) for path in paths], "verified": facts})


def _text(paths: Sequence[Path], verdict: Verdict | None, *, is_verified: bool) -> str:
    lines = []
    if verdict is not None:
        facts = _facts(verdict)
        lines.append(f"verified: {facts['runtime']}; {facts['outputs']} outputs, worst {facts['worst_rel_l2']:.1e}")
    elif not is_verified:
        lines.append("not verified: --verify runs both, `surgery verify` compares them at any time")
    return tables.printable("\n".join(lines), 1000) + "\nwrote " + " ".join(map(str, paths))
