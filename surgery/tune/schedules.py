"""In which steps a network is cut and trained: all at once, layer by layer, or both; and the cut of one step."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby

from surgery.errors import PlanError
from surgery.factor import tail_energy
from surgery.model import Model, Refusal
from surgery.ops import Float64Array, Op
from surgery.ops.stack import stack
from surgery.plans import Cut, Plan
from surgery.rewriting import StatisticsFor, rewrite

ITERATED = frozenset({"cp", "cp4"})  # Methods that a hybrid schedule cuts layer by layer.

Step = tuple[Cut, ...]

_SCHEDULES: Mapping[str, Callable[[Cut], object]] = {  # Cuts of one step have the same value here.
    "one-shot": lambda cut: None,
    "iterative": lambda cut: cut.key,
    "hybrid": lambda cut: cut.key if cut.method in ITERATED else None,
}


def steps(model: Model, plan: Plan, schedule: str, groups: Sequence[str] = ()) -> tuple[Step, ...]:
    """Return the cuts of each step, in running order of their first; what a hybrid schedule cuts in one go comes last.

    `groups` are names or globs of layers: those that one matches make a step of their own, whatever the schedule.
    Raises PlanError for a group without cut layers, and for cuts of layers that are not there.
    """
    places = {node.key: i for i, node in enumerate(model.nodes)}
    missing = next((key for cut in plan.cuts for key in cut.keys if key not in places), None)
    if missing is not None:
        raise PlanError(f"the plan cuts '{missing}', which the teacher does not have; give the model it was made for")
    cuts = sorted(plan.cuts, key=lambda cut: min(places[key] for key in cut.keys))
    grouped = {cut.key: _group(cut, groups) for cut in cuts}
    idle = next((group for group in groups if group not in grouped.values()), None)
    if idle is not None:
        raise PlanError(f"--group {idle[:60]}: the plan cuts no layer of that name")
    of = _SCHEDULES[schedule]
    together: dict[object, list[Cut]] = {}
    for cut in cuts:
        named = grouped[cut.key]
        together.setdefault((named is not None, named if named is not None else of(cut)), []).append(cut)
    # Sorting is stable: only what is cut in one go, though not by name, moves behind the rest.
    ordered = sorted(together.items(), key=lambda item: item[0] == (False, None))
    return tuple(tuple(cuts) for _, cuts in ordered) or ((),)


def _group(cut: Cut, groups: Sequence[str]) -> str | None:
    matching = (group for group in groups if any(key == group or fnmatch.fnmatchcase(key, group) for key in cut.keys))
    return next(matching, None)


def cut_step(model: Model, step: Step, plan: Plan, statistics_for: StatisticsFor | None = None) -> Model:
    """Return a model, as it was read from its files, with the cuts of a step made; see `surgery.rewriting.rewrite`."""
    own = replace(plan, cuts=step, left=(), calibration=plan.calibration if statistics_for is not None else None)
    return rewrite(model, own, statistics_for=statistics_for).model


def rechosen(cut: Cut, original: Model, model: Model) -> Cut:
    """Return the cut at the rank that keeps, of the layer as it is now, what the planned rank kept of the original.

    That is the share of the squares of its spectrum, of each number of the rank for itself. No number rises, so that
    what the plan was to cost still holds.
    """
    method = cut.configured
    before, now = (operation(of, cut) for of in (original, model))
    spectra, wanted = method.spectrum(before), method.spectrum(now)
    ranks = []
    for place, (values, rank) in enumerate(zip(spectra, cut.rank, strict=True)):
        kept = _kept(values, rank)
        ranks.append(min(rank, method.rank_for_energy(now, kept, wanted)[place]) if kept < 1 else rank)
    return replace(cut, rank=tuple(ranks))


def operation(model: Model, cut: Cut) -> Op:
    """Return the layer that a cut is of, or its layers as one; raises PlanError where it cannot be cut."""
    ops = []
    for key in cut.keys:
        op = model.format.lift(model, model.node(key))
        if isinstance(op, Refusal):
            raise PlanError(f"cannot be cut: {op.reason}", key)
        ops.append(op)
    return stack(ops) if cut.others else ops[0]


def _kept(values: Float64Array, rank: int) -> float:
    total = tail_energy(values, 0)
    return 1 - tail_energy(values, rank) / total if total else 1.0


def told(step: Step) -> str:
    """Return the layers of a step, for a person: a name, or how many by each method."""
    if not step:
        return "nothing"
    if len(step) == 1:
        return " + ".join(step[0].keys)
    methods = sorted(cut.method for cut in step)
    return ", ".join(f"{len(list(same))} by {method}" for method, same in groupby(methods))
