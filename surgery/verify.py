"""Run two models on the same inputs and compare what they compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from surgery.errors import EngineError, ModelError, VerificationError
from surgery.model import Model, Node, Refusal, Shape
from surgery.ops import Chain, Conv2d, Op
from surgery.runtime import ENGINES, Array, Inputs, Job, OpenCV, Phase
from surgery.runtime.opencv import producers

TOLERANCE = 1e-4  # relative L2: float32 sums of some ten thousand terms in another order, through a deep network
SAMPLES = 3

Files = Sequence[Path]
Blobs = dict[str, Array]


@dataclass(frozen=True)
class Comparison:
    """How far one blob of model B is from the same blob of model A, over all samples.

    `rel_l2` is ||a - b|| / ||a||, infinite where only b is not zero or where NaNs differ. `top1_agreement` is the share
    of samples whose largest channel is the same, None for a blob without channels.
    """

    blob: str
    max_abs: float
    rel_l2: float
    top1_agreement: float | None
    samples: int


@dataclass(frozen=True)
class Verdict:
    """What was compared, where: `runtime` names the engine and its version, or "layers only"; `reason` says why so."""

    runtime: str
    comparisons: tuple[Comparison, ...]
    reason: str | None = None

    @property
    def worst(self) -> Comparison:
        """The comparison with the largest relative error."""
        return max(self.comparisons, key=lambda c: c.rel_l2)


def random_inputs(shapes: Mapping[str, Shape], seed: int, samples: int = SAMPLES) -> list[Inputs]:
    """Return `samples` different input sets: first uniform in [0, 1), then normal with growing spread.

    Networks want pixels from 0 to 1 or to 255, with or without their mean: one spread alone would leave some of them
    with nothing but their biases.
    """
    rng = np.random.default_rng(seed)
    draws = [
        {
            name: (rng.random(shape) if i == 0 else 8.0 ** (i - 1) * rng.standard_normal(shape)).astype(np.float32)
            for name, shape in shapes.items()
        }
        for i in range(samples)
    ]
    return cast("list[Inputs]", draws)


def run_pair(
    engine: str, models: tuple[Model, Model], files: tuple[Files, Files], inputs: Sequence[Inputs], *, all_blobs: bool
) -> list[list[Blobs] | EngineError]:
    """Run both models in one start of the engine; each gives its blobs per input set, or its error."""
    jobs = [_job(model, paths, inputs, all_blobs) for model, paths in zip(models, files, strict=True)]
    runtime = ENGINES[engine]
    if isinstance(runtime, OpenCV):  # It keeps no names of blobs.
        tables = [producers((n.key.partition("#")[0], n.type, n.outputs) for n in model.nodes) for model in models]
        return runtime.run_jobs(jobs, producers=tables)
    return runtime.run_jobs(jobs)


def _job(model: Model, files: Files, inputs: Sequence[Inputs], all_blobs: bool) -> Job:
    run = model.format.runnable(model)
    return Job(
        prototxt=files[0],
        weights=files[1] if len(files) > 1 else None,
        inputs=inputs,
        all_blobs=all_blobs,
        phase=cast("Phase", run.phase),
        level=run.level,
        stages=run.stages,
    )


def compare(first: Sequence[Blobs], second: Sequence[Blobs], names: Sequence[str]) -> tuple[Comparison, ...]:
    """Compare the blobs of those names over all samples."""
    return tuple(_compare(name, [a[name] for a in first], [b[name] for b in second]) for name in names)


def _compare(name: str, first: Sequence[Array], second: Sequence[Array]) -> Comparison:
    if any(a.shape != b.shape for a, b in zip(first, second, strict=True)):
        return Comparison(name, float("inf"), float("inf"), None, len(first))
    a = np.stack([x.astype(np.float64) for x in first])
    b = np.stack([x.astype(np.float64) for x in second])
    same_nan = bool((np.isnan(a) == np.isnan(b)).all())
    a, b = np.nan_to_num(a), np.nan_to_num(b)
    gap = a - b
    norm, error = float(np.linalg.norm(a)), float(np.linalg.norm(gap))
    rel_l2 = (error / norm if norm else (0.0 if error == 0 else float("inf"))) if same_nan else float("inf")
    return Comparison(name, float(np.abs(gap).max(initial=0)), rel_l2, _top1(a, b), len(first))


def _top1(a: NDArray[np.float64], b: NDArray[np.float64]) -> float | None:
    if a.ndim < 3 or a.shape[2] < 2 or a.size == 0:  # (sample, batch, channel, ...)
        return None
    return float((a.argmax(axis=2) == b.argmax(axis=2)).mean())


def verify(
    models: tuple[Model, Model],
    files: tuple[Files, Files],
    engine: str,
    inputs: Sequence[Inputs] | None,
    *,
    seed: int = 0,
    layers: bool = False,
) -> Verdict:
    """Compare two models' outputs, or with `layers` every blob that both have before a Softmax.

    Raises EngineError when the engine is missing or refuses a model, ModelError when the models have no inputs or no
    outputs in common, VerificationError when different inputs give the same outputs.
    """
    if inputs is None:
        inputs = random_inputs(shared_inputs(models), seed)
    results = run_pair(engine, models, files, inputs, all_blobs=layers)
    for result in results:
        if isinstance(result, EngineError):
            raise result
    first, second = cast("list[list[Blobs]]", results)
    names = comparable(models, first[0], second[0]) if layers else [n for n in first[0] if n in second[0]]
    if not names:
        raise ModelError(f"the models have no output in common: {', '.join(first[0])} and {', '.join(second[0])}")
    _check_inputs_matter(first, names)
    return Verdict(ENGINES[engine].version(), compare(first, second, names))


def shared_inputs(models: tuple[Model, Model]) -> Mapping[str, Shape]:
    """Return the shapes of the inputs; raises ModelError where the models cannot be fed the same."""
    runs = [model.format.runnable(model) for model in models]
    for run in runs:
        if run.unready:
            raise ModelError(f"cannot be run: {run.unready}")
    if dict(runs[0].inputs) != dict(runs[1].inputs):
        raise ModelError(f"inputs differ: {dict(runs[0].inputs)} and {dict(runs[1].inputs)}; give both with --shape")
    return runs[0].inputs


def comparable(models: tuple[Model, Model], first: Blobs, second: Blobs) -> list[str]:
    """Return the blobs that both models have, without Softmax outputs, which hide differences, and plain inputs."""
    softmax = {top for model in models for node in model.nodes if node.type == "Softmax" for top in node.outputs}
    inputs = set(models[0].format.runnable(models[0]).inputs)
    own = {top for node in models[0].nodes for top in node.outputs}
    return [name for name in first if name in second and name in own and name not in softmax | inputs]


def _check_inputs_matter(results: Sequence[Blobs], names: Sequence[str]) -> None:
    if len(results) < 2:
        return
    if all(np.array_equal(results[0][name], other[name], equal_nan=True) for other in results[1:] for name in names):
        raise VerificationError("different inputs give the same outputs, so running the models shows nothing")


def verify_cut(
    cut: Model,
    reference: Model,
    made: Mapping[str, Sequence[str]],
    files: tuple[Files, Files],
    engines: Sequence[str],
    *,
    seed: int = 0,
) -> Verdict:
    """Check a cut model, read back from its files, against the reference: every common blob within TOLERANCE.

    `made` names the layers in place of each layer cut; `files` are those of the cut model and of the reference. The
    first of `engines` that runs the reference decides; where none does, each cut layer is checked alone. Raises
    VerificationError when something differs or only the cut model fails to run.
    """
    reasons = []
    run = reference.format.runnable(reference)
    for engine in engines if not run.unready else ():
        missing = ENGINES[engine].missing()
        if missing:
            reasons.append(missing)
            continue
        inputs = random_inputs(run.inputs, seed)
        first, second = run_pair(engine, (reference, cut), (files[1], files[0]), inputs, all_blobs=True)
        if isinstance(first, EngineError):
            reasons.append(str(first))
            continue
        if isinstance(second, EngineError):
            raise VerificationError(f"the original runs but the cut model does not: {second}")
        names = comparable((reference, cut), first[0], second[0])
        _check_inputs_matter(first, names)
        return _checked(Verdict(ENGINES[engine].version(), compare(first, second, names)))
    reason = run.unready or "; ".join(reasons) or "no runtime was asked for"
    return _checked(Verdict("layers only", _layers_alone(cut, reference, made, seed), reason))


def _checked(verdict: Verdict) -> Verdict:
    worst = verdict.worst
    if not worst.rel_l2 <= TOLERANCE:
        raise VerificationError(
            f"blob '{worst.blob}' is {worst.rel_l2:.2e} (relative L2) from the original with the factors multiplied "
            f"back, in {verdict.runtime}; at most {TOLERANCE:g} is float32 rounding"
        )
    return verdict


def _layers_alone(cut: Model, reference: Model, made: Mapping[str, Sequence[str]], seed: int) -> tuple[Comparison, ...]:
    """Compare each cut layer with its reference in NumPy."""
    rng = np.random.default_rng(seed)
    comparisons = []
    for key, names in made.items():
        stages = [_op(cut, cut.node(name)) for name in names]
        whole = _op(reference, reference.node(key))
        chain = Chain(tuple(stages))
        x = rng.standard_normal(_probe_shape(whole)).astype(np.float32)
        comparisons.append(_compare(key, [whole.apply(x).astype(np.float32)], [chain.apply(x).astype(np.float32)]))
    return tuple(comparisons)


def _op(model: Model, node: Node) -> Op:
    op = model.format.lift(model, node)
    if isinstance(op, Refusal):
        raise VerificationError(f"{node.key}: cannot be read back from the written files: {op.reason}")
    return op


def _probe_shape(op: Op) -> Shape:
    """Return the shape of an input just large enough for two outputs each way."""
    if not isinstance(op, Conv2d):
        return (2, op.in_channels)
    extent = [d * (k - 1) + 1 + s for k, d, s in zip(op.kernel, op.dilation, op.stride, strict=True)]
    return (1, op.in_channels, extent[0], extent[1])
