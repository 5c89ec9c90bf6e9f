"""Run two models on the same inputs and compare what they compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from surgery.errors import EngineError, EngineMissingError, ModelError, VerificationError
from surgery.model import Model, Node, PerChannel, Refusal, Runnable, Shape
from surgery.ops import Conv2d, Stage
from surgery.runtime import ENGINES, Array, Inputs, job_of
from surgery.runtime.engine import check_inputs

TOLERANCE = 1e-4  # relative L2: float32 sums of some ten thousand terms in another order, through a deep network
SAMPLES = 3
AUTO_ENGINES = ("caffe", "onnxruntime", "opencv")  # Real Caffe, where it is built, is what a Caffe model was made for.

Files = Sequence[Path]
Blobs = dict[str, Array]
Result = list[Blobs] | EngineError  # the blobs of each input set


@dataclass(frozen=True)
class Comparison:
    """How far one blob of model B is from the same blob of model A, over all samples.

    `rel_l2` is ||a - b|| / ||a|| over finite numbers, infinite where only b is not zero or where others differ.
    `top1_agreement` is the share of samples whose largest channel is the same, None for a blob without channels.
    """

    blob: str
    max_abs: float
    rel_l2: float
    top1_agreement: float | None
    samples: int


@dataclass(frozen=True)
class Verdict:
    """What was compared, where: `runtime` names the engine and its version, or "layers only"; `reason` says why so.

    Blobs have model A's names, and come in the order in which A makes them. `notes` say what was paired how, what was
    left out and which runtime refused.
    """

    runtime: str
    comparisons: tuple[Comparison, ...]
    reason: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def worst(self) -> Comparison:
        """The comparison with the largest relative error."""
        return max(self.comparisons, key=lambda c: c.rel_l2)

    def first_beyond(self, tolerance: float) -> Comparison | None:
        """The first blob, in running order, with a larger relative error: where the models part."""
        return next((c for c in self.comparisons if not c.rel_l2 <= tolerance), None)


@dataclass(frozen=True)
class Link:
    """What model B calls an input of model A, and the order of A's axes in which it takes them."""

    name: str
    order: tuple[int, ...]

    @property
    def is_reordered(self) -> bool:
        """Whether B takes the axes in another order."""
        return self.order != tuple(range(len(self.order)))

    def fed(self, array: Array) -> Array:
        """Return what B is fed where A is fed `array`."""
        return np.ascontiguousarray(array.transpose(self.order)) if self.is_reordered else array


def random_inputs(shapes: Mapping[str, Shape], seed: int, samples: int = SAMPLES) -> list[Inputs]:
    """Return `samples` different input sets: first uniform in [0, 1), then normal with growing spread.

    Networks want pixels from 0 to 1 or to 255, with or without their mean: one spread alone would leave some of them
    with nothing but their biases.
    """
    check_inputs(shapes)
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
    engines: tuple[str, str],
    models: tuple[Model, Model],
    files: tuple[Files, Files],
    inputs: tuple[Sequence[Inputs], Sequence[Inputs]],
    *,
    all_blobs: bool,
) -> tuple[Result, Result]:
    """Run each model in its engine, both in one start where it is the same; each gives its blobs, or its error."""
    first, second = (job_of(*own, all_blobs=all_blobs) for own in zip(models, files, inputs, strict=True))
    if engines[0] != engines[1]:
        return ENGINES[engines[0]].run_jobs([first])[0], ENGINES[engines[1]].run_jobs([second])[0]
    a, b = ENGINES[engines[0]].run_jobs([first, second])
    return a, b


def compare(first: Sequence[Blobs], second: Sequence[Blobs], names: Sequence[str]) -> tuple[Comparison, ...]:
    """Compare the blobs of those names over all samples."""
    return tuple(_compare(name, [a[name] for a in first], [b[name] for b in second]) for name in names)


def _compare(name: str, first: Sequence[Array], second: Sequence[Array]) -> Comparison:
    if any(a.shape != b.shape for a, b in zip(first, second, strict=True)):
        return Comparison(name, float("inf"), float("inf"), None, len(first))
    a = np.stack([x.astype(np.float64) for x in first])
    b = np.stack([x.astype(np.float64) for x in second])
    top1 = _top1(np.nan_to_num(a), np.nan_to_num(b))
    finite = np.isfinite(a) & np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return Comparison(name, float("inf"), float("inf"), top1, len(first))
    # Infinity in the norm would hide every other difference.
    a, gap = a[finite], a[finite] - b[finite]
    norm, error = float(np.linalg.norm(a)), float(np.linalg.norm(gap))
    rel_l2 = error / norm if norm else (0.0 if error == 0 else float("inf"))
    return Comparison(name, float(np.abs(gap).max(initial=0)), rel_l2, top1, len(first))


