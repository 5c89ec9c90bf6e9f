"""The flow of an edit: load, decide, edit, write beside, verify what was written, move into place."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from surgery.errors import EngineError, VerificationError
from surgery.formats import Source, digest, stem_of
from surgery.model import Convolve, Edit, Extract, Fold, Model, PerChannel, Refusal
from surgery.ops import Conv2d
from surgery.output import REPORT, TOOL, check_destination, staged
from surgery.runtime import ENGINES, Array, job_of
from surgery.verify import TOLERANCE, Verdict, comparable, compare, random_inputs, run_pair

FORMAT = 1
Files = Sequence[Path]
Blobs = list[dict[str, Array]]
Facts = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Decision:
    """What to do to a model: the edits, a row of the report for each, and what is left, with the reasons."""

    edits: Sequence[Edit]
    rows: Sequence[Facts]
    left: Sequence[Refusal] = ()


def carry_out(
    source: Source, verb: str, decide: Callable[[Model], Decision], folder: Path, engines: Sequence[str] | None
) -> tuple[tuple[Path, ...], Facts]:
    """Edit a model and put its files and the report into `folder`; return their paths and the report.

    The first of `engines` that runs the original verifies what was written; None verifies nothing. Raises
    VerificationError when the written files compute something else; then nothing is left behind.
    """
    check_destination(folder, source.files)
    model = source.load()
    decision = decide(model)
    edited = model.edit(*decision.edits)
    with staged(folder) as staging:
        paths = edited.format.save(edited, staging, stem_of(source.files))
        names = [path.name for path in paths]
        written = replace(source, files=paths, shapes=_shapes(source, edited)).load()
        verdict = None if engines is None else verify((model, written), (source.files, paths), engines, decision.edits)
        report = {
            "tool": TOOL,
            "format": FORMAT,
            "verb": verb,
            "source": {"files": [path.name for path in source.files], "digest": digest(source.files)},
            "files": [*names, REPORT],
            "layers": [len(model.nodes), len(written.nodes)],
            "params": [_params(model), _params(written)],
            "edits": list(decision.rows),
            "left": [{"layer": left.key, "reason": left.reason} for left in decision.left],
            "notes": [*edited.format.notes(edited), *_reshaped(model, written)],
            "verified": as_facts(verdict),
        }
        text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
        (staging / REPORT).write_text(text, encoding="utf-8", errors="backslashreplace")
    return tuple(folder / name for name in names), report


def _shapes(source: Source, edited: Model) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Return the shapes that the user gave for blobs that are still there."""
    blobs = {name for node in edited.nodes for name in (*node.inputs, *node.outputs)}
    return tuple((name, shape) for name, shape in source.shapes if name in blobs)


def _params(model: Model) -> int | None:
    counts = [facts.params for facts in model.format.facts(model).values()]
    return None if None in counts else sum(count for count in counts if count is not None)


def _reshaped(model: Model, edited: Model) -> list[str]:
    """Return a line for each output whose shape changed."""
    before, after = (_output_shapes(m) for m in (model, edited))
    return [
        f"output '{name}' was {before[name]} and is {after[name]}"
        for name in after
        if before.get(name, after[name]) != after[name]
    ]


def _output_shapes(model: Model) -> dict[str, str]:
    facts = model.format.facts(model)
    shapes = {name: shape for n in model.nodes for name, shape in zip(n.outputs, facts[n.key].shapes, strict=False)}
    return {name: "x".join(map(str, shapes[name] or "?")) for name in model.format.outputs(model) if name in shapes}


def as_facts(verdict: Verdict | None) -> Facts | None:
    """Return what is told of a verification as JSON values, None where there was none."""
    if verdict is None:
        return None
    worst = verdict.worst if verdict.comparisons else None
    return {
        "runtime": verdict.runtime,
        "reason": verdict.reason,
        "blobs": len(verdict.comparisons),
        "worst_blob": worst and worst.blob,
        "worst_rel_l2": worst and worst.rel_l2,
    }


def verify(
    models: tuple[Model, Model],
    files: tuple[Files, Files],
    engines: Sequence[str],
    edits: Sequence[Edit] = (),
    *,
    seed: int = 0,
) -> Verdict:
    """Compare an edited model, as written, with the original at every blob that both have, before any Softmax.

    An input that the edit made of an inner blob is fed what the original computes there. Blobs that only gained axes of
    size 1 are compared number by number. Where nothing runs the original, each layer whose weights the edits changed
    is checked alone; there is no comparison where there is none. Raises VerificationError where something differs, or
    where the original runs and the edited model does not.
    """
    run = models[0].format.runnable(models[0])
    reasons = [run.unready] if run.unready else []
    for engine in engines if not run.unready else ():
        if missing := ENGINES[engine].missing():
            reasons.append(missing)
            continue
        first, second = _run(engine, models, files, random_inputs(run.inputs, seed))
        if isinstance(first, EngineError):
            reasons.append(str(first))
            continue
        if isinstance(second, EngineError):
            raise VerificationError(f"the original runs but the edited model does not: {second}")
        verdict = _compared(ENGINES[engine].version(), models, first, second)
        return _heeded(verdict, first, is_part=bool(edits) and all(isinstance(edit, Extract) for edit in edits))
    alone = list(_alone(models, edits, np.random.default_rng(seed)))
    first, second = [dict(pair[0] for pair in alone)], [dict(pair[1] for pair in alone)]
    comparisons = compare(first, second, list(first[0]))
    reason = "; ".join(reasons) or "no runtime was asked for"
    return _checked(Verdict("layers only" if alone else "none", comparisons, reason))


