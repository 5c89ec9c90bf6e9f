"""Carry out a plan: fit every cut, one after the other, and put the factors in place of the layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from surgery.errors import PlanError
from surgery.factor.statistics import Statistics
from surgery.factor.threads import blas_threads
from surgery.fitting import Fitted, fit
from surgery.formats.wiring import Wiring
from surgery.model import Edit, Model, Refusal, Reweigh, Share, Splice
from surgery.ops import Chain, Op, collapse
from surgery.ops.stack import stack, unstack
from surgery.plans import Cut, Plan


class StatisticsFor(Protocol):
    """Gives the statistics of layers that read one value; `done` are the chains of those that were cut before."""

    def __call__(self, keys: tuple[str, ...], done: Mapping[str, Chain]) -> Statistics:
        """Return the statistics, the wanted outputs of all `keys` side by side."""
        ...


@dataclass(frozen=True, eq=False)
class Made:
    """A cut as it was made: the fit, what each of its layers became as a whole, and the edit that does it."""

    cut: Cut
    fitted: Fitted
    chains: Mapping[str, Chain]
    edit: Splice | Share


@dataclass(frozen=True, eq=False)
class Rewritten:
    """A model before and after a plan, and how each cut was made, in the order of the plan."""

    original: Model
    model: Model
    made: tuple[Made, ...]

    def reference(self) -> Model:
        """Return the original with each cut weight replaced by the product of its factors: what `model` must equal."""
        chains = {key: chain for made in self.made for key, chain in made.chains.items()}
        return self.original.edit(*(Reweigh(key, collapse(chain, "float32")) for key, chain in chains.items()))


def rewrite(
    model: Model,
    plan: Plan,
    progress: Callable[[Cut], None] = lambda cut: None,
    statistics_for: StatisticsFor | None = None,
) -> Rewritten:
    """Return `model` with the plan carried out, in the order in which the layers run; `progress` is told each cut.

    A plan with a calibration needs `statistics_for`. Solves run under the plan's number of BLAS threads: float32
    factors differ between numbers of threads. Raises PlanError when a cut names a layer that is not there or cannot be
    cut so.
    """
    if plan.calibration is not None and statistics_for is None:
        raise PlanError("the plan is fitted to calibration data, and there is none; give the same data again")
    made: dict[str, Made] = {}
    done: dict[str, Chain] = {}
    with blas_threads(plan.threads):
        for cut in _in_running_order(model, plan):
            progress(cut)
            op = _op(model, cut)
            statistics = statistics_for(cut.keys, done) if statistics_for and plan.calibration is not None else None
            try:
                fitted = fit(op, cut.configured, cut.rank, statistics, refit=plan.refit, seed=plan.seed)
            except PlanError as error:
                raise PlanError(error.message, cut.key) from error
            made[cut.key] = _made(model, cut, fitted)
            done.update(made[cut.key].chains)
    ordered = tuple(made[cut.key] for cut in plan.cuts)
    return Rewritten(model, model.edit(*_edits(ordered)), ordered)


def _in_running_order(model: Model, plan: Plan) -> list[Cut]:
    places = {node.key: i for i, node in enumerate(model.nodes)}
    missing = next((key for cut in plan.cuts for key in cut.keys if key not in places), None)
    if missing is not None:
        raise PlanError(f"no layer is named '{missing}'; `surgery inspect` lists the names")
    return sorted(plan.cuts, key=lambda cut: min(places[key] for key in cut.keys))


def _op(model: Model, cut: Cut) -> Op:
    """Return the layer, or the layers as one, that a cut is of; raises PlanError where it cannot be cut so."""
    ops = [_lifted(model, key) for key in cut.keys]
    if cut.others:
        _check_one_source(model, cut)
        try:
            ops = [stack(ops)]
        except ValueError as error:
            raise PlanError(f"cannot share factors with {', '.join(cut.others)}: {error}", cut.key) from error
    reason = cut.configured.refusal(ops[0])
    if reason:
        raise PlanError(f"{cut.method} cannot cut it: {reason}", cut.key)
    return ops[0]


def _lifted(model: Model, key: str) -> Op:
    op = model.format.lift(model, model.node(key))
    if isinstance(op, Refusal):
        raise PlanError(f"cannot be cut: {op.reason}", key)
    return op


def _check_one_source(model: Model, cut: Cut) -> None:
    """Raise PlanError unless all layers of a cut read the same value."""
    sources = dict(zip((node.key for node in model.nodes), Wiring(model.nodes).sources, strict=True))
    values = {sources[key][0] or model.node(key).inputs[0] for key in cut.keys}
    if len(values) > 1:
        raise PlanError(f"does not read what {', '.join(cut.others)} read, so they cannot share factors", cut.key)


def _made(model: Model, cut: Cut, fitted: Fitted) -> Made:
    chain = fitted.fit.chain
    if not cut.others:
        return Made(cut, fitted, {cut.key: chain}, Splice(cut.key, chain))
    try:
        stem, heads = unstack(chain, [_lifted(model, key) for key in cut.keys])
    except ValueError as error:
        raise PlanError(f"cannot share factors with {', '.join(cut.others)}: {error}", cut.key) from error
    chains = {key: Chain((*stem.ops, *head.ops)) for key, head in zip(cut.keys, heads, strict=True)}
    return Made(cut, fitted, chains, Share(cut.keys, stem, heads))


def _edits(made: tuple[Made, ...]) -> list[Edit]:
    """Return the edits, those of one kind side by side."""
    splices: list[Edit] = [each.edit for each in made if isinstance(each.edit, Splice)]
    return [*splices, *(each.edit for each in made if isinstance(each.edit, Share))]
