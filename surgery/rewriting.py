"""Carry out a plan: fit every cut, one after the other, and put the factors in place of the layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from surgery.errors import PlanError
from surgery.factor import METHODS, Fit
from surgery.factor.threads import blas_threads
from surgery.model import Model, Refusal, Reweigh, Splice
from surgery.ops import collapse
from surgery.plans import Cut, Plan


@dataclass(frozen=True, eq=False)
class Rewritten:
    """A model before and after a plan, and how each layer was fitted."""

    original: Model
    model: Model
    fits: Mapping[str, Fit]

    def reference(self) -> Model:
        """Return the original with each cut weight replaced by the product of its factors: what `model` must equal."""
        return self.original.edit(*(Reweigh(key, collapse(fit.chain, "float32")) for key, fit in self.fits.items()))


def rewrite(model: Model, plan: Plan, progress: Callable[[Cut], None] = lambda cut: None) -> Rewritten:
    """Return `model` with the plan carried out; `progress` is told each cut before it is made.

    Raises PlanError when a cut names a layer that is not there or cannot be cut so. Solves run under the plan's number
    of BLAS threads: float32 factors differ between numbers of threads.
    """
    fits = {}
    with blas_threads(plan.threads):
        for cut in plan.cuts:
            progress(cut)
            fits[cut.key] = _fit(model, cut, plan.seed)
    return Rewritten(model, model.edit(*(Splice(key, fit.chain) for key, fit in fits.items())), fits)


def _fit(model: Model, cut: Cut, seed: int) -> Fit:
    try:
        node = model.node(cut.key)
    except KeyError:
        raise PlanError(f"no layer is named '{cut.key}'; `surgery inspect` lists the names") from None
    op = model.format.lift(model, node)
    if isinstance(op, Refusal):
        raise PlanError(f"cannot be cut: {op.reason}", cut.key)
    method = METHODS[cut.method]
    reason = method.refusal(op)
    if reason:
        raise PlanError(f"{cut.method} cannot cut it: {reason}", cut.key)
    try:
        return method.factor(op, cut.rank, seed=seed)
    except PlanError as error:
        raise PlanError(error.message, cut.key) from error
