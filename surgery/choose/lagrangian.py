"""A knapsack over menus by Lagrangian relaxation: prices on what is limited make each menu a choice by itself.

Fisher (1981), "The Lagrangian relaxation method for solving integer programming problems": for prices p >= 0 the sum
over menus of min(error + p · cost), less p · limits, is below every error within the limits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from surgery.choose.instance import ROUNDING, Infeasible, Instance, Picks, Solution, arrange
from surgery.choose.tables import Menu
from surgery.ops import Float64Array

STEPS = 400  # Of subgradient ascent; on 60 menus of 200, 2000 raise the bound by less than 1e-12 of itself.
PATIENCE = 8  # Steps without a better bound after which they get half as long.
SETTLED = 1e-12  # Of sums relative to themselves, and of shares of the room: below it is rounding.


@dataclass(frozen=True, eq=False, slots=True)
class Relaxation:
    """The best bound found, above the instance's floor, the prices that prove it, and the best choice, if any fits."""

    prices: Float64Array
    bound: float
    picks: Picks | None


def solve_lagrangian(menus: Sequence[Menu], limits: Mapping[str, float]) -> Solution:
    """Choose one candidate of each menu so that limits are kept and errors, each >= 0, sum up to little.

    With one limit the bound is the best that prices prove: it is that of the convex hulls of the menus. Raises
    Infeasible; with several limits also where a choice may exist but was not found.
    """
    instance = arrange(menus, limits)
    relaxation = relax(instance)
    if relaxation.picks is None:
        raise Infeasible(instance.least, instance.limits)
    return instance.solution(relaxation.picks, relaxation.bound)


def relax(instance: Instance) -> Relaxation:
    """Return the best prices and what they prove, and a choice made by them that the rest of the room was spent on.

    Raises Infeasible where prices prove that no choice keeps all limits.
    """
    best = np.zeros(len(instance.menus), np.intp)
    if instance.fits(best):
        return Relaxation(np.zeros(len(instance.limits)), 0.0, best)
    prices, within = _same_price(instance)
    picks = _best(instance, [within, _bought(instance, prices), _cheapest(instance, np.ones(len(prices)))])
    if len(prices) > 1:
        target = float(instance.errors[np.isfinite(instance.errors)].sum()) if picks is None else instance.error(picks)
        prices = _ascend(instance, prices, target)
        starts = [_bought(instance, prices)] + ([] if picks is None else [picks])
        picks = _best(instance, starts)
    return Relaxation(prices, _dual(instance, prices, _bought(instance, prices))[0], picks)


def _bought(instance: Instance, prices: Float64Array) -> Picks:
    picks: Picks = (instance.errors + instance.costs @ prices).argmin(axis=1)
    return picks


def _cheapest(instance: Instance, weights: Float64Array) -> Picks:
    picks: Picks = np.where(np.isfinite(instance.errors), instance.costs @ weights, np.inf).argmin(axis=1)
    return picks


def _dual(instance: Instance, prices: Float64Array, picks: Picks) -> tuple[float, Float64Array]:
    """Return the bound that prices prove by the choice made at them, and its slope: what is taken above the limits."""
    over = instance.taken(picks) - 1
    return instance.error(picks) + float(prices @ over), over


def _same_price(instance: Instance) -> tuple[Float64Array, Picks]:
    """Return the best price that is the same for all limits' shares, and a choice that keeps their sum.

    Exact: a bound is the lower envelope of one line for each choice. The next price is where the lines of a choice that
    takes too much and of one that does not meet, until nothing lies below that point.
    """
    ones = np.ones(len(instance.limits))
    room = len(ones)

    def line(picks: Picks) -> tuple[float, float]:
        return instance.error(picks), float(instance.taken(picks).sum())

    above, within = np.zeros(len(instance.menus), np.intp), _cheapest(instance, ones)
    if line(within)[1] > room * (1 + ROUNDING):
        raise Infeasible(instance.least, instance.limits)
    price = 0.0
    while line(above)[1] > room:
        (error, taken), (dear, frugal) = line(above), line(within)
        if taken <= frugal:  # Both are as cheap as can be: the sums of their shares differ from the room by rounding.
            break
        price = (dear - error) / (taken - frugal)
        picks = _bought(instance, price * ones)
        value, level = line(picks)[0] + price * line(picks)[1], error + price * taken
        if value >= level - SETTLED * abs(level):
            break
        above, within = (picks, within) if line(picks)[1] > room else (above, picks)
    return price * ones, within


def _ascend(instance: Instance, prices: Float64Array, target: float) -> Float64Array:
    """Return better prices by subgradient steps (Polyak, 1969) towards a bound of `target`, shorter if it is missed."""
    best, (bound, over) = prices, _dual(instance, prices, _bought(instance, prices))
    share, waited = 1.0, 0
    value = bound
    for _ in range(STEPS):
        slope = np.where((prices > 0) | (over > 0), over, 0.0)
        if not slope.any():
            break
        prices = np.maximum(0.0, prices + share * max(target - value, 0.0) / float(slope @ slope) * slope)
        value, over = _dual(instance, prices, _bought(instance, prices))
        waited += 1
        if value > bound:
            best, bound, waited = prices, value, 0
        elif waited == PATIENCE:
            share, waited, prices = share / 2, 0, best
            value, over = _dual(instance, prices, _bought(instance, prices))
    return best


def _best(instance: Instance, starts: Sequence[Picks]) -> Picks | None:
    found = [_filled(instance, picks) for start in starts if (picks := _repaired(instance, start)) is not None]
    return min(found, key=instance.error, default=None)


def _repaired(instance: Instance, picks: Picks) -> Picks | None:
    """Return the choice with switches made, those of least error for each share saved first, until it fits."""
    while not instance.fits(picks):
        over = np.maximum(instance.taken(picks) - 1, 0).sum()
        saved = over - np.maximum(_after_switch(instance, picks) - 1, 0).sum(axis=2)
        helps = (saved > SETTLED) & np.isfinite(instance.errors)
        if not helps.any():
            return None
        price = np.where(helps, _added(instance, picks) / np.where(helps, saved, 1), np.inf)
        picks = _switched(picks, instance, int(price.argmin()))
    return picks


def _filled(instance: Instance, picks: Picks) -> Picks:
    """Return the choice with switches made, the largest gain first, until none that fits lowers the error."""
    while True:
        added = _added(instance, picks)
        possible = np.flatnonzero((added < 0) & (_after_switch(instance, picks) <= 1 + ROUNDING).all(axis=2))
        ranked = possible[np.argsort(added.flat[possible], kind="stable")]
        trials = (_switched(picks, instance, int(place)) for place in ranked)
        better = next((trial for trial in trials if instance.fits(trial)), None)
        if better is None:
            return picks
        picks = better


def _added(instance: Instance, picks: Picks) -> Float64Array:
    """Return (menus, columns) what each switch adds to the error."""
    added: Float64Array = instance.errors - instance.errors[instance.rows, picks][:, None]
    return added


def _after_switch(instance: Instance, picks: Picks) -> Float64Array:
    """Return (menus, columns, limits) what is taken after each switch."""
    now = instance.costs[instance.rows, picks]
    after: Float64Array = instance.costs + (now.sum(axis=0) - now)[:, None]
    return after


def _switched(picks: Picks, instance: Instance, place: int) -> Picks:
    row, column = divmod(place, instance.errors.shape[1])
    changed = picks.copy()
    changed[row] = column
    return changed
