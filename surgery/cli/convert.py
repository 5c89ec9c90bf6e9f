"""`surgery convert`: the same network in the other format."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from surgery.cli import options, tables
from surgery.errors import ModelError, PlanError, VerificationError

if TYPE_CHECKING:
    from surgery.formats import Source
    from surgery.model import Model
    from surgery.verify import Verdict

    Original = tuple[Sequence[Path], Model]  # the files that were given, and what they hold

OLDEST_OPSET, NEWEST_OPSET = 13, 22


@dataclass(frozen=True)
class _Done:
    """What was written, what its user must know, and how it compares with the original where that was asked for."""

    paths: Sequence[Path]
    notes: tuple[str, ...]
    verdict: Verdict | None

    @property
    def all_notes(self) -> tuple[str, ...]:
        """Notes on the files and on their comparison."""
        return self.notes + (self.verdict.notes if self.verdict else ())


@click.command()
@click.argument("files", nargs=-1, required=True, type=options.FILE)
@click.option("-o", "--output", required=True, type=options.FILE, help="OUT.onnx, or for Caffe a folder.")
@options.network_options
@click.option(
    "--opset", type=click.IntRange(OLDEST_OPSET, NEWEST_OPSET), help=f"Of the ONNX file; default: {OLDEST_OPSET}."
)
@click.option("--batch", type=click.Choice(["fixed", "dynamic"]), help="Batch size of the ONNX file; default: fixed.")
@click.option("--fold", is_flag=True, help="Fold BatchNorm, Scale and Bias into weights first.")
@click.option("--int8", is_flag=True, help="Store weights of -1, 0 and 1 in the ONNX file as int8.")
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
    int8: bool,
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
    original = (source.files, model) if is_verified else None
    with tempfile.TemporaryDirectory(prefix="surgery-") as scratch:
        if fold:
            source, model = _folded(source, model, Path(scratch))
        if model.format.name == "onnx":
            if opset or batch or int8:
                raise PlanError("--opset, --batch and --int8 are for ONNX files; this makes a Caffe network")
            done = _to_caffe(model, files, output, original)
        else:
            done = _to_onnx(model, files, output, opset or OLDEST_OPSET, batch or "fixed", original, int8=int8)
    click.echo(_json(done) if as_json else _text(done))


def _to_onnx(
    model: Model, files: Sequence[Path], output: Path, opset: int, batch: Any, original: Original | None, *, int8: bool
) -> _Done:
    from surgery.convert.to_onnx import to_onnx
    from surgery.formats.onnx.ternary import with_int8
    from surgery.output import staged_file

    if output.suffix.lower() != ".onnx":
        raise PlanError(f"-o {output}: expected a name that ends in .onnx")
    if len(files) == 1 and any(facts.params for facts in model.format.facts(model).values()):
        # Caffe would run it with its fillers, which without a word are zero; nobody means that here.
        raise ModelError(f"{files[0]}: has no weights; give its .caffemodel as well")
    conversion = to_onnx(model, opset=opset, batch=batch)
    notes: tuple[str, ...] = ()
    with staged_file(output, files) as target:
        with tempfile.TemporaryDirectory(prefix="surgery-") as scratch:
            if int8:
                plain, *_ = conversion.save(Path(scratch) / output.name)
                if not with_int8(plain, target):
                    notes = ("no layer has weights of -1, 0 and 1 alone: nothing is stored as int8",)
            else:
                conversion.save(target)
        written = sorted(target.parent.iterdir())
        verdict = _verified(original, (target,), {}) if original else None
    return _Done([output.with_name(path.name) for path in written], notes, verdict)


def _to_caffe(model: Model, files: Sequence[Path], output: Path, original: Original | None) -> _Done:
    from surgery.convert.to_caffe import to_caffe
    from surgery.formats import stem_of
    from surgery.output import REPORT, TOOL, check_destination, staged

    if output.suffix.lower() in (".prototxt", ".caffemodel", ".onnx"):
        raise PlanError(f"-o {output}: is a file's name; expected a folder, for the two files of a Caffe network")
    check_destination(output, files)
    conversion = to_caffe(model)
    with staged(output) as staging:
        written = conversion.save(staging, stem_of(files))
        verdict = _verified(original, written, conversion.inputs) if original else None
        names = [path.name for path in written]
        done = _Done([output / name for name in names], conversion.notes, verdict)
        report = {"tool": TOOL, "format": 1, "verb": "convert", "source": {"files": [file.name for file in files]}}
        report |= {"files": [*names, REPORT], "tensors": dict(conversion.tensors)}
        report |= {"inputs": {name: list(order) for name, order in conversion.inputs.items()}}
        report |= {"notes": list(done.all_notes), "verified": _facts(verdict)}
        (staging / REPORT).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return done


def _folded(source: Source, model: Model, scratch: Path) -> tuple[Source, Model]:
    """Return the model with all that can be folded folded, as files of its own."""
    from surgery.folding import folding
    from surgery.formats import stem_of

    folds = folding(model).folds
    if not folds:
        return source, model
    folded = model.edit(*folds)
    source = replace(source, files=folded.format.save(folded, scratch, stem_of(source.files)))
    return source, source.load()


def _verified(original: Original, written: Sequence[Path], orders: Mapping[str, tuple[int, ...]]) -> Verdict:
    """Compare what was written with the original, also where that was folded before.

    `orders` are those of the axes in which the result takes inputs. Raises VerificationError where outputs differ.
    """
    from surgery.formats import load
    from surgery.verify import TOLERANCE, engine_pairs, verify

    files, model = original
    # A batch that is dynamic is compared at the original's.
    shapes = model.format.runnable(model).inputs if model.format.name == "caffe" else {}
    result = load(written, input_shapes=shapes)
    engines: dict[str, tuple[str, ...]] = {"caffe": ("caffe", "opencv"), "onnx": ("onnxruntime",)}
    pairs = [
        pair
        for pair in engine_pairs((model, result), (None, None))
        if pair[0] in engines[model.format.name] and pair[1] in engines[result.format.name]
    ]
    verdict = verify((model, result), (files, tuple(written)), pairs, None, orders=orders)
    if not verdict.worst.rel_l2 <= TOLERANCE:
        worst = verdict.worst
        raise VerificationError(
            f"output '{worst.blob}' is {worst.rel_l2:.2e} (relative L2) from the original's, in {verdict.runtime}; "
            f"at most {TOLERANCE:g} is float32 rounding"
        )
    return verdict


def _facts(verdict: Verdict | None) -> dict[str, Any] | None:
    if verdict is None:
        return None
    return {"runtime": verdict.runtime, "outputs": len(verdict.comparisons), "worst_rel_l2": verdict.worst.rel_l2}


def _json(done: _Done) -> str:
    facts = {"files": [str(path) for path in done.paths], "notes": list(done.all_notes)}
    return tables.as_json({"format": 1, **facts, "verified": _facts(done.verdict)})


def _text(done: _Done) -> str:
    if facts := _facts(done.verdict):
        lines = [f"verified: {facts['runtime']}; {facts['outputs']} outputs, worst {facts['worst_rel_l2']:.1e}"]
    else:
        lines = ["not verified: --verify runs both, `surgery verify` compares them at any time"]
    lines += [f"note: {note}" for note in done.all_notes]
    return "\n".join([*(tables.printable(line, 1000) for line in lines), "wrote " + " ".join(map(str, done.paths))])