def _top1(a: NDArray[np.float64], b: NDArray[np.float64]) -> float | None:
    if a.ndim < 3 or a.shape[2] < 2 or a.size == 0:  # (sample, batch, channel, ...)
        return None
    return float((a.argmax(axis=2) == b.argmax(axis=2)).mean())


def engine_pairs(models: tuple[Model, Model], asked: tuple[str | None, str | None]) -> list[tuple[str, str]]:
    """Return which engines to try for the two models, in order; None asks for whatever runs the model.

    Models of one format are run in the same engine, so that only the models differ.
    """
    first, second = (_auto(model) if name is None else (name,) for model, name in zip(models, asked, strict=True))
    if asked == (None, None) and models[0].format.name == models[1].format.name:
        return list(zip(first, second, strict=True))
    return list(product(first, second))


def _auto(model: Model) -> tuple[str, ...]:
    return AUTO_ENGINES if model.format.name == "caffe" else tuple(name for name in AUTO_ENGINES if name != "caffe")


def verify(
    models: tuple[Model, Model],
    files: tuple[Files, Files],
    engines: Sequence[tuple[str, str]],
    inputs: Sequence[Inputs] | None,
    *,
    seed: int = 0,
    layers: bool = False,
    orders: Mapping[str, tuple[int, ...]] | None = None,
) -> Verdict:
    """Compare two models' outputs, or with `layers` every blob that both have before a Softmax.

    `engines` are pairs (see `engine_pairs`); the first that runs both models decides. `inputs` have model A's names.
    Inputs and outputs are the same by name, else by position where as many are there (and inputs of the same shapes).
    `orders` are those of A's axes in which B takes an input; where none is given the shapes tell whether one model has
    channels last and the other first.
    Raises EngineError when no engine runs a model, ModelError when the models have no inputs or no outputs in common,
    VerificationError when different inputs give the same outputs.
    """
    if inputs is None and (reason := next((run.unready for run in _runs(models) if run.unready), None)):
        raise ModelError(f"cannot be run: {reason}")
    shapes, links = shared_inputs(models, orders or {})
    own = random_inputs(shapes, seed) if inputs is None else inputs
    fed = (own, [{links[name].name: links[name].fed(array) for name, array in arrays.items()} for arrays in own])
    pair, (first, second), notes = _first_that_run(engines, models, files, fed, all_blobs=layers)
    notes += _by_position("inputs", {name: link.name for name, link in links.items()})
    notes += [
        f"input '{name}', {shapes[name]} in the first model, is fed to the second with its axes in the order "
        + ", ".join(map(str, link.order))
        for name, link in links.items()
        if link.is_reordered and name not in (orders or {})
    ]
    if layers:
        same = {name: name for name in comparable(models, first[0], second[0])}
    else:
        same = _same_outputs(list(first[0]), list(second[0]))
        notes += _by_position("outputs", same)
        alone = [n for n in first[0] if n not in same] + [n for n in second[0] if n not in same.values()]
        notes += [f"outputs of one model only, not compared: {', '.join(alone)}"] if alone else []
    if not same:
        raise ModelError(f"the models have no output in common: {', '.join(first[0])} and {', '.join(second[0])}")
    _check_inputs_matter(first, list(same))
    renamed = [{a: blobs[b] for a, b in same.items()} for blobs in second]
    empty = [name for name in same if not any(np.isfinite(blobs[name]).any() for blobs in first)]
    notes += [f"no number is finite in: {', '.join(empty)}"] if empty else []
    versions = dict.fromkeys(ENGINES[engine].version() for engine in pair)
    comparisons = compare(first, renamed, list(same))
    return Verdict(" and ".join(versions), comparisons, notes=tuple(notes))


def _first_that_run(
    engines: Sequence[tuple[str, str]],
    models: tuple[Model, Model],
    files: tuple[Files, Files],
    inputs: tuple[Sequence[Inputs], Sequence[Inputs]],
    *,
    all_blobs: bool,
) -> tuple[tuple[str, str], tuple[list[Blobs], list[Blobs]], list[str]]:
    """Return the first pair of engines that runs both models, what they gave, and which refused before them."""
    errors: dict[tuple[int, str], EngineError] = {}  # What is known to fail is not tried again beside another engine.
    for engine in dict.fromkeys(name for pair in engines for name in pair):
        if reason := ENGINES[engine].missing():
            errors.update({(i, engine): EngineMissingError(engine, reason) for i in (0, 1)})
    for pair in engines:
        if any(own in errors for own in enumerate(pair)):
            continue
        first, second = run_pair(pair, models, files, inputs, all_blobs=all_blobs)
        if not isinstance(first, EngineError) and not isinstance(second, EngineError):
            refused = [error for error in errors.values() if not isinstance(error, EngineMissingError)]
            return pair, (first, second), [f"refused by {error}" for error in refused]
        for own, result in zip(enumerate(pair), (first, second), strict=True):
            if isinstance(result, EngineError):
                errors[own] = result
    reasons = list(dict.fromkeys(str(error) for error in errors.values()))
    if len(reasons) == 1:
        raise next(iter(errors.values()))
    raise EngineError("no runtime runs both models", "; ".join(reasons))


