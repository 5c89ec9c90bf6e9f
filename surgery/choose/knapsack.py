"""The choice of one candidate from each menu with the least error within limits: a multiple-choice knapsack.

Lagrangian prices bound it and drop the candidates that the best choice cannot hold; HiGHS solves what is left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from surgery.choose.instance import ROUNDING, Infeasible, Instance, Picks, Solution, arrange
from surgery.choose.lagrangian import Relaxation, relax, solve_lagrangian
from surgery.choose.tables import Menu
from surgery.ops import Float64Array
from surgery.silence import silenced_output

__all__ = ["Infeasible", "Solution", "solve", "solve_lagrangian"]

GAP = 1e-6  # Relative error at which a choice counts as best.
LARGEST = 100_000  # Candidates left to HiGHS: with more, building the problem alone takes its time and memory.
COVERS = 20  # Times HiGHS is run again because its answer broke a limit by its tolerance.
# HiGHS stops at an absolute gap of 1e-6, and holds reduced costs to 1e-7: 1e-9 and 1e-10 of an error scaled to this.
SCALE = 1e3
TINY = 1e-300  # Errors below it, and none at all, are not scaled past what a float holds.

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False, slots=True)
class _Run:
    """What HiGHS answered: a choice, if it has one, its bound above the floor, and whether it came to an end."""

    picks: Picks | None
    bound: float
    finished: bool


def solve(menus: Sequence[Menu], limits: Mapping[str, float], *, time_limit: float = 20.0) -> Solution:
    """Choose one candidate of each menu: the sum of errors is smallest, that of every limited cost within its limit.

    Args:
        menus: errors are finite and >= 0, costs are finite. Every candidate has every limited cost: a KeyError, where
            one lacks it, is the caller's mistake.
        limits: the largest sum of costs, by measure.
        time_limit: seconds after which a run of HiGHS gives what it has, with its bound; one is enough unless its
            answer broke a limit by rounding. The same answer comes twice only where it does not run into it.

    Returns:
        The choice, never above a limit by so much as rounding. Its gap is at most `GAP` unless time ran out or more
        than `LARGEST` candidates were left. Of equal errors that a change of one menu leads to, the one with fewer
        cuts, then that with smaller costs.

    Raises:
        Infeasible: no choice keeps all limits; it holds what can be reached.
    """
    instance = arrange(menus, limits)
    relaxation = relax(instance)
    found = relaxation.picks
    if found is not None and instance.error(found) - relaxation.bound <= GAP * (instance.floor + instance.error(found)):
        return instance.solution(found, relaxation.bound)
    left = _undecided(instance, relaxation)
    if found is not None and left.sum() > LARGEST:
        return instance.solution(found, relaxation.bound)
    return _refine(instance, relaxation, left, time_limit)


def _undecided(instance: Instance, found: Relaxation) -> Mask:
    """Return (menus, columns) which candidates a choice better than the one found may hold, or it holds itself.

    Whatever holds another one costs, at the prices found, more than that choice has of errors.
    """
    mask: Mask = np.isfinite(instance.errors)
    if found.picks is None:
        return mask
    priced = instance.errors + instance.costs @ found.prices
    reduced = priced - priced.min(axis=1, keepdims=True)
    mask = found.bound + reduced <= instance.error(found.picks) * (1 + ROUNDING)
    mask[instance.rows, found.picks] = True
    return mask


def _refine(instance: Instance, start: Relaxation, left: Mask, time_limit: float) -> Solution:
    """Return HiGHS' choice, or the one to start from where that is better."""
    best, bound = start.picks, start.bound
    covers: list[Mask] = []
    for _ in range(COVERS):
        run = _run(instance, left, covers, best, time_limit)
        bound = max(bound, run.bound)
        if run.picks is None:
            break
        if instance.fits(run.picks):
            best = run.picks if best is None else min(best, run.picks, key=instance.error)
            break
        covers.append(_cover(instance, run.picks))
        if not run.finished:
            break
    if best is None:
        raise Infeasible(instance.least, instance.limits)
    return instance.solution(best, bound)


def _cover(instance: Instance, picks: Picks) -> Mask:
    """Return (menus, columns) candidates of which not every menu can have one: none is cheaper than what broke a limit.

    The cut excludes no choice that keeps the limits, so bounds stay bounds.
    """
    dearer: Mask = np.isfinite(instance.errors)
    dearer &= (instance.costs >= instance.costs[instance.rows, picks][:, None]).all(axis=2)
    return dearer


def _run(instance: Instance, left: Mask, covers: Sequence[Mask], best: Picks | None, time_limit: float) -> _Run:
    from scipy.optimize import milp  # Loading SciPy takes longer than inspecting a network.

    rows, columns = np.nonzero(left)
    worst = instance.errors[rows, columns].sum() if best is None else instance.error(best)
    scale = SCALE / max(float(worst), TINY)
    with silenced_output():  # HiGHS 1.12 has a print left over.
        result = milp(
            scale * instance.errors[rows, columns],
            integrality=np.ones(len(rows)),
            bounds=(0, 1),
            constraints=_constraints(instance, rows, columns, covers),
            options={"time_limit": time_limit, "mip_rel_gap": GAP / 2},
        )
    bound = result.mip_dual_bound
    finite = bound is not None and np.isfinite(bound)
    picks = None if result.x is None else _picked(instance, rows, columns, result.x)
    return _Run(picks, float(bound) / scale if finite else 0.0, result.status == 0)


def _constraints(instance: Instance, rows: Picks, columns: Picks, covers: Sequence[Mask]) -> list[Any]:
    """Return: one candidate of each menu, costs within the limits, and not one of each menu's within a cover."""
    from scipy.optimize import LinearConstraint
    from scipy.sparse import csr_array

    count = len(instance.menus)
    one = csr_array((np.ones(len(rows)), (rows, np.arange(len(rows)))), shape=(count, len(rows)))
    constraints = [
        LinearConstraint(one, 1, 1),
        LinearConstraint(csr_array(instance.costs[rows, columns].T), -np.inf, 1),
    ]
    held = [cover[rows, columns].astype(float) for cover in covers]
    return constraints + ([LinearConstraint(csr_array(np.array(held)), -np.inf, count - 1)] if held else [])


def _picked(instance: Instance, rows: Picks, columns: Picks, shares: Float64Array) -> Picks:
    full = np.zeros(instance.errors.shape)
    full[rows, columns] = shares
    picks: Picks = full.argmax(axis=1)
    return picks
