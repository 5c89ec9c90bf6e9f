"""A knapsack over menus as arrays, without the candidates that no best choice needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import fsum

import numpy as np
import numpy.typing as npt

from surgery.choose.tables import Candidate, Menu
from surgery.ops import Float64Array

Picks = npt.NDArray[np.intp]  # (menus,) one column of each row of an instance

ROUNDING = 1e-9  # What screening in scaled floats leaves to the exact check.


@dataclass(eq=False)
class Infeasible(ValueError):  # noqa: N818 - an answer to the caller, who knows what was asked for.
    """No choice keeps all limits, or, where only the Lagrangian could be tried, none was found.

    Attributes:
        least: what the menus can be brought down to, by measure, each measure by itself.
        limits: what was asked for.
    """

    least: Mapping[str, float]
    limits: Mapping[str, float]

    @property
    def missed(self) -> tuple[str, ...]:
        """The measures that cannot be met even by themselves; () where it is the limits together that cannot."""
        return tuple(name for name, limit in self.limits.items() if self.least[name] > limit)

    def __str__(self) -> str:
        named = self.missed or tuple(self.limits)
        shown = ", ".join(f"{name} <= {self.limits[name]:g} (alone at least {self.least[name]:g})" for name in named)
        return f"cannot be met{'' if self.missed else ' together'}: {shown}"


@dataclass(frozen=True, slots=True)
class Solution:
    """One candidate of each menu.

    Attributes:
        chosen: its place in each menu.
        error: the sum of the errors.
        bound: no choice within the limits has a smaller sum.
    """

    chosen: tuple[int, ...]
    error: float
    bound: float

    @property
    def gap(self) -> float:
        """How far, at most, the error is above the least possible, relative to itself."""
        return (self.error - self.bound) / self.error if self.error > self.bound else 0.0


@dataclass(frozen=True, eq=False, slots=True)
class Instance:
    """One row for each menu, errors rising along it, without what is dominated or breaks a limit whatever the rest is.

    Attributes:
        places: (menus, columns) places in the menus.
        errors: (menus, columns) above the row's smallest; infinite past the end of a row.
        costs: (menus, columns, limits) above the menu's least, as shares of what all menus may take above their least.
        floor: the sum of the smallest errors, which `errors` leaves out.
    """

    menus: tuple[Menu, ...]
    limits: Mapping[str, float]
    least: Mapping[str, float]
    places: Picks
    errors: Float64Array
    costs: Float64Array
    floor: float

    @property
    def rows(self) -> Picks:
        """(menus,) the rows' own numbers, to take one entry of each."""
        return np.arange(len(self.menus))

    def taken(self, picks: Picks) -> Float64Array:
        """Return (limits,) what the choice takes; the limits are 1."""
        total: Float64Array = self.costs[self.rows, picks].sum(axis=0)
        return total

    def error(self, picks: Picks) -> float:
        """Return the choice's error above `floor`."""
        return float(self.errors[self.rows, picks].sum())

    def fits(self, picks: Picks) -> bool:
        """Whether the choice keeps the limits as they were given: sums are exact, and rounded once."""
        return self._fit(self._chosen(picks))

    def solution(self, picks: Picks, bound: float) -> Solution:
        """Return the choice with ties settled; `bound` is above `floor`.

        Menu by menu it becomes the one with the smallest error that fits, of equals the uncut one, then the cheapest.
        """
        chosen = self._chosen(picks)
        for row, menu in enumerate(self.menus):
            options = [i for i, one in enumerate(menu.candidates) if one.error <= menu.candidates[chosen[row]].error]
            for option in sorted(options, key=lambda i: _preference(menu.candidates[i], self.limits)):
                trial = [*chosen[:row], option, *chosen[row + 1 :]]
                if self._fit(trial):
                    chosen = trial
                    break
        error = fsum(menu.candidates[i].error for menu, i in zip(self.menus, chosen, strict=True))
        return Solution(tuple(chosen), error, min(error, self.floor + bound))

    def _chosen(self, picks: Picks) -> list[int]:
        return [int(place) for place in self.places[self.rows, picks]]

    def _fit(self, chosen: Sequence[int]) -> bool:
        taken = [menu.candidates[i].costs for menu, i in zip(self.menus, chosen, strict=True)]
        return all(fsum(costs[name] for costs in taken) <= limit for name, limit in self.limits.items())


def arrange(menus: Sequence[Menu], limits: Mapping[str, float]) -> Instance:
    """Return the instance of finite errors and costs; raises Infeasible where a measure cannot be met by itself.

    Every candidate must have every limited measure among its costs.
    """
    errors = [np.array([one.error for one in menu.candidates]) for menu in menus]
    costs = [np.array([[one.costs[name] for name in limits] for one in menu.candidates]) for menu in menus]
    lowest = [each.min(axis=0) for each in costs]
    least = {name: fsum(low[i] for low in lowest) for i, name in enumerate(limits)}
    refusal = Infeasible(least, dict(limits))
    if refusal.missed:
        raise refusal
    room = np.array([_room(limit, [low[i] for low in lowest]) for i, limit in enumerate(limits.values())])
    with np.errstate(over="ignore"):
        shares = [(c - low) / room for c, low in zip(costs, lowest, strict=True)]
    kept = [_front(menu, shares[row], limits) for row, menu in enumerate(menus)]
    if not all(kept):
        raise refusal
    width = max(map(len, kept), default=0)
    shape = (len(menus), width)
    places, above, scaled = np.zeros(shape, np.intp), np.full(shape, np.inf), np.zeros((*shape, len(limits)))
    for row, front in enumerate(kept):
        places[row, : len(front)] = front
        above[row, : len(front)] = errors[row][front] - errors[row][front[0]]
        scaled[row, : len(front)] = shares[row][front]
    floor = fsum(errors[row][front[0]] for row, front in enumerate(kept))
    return Instance(tuple(menus), dict(limits), least, places, above, scaled, floor)


def _room(limit: float, lowest: Sequence[float]) -> float:
    """Return, above 0, what sums that are at most `limit` once rounded may exceed the least by, and a little more."""
    return fsum([limit, *(-low for low in lowest)]) + float(np.spacing(abs(limit)))


def _front(menu: Menu, shares: Float64Array, limits: Mapping[str, float]) -> list[int]:
    """Return the places of what could be chosen, best first: nothing kept is as good and as cheap in everything."""
    possible = np.flatnonzero((shares <= 1 + ROUNDING).all(axis=1))
    front: list[int] = []
    for place in sorted(map(int, possible), key=lambda i: _preference(menu.candidates[i], limits)):
        if not (shares[front] <= shares[place]).all(axis=1).any():
            front.append(place)
    return front


def _preference(candidate: Candidate, limits: Mapping[str, float]) -> tuple[float, bool, float]:
    share = fsum(candidate.costs[name] / (abs(limit) or 1.0) for name, limit in limits.items())
    return candidate.error, candidate.method != "", share