def _alone(
    models: tuple[Model, Model], edits: Sequence[Edit], rng: np.random.Generator
) -> Iterator[tuple[tuple[str, Array], tuple[str, Array]]]:
    """Yield, for each layer that took in a scale or became a convolution, what it gave and what it gives in NumPy.

    Left out are layers of which NumPy computes none: deconvolutions and forks' depthwise convolutions.
    """
    scales = {edit.key: edit.absorbed for edit in edits if isinstance(edit, Fold)}
    dense = [key for edit in edits if isinstance(edit, Convolve) for key in edit.keys]
    for key in (*scales, *dense):
        old, new = (model.format.lift(model, model.node(key)) for model in models)
        if isinstance(old, Refusal) or isinstance(new, Refusal):
            continue
        size = tuple(s * (d * (k - 1) + 2) for k, s, d in _axes(old)) if isinstance(old, Conv2d) else ()
        x = rng.standard_normal((2, old.in_channels, *size))
        before = old.apply(x)
        is_reshaped = isinstance(old, Conv2d) != isinstance(new, Conv2d)
        after = new.apply(x.reshape(2, *new.weight.shape[1:]) if is_reshaped else x)
        for absorbed in scales.get(key, ()):
            meaning = models[0].format.scale(models[0], models[0].node(absorbed))
            before = meaning.scale.apply(before) if isinstance(meaning, PerChannel) else before
        yield (key, before), (key, after.reshape(before.shape))


def _axes(op: Conv2d) -> Iterator[tuple[int, int, int]]:
    return zip(op.kernel, op.stride, op.dilation, strict=True)


def _run(
    engine: str, models: tuple[Model, Model], files: tuple[Files, Files], inputs: Sequence[Mapping[str, Array]]
) -> tuple[Blobs | EngineError, Blobs | EngineError]:
    """Run both models, the second on those of the first's inputs and inner blobs that it has as inputs."""
    wanted = models[1].format.runnable(models[1]).inputs
    if set(wanted) <= set(inputs[0]):
        fed = [{name: arrays[name] for name in wanted} for arrays in inputs]
        return run_pair((engine, engine), models, files, (inputs, fed), all_blobs=True)
    (first,) = ENGINES[engine].run_jobs([job_of(models[0], files[0], inputs, all_blobs=True)])
    if isinstance(first, EngineError):
        return first, []
    fed = [{n: blobs[n] if n in blobs else own[n] for n in wanted} for blobs, own in zip(first, inputs, strict=True)]
    (second,) = ENGINES[engine].run_jobs([job_of(models[1], files[1], fed, all_blobs=True)])
    return first, second


def _compared(runtime: str, models: tuple[Model, Model], first: Blobs, second: Blobs) -> Verdict:
    computed = {name for node in models[1].nodes if node.inputs for name in node.outputs}
    names = [name for name in comparable(models, first[0], second[0]) if name in computed]
    # Nothing may be there but a Softmax, or what works in place on an input.
    names = names or [name for name in second[0] if name in first[0] and name in computed]
    alike = [{n: _like(own[n], blobs[n]) for n in names} for own, blobs in zip(first, second, strict=True)]
    return _checked(Verdict(runtime, compare(first, alike, names)))


def _heeded(verdict: Verdict, first: Blobs, *, is_part: bool) -> Verdict:
    """Return the verdict; raises VerificationError where nothing compared depends on the inputs.

    A part of a network may be constant, as SSD's prior boxes are; then the verdict says so.
    """
    names = [comparison.blob for comparison in verdict.comparisons]
    if not all(np.array_equal(first[0][n], other[n], equal_nan=True) for other in first[1:] for n in names):
        return verdict
    if is_part:
        return replace(verdict, reason="different inputs give the same there")
    raise VerificationError("different inputs give the same outputs, so running the models shows nothing")


def _checked(verdict: Verdict) -> Verdict:
    """Return the verdict; raises VerificationError where something in it differs."""
    worst = verdict.worst if verdict.comparisons else None
    if worst is not None and not worst.rel_l2 <= TOLERANCE:
        raise VerificationError(
            f"'{worst.blob}' is {worst.rel_l2:.2e} (relative L2) from the original's, in {verdict.runtime}; "
            f"at most {TOLERANCE:g} is float32 rounding"
        )
    return verdict


def _like(original: Array, found: Array) -> Array:
    """Return `found` in the shape of `original` where it only has more axes of size 1."""
    more = found.ndim - original.ndim
    return found.reshape(original.shape) if more > 0 and found.shape == original.shape + (1,) * more else found