def shared_inputs(
    models: tuple[Model, Model], orders: Mapping[str, tuple[int, ...]]
) -> tuple[Mapping[str, Shape], Mapping[str, Link]]:
    """Return the shapes of model A's inputs and where each goes in model B; see `verify` for `orders`.

    Raises ModelError where the models cannot be fed the same.
    """
    first, second = (dict(run.inputs) for run in _runs(models))
    if set(first) != set(second) and list(first.values()) == list(second.values()):
        pairs = zip(first.items(), second, strict=True)
        return first, {name: Link(other, tuple(range(len(shape)))) for (name, shape), other in pairs}
    links = {}
    for name, shape in first.items():
        stated = [orders[name]] if name in orders else _orders(len(shape))
        fitting = (order for order in stated if tuple(shape[axis] for axis in order) == second.get(name))
        links[name] = Link(name, next(fitting, ()))
    if set(first) != set(second) or any(len(links[name].order) != len(shape) for name, shape in first.items()):
        raise ModelError(f"inputs differ: {str(first)[:500]} and {str(second)[:500]}; give both with --shape")
    return first, links


def _orders(rank: int) -> list[tuple[int, ...]]:
    """Return the orders of axes that are tried: as they are, channels from last to second, and back."""
    axes = tuple(range(rank))
    return [axes, (0, rank - 1, *axes[1:-1]), (0, *axes[2:], 1)] if rank > 2 else [axes]


def _runs(models: tuple[Model, Model]) -> list[Runnable]:
    return [model.format.runnable(model) for model in models]


def _same_outputs(first: Sequence[str], second: Sequence[str]) -> dict[str, str]:
    """Return which output of B each of A is compared with: of the same name, else, if none is, in the same place."""
    by_name = {name: name for name in first if name in second}
    if by_name or len(first) != len(second):
        return by_name
    return dict(zip(first, second, strict=True))


def _by_position(kind: str, names: Mapping[str, str]) -> list[str]:
    pairs = [f"{a} = {b}" for a, b in names.items() if a != b]
    return [f"{kind} paired by position: {', '.join(pairs)}"] if pairs else []


def comparable(models: tuple[Model, Model], first: Blobs, second: Blobs) -> list[str]:
    """Return the blobs that both models have, in the order in which model A finishes them.

    Softmax outputs, which hide differences, and plain inputs are left out.
    """
    softmax = {top for model in models for node in model.nodes if node.type == "Softmax" for top in node.outputs}
    inputs = set(models[0].format.runnable(models[0]).inputs)
    # Of a blob that is written in place, the last value is the one that is compared.
    made = {top: i for i, node in enumerate(models[0].nodes) for top in node.outputs}
    names = [name for name in first if name in second and name in made and name not in softmax | inputs]
    return sorted(names, key=made.__getitem__)


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
        models, own = (reference, cut), (files[1], files[0])
        first, second = run_pair((engine, engine), models, own, (inputs, inputs), all_blobs=True)
        if isinstance(first, EngineError):
            reasons.append(str(first))
            continue
        if isinstance(second, EngineError):
            raise VerificationError(f"the original runs but the cut model does not: {second}")
        names = comparable(models, first[0], second[0])
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
        # A reference whose bias is new may itself be two layers, one of which adds it.
        whole = [_stage(reference, reference.node(name)) for name in reference.format.made(reference).get(key, (key,))]
        stages = [_stage(cut, cut.node(name)) for name in names]
        x = rng.standard_normal(_probe_shape(whole[0])).astype(np.float32)
        comparisons.append(_compare(key, [_applied(whole, x)], [_applied(stages, x)]))
    return tuple(comparisons)


def _applied(stages: Sequence[Stage], x: Array) -> Array:
    """Return what the stages, one after the other, make of `x`, as float32."""
    return reduce(lambda y, stage: stage.apply(y), stages, x).astype(np.float32)


def _stage(model: Model, node: Node) -> Stage:
    """Return what a layer computes: an operation, or a scale between two."""
    op = model.format.lift(model, node)
    if not isinstance(op, Refusal):
        return op
    scale = model.format.scale(model, node)
    if isinstance(scale, PerChannel):
        return scale.scale
    reason = op.reason if scale is None else scale.reason
    raise VerificationError(f"{node.key}: cannot be read back from the written files: {reason}")


def _probe_shape(op: Stage) -> Shape:
    """Return the shape of an input just large enough for two outputs each way."""
    if not isinstance(op, Conv2d):
        return (2, op.in_channels)
    extent = [d * (k - 1) + 1 + s for k, d, s in zip(op.kernel, op.dilation, op.stride, strict=True)]
    return (1, op.in_channels, extent[0], extent[1])
