"""Try every method on one layer at equal cost: what each loses, what is left, and how fast that runs."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from surgery.choose import Amount, rank_for
from surgery.errors import ModelError, PlanError, SurgeryError
from surgery.factor import METHODS, Method, Rank, choices, options_of, with_options
from surgery.factor.statistics import Statistics
from surgery.factor.threads import blas_threads
from surgery.fitting import Fitted, fit
from surgery.formats import Source
from surgery.model import Extract, Model, Node, Reweigh, Splice
from surgery.survey import Site, survey
from surgery.timing import Entrant, Timing, measure

ROUNDS, WARMUP = 20, 2


@dataclass(frozen=True, eq=False)
class Trial:
    """A method tried on the layer; where it could not be, `refusal` says why and the rest is None.

    `macs` and `params` are the layers' together, `solve_s` the seconds of the solve, `timing` that of the layers alone
    beside the uncut layer.
    """

    method: str
    options: Mapping[str, str]
    refusal: str | None = None
    rank: Rank = ()
    fitted: Fitted | None = None
    params: int = 0
    macs: int = 0
    solve_s: float = 0.0
    timing: Timing | None = None


@dataclass(frozen=True, eq=False)
class Advice:
    """What was tried on a layer, best first, and the layer's own cost. `untimed` says why nothing was timed."""

    site: Site
    trials: tuple[Trial, ...]
    own_timing: Timing | None
    untimed: str | None


def advise(
    source: Source,
    key: str,
    amount: Amount,
    *,
    runtime: str,
    statistics: Statistics | None = None,
    threads: int = 1,
    seed: int = 0,
    progress: Callable[[str, float], None] = lambda text, share: None,
) -> Advice:
    """Cut the layer `key` by every method to the same share of its own cost, and measure the results.

    The layer's input and output stay as they are; what runs beside it in the network is not timed. Raises PlanError
    where there is no such layer, or none that can be cut.
    """
    model = source.load()
    site = site_of(model, key)
    model.edit(Reweigh(key, site.op))  # Raises where there are no weights: any error would be one of zeros.
    tried = _candidates()
    trials = []
    with blas_threads(threads):
        for i, method in enumerate(tried):
            progress(f"{method.name} {key}", i / (len(tried) + 1))
            trials.append(_trial(site, method, amount, statistics, seed))
    progress("timing", len(tried) / (len(tried) + 1))
    try:
        own, timed = _timed(source, model, site.node, trials, runtime, threads)
    except SurgeryError as error:
        return Advice(site, tuple(sorted(trials, key=_loss)), None, str(error))
    return Advice(site, tuple(sorted(timed, key=_loss)), own, None)


def site_of(model: Model, key: str) -> Site:
    """Return the layer `key`; raises PlanError where there is none of that name, or it cannot be cut."""
    if all(node.key != key for node in model.nodes):
        raise PlanError(f"no layer is named '{key}'; `surgery inspect` lists the names")
    entry = next(entry for entry in survey(model).entries if entry.key == key)
    if not isinstance(entry, Site):
        raise PlanError(f"cannot be cut: {entry.reason}", key)
    return entry


def _candidates() -> list[Method]:
    """Return every method, and those that have algorithms with each of them."""
    result = []
    for method in METHODS.values():
        algorithms = choices(method).get("algorithm", ())
        result += [with_options(method, {"algorithm": name}) for name in algorithms] or [method]
    return result


def _trial(site: Site, method: Method, amount: Amount, statistics: Statistics | None, seed: int) -> Trial:
    options = options_of(method)
    reason = method.refusal(site.op)
    if reason:
        return Trial(method.name, options, reason)
    start = time.perf_counter()
    try:
        rank = rank_for(site, method, amount)
        fitted = fit(site.op, method, rank, statistics, refit=statistics is not None, seed=seed)
    except PlanError as error:
        return Trial(method.name, options, error.message)
    chain = fitted.fit.chain
    seconds = time.perf_counter() - start
    return Trial(method.name, options, None, rank, fitted, chain.params, site.macs(chain), seconds)


def _loss(trial: Trial) -> float:
    if trial.fitted is None:
        return float("inf")
    error = trial.fitted.response_error
    return trial.fitted.fit.relative_error if error is None else error


def _timed(
    source: Source, model: Model, node: Node, trials: Sequence[Trial], runtime: str, threads: int
) -> tuple[Timing, list[Trial]]:
    """Return the time of the layer alone, and the trials with theirs."""
    with tempfile.TemporaryDirectory(prefix="surgery-") as scratch:
        part = model.edit(Extract(node.outputs, node.inputs[:1]))
        alone = _written(source, part, Path(scratch) / "own")
        whole = alone.load()
        if all(other.key != node.key for other in whole.nodes):
            raise ModelError(f"{node.key}: has another name where it runs alone")
        entrants = [Entrant("own", whole, alone.files, runtime)]
        for i, trial in enumerate(trials):
            if trial.fitted is not None:
                cut = _written(alone, whole.edit(Splice(node.key, trial.fitted.fit.chain)), Path(scratch) / str(i))
                entrants.append(Entrant(str(i), cut.load(), cut.files, runtime))
        own, *others = measure(entrants, threads=threads, rounds=ROUNDS, warmup=WARMUP)
        found = {int(timing.label): timing for timing in others}
        return own, [replace(trial, timing=found.get(i)) for i, trial in enumerate(trials)]


def _written(source: Source, model: Model, folder: Path) -> Source:
    folder.mkdir()
    blobs = {name for node in model.nodes for name in (*node.inputs, *node.outputs)}
    shapes = tuple((name, shape) for name, shape in source.shapes if name in blobs)
    return replace(source, files=model.format.save(model, folder, "layer"), shapes=shapes)
