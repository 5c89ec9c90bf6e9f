"""The knapsack against every choice there is, and the Lagrangian against the knapsack."""

from __future__ import annotations

from itertools import product
from math import fsum, inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.choose import knapsack
from surgery.choose.instance import arrange
from surgery.choose.knapsack import GAP, Infeasible, Solution, solve, solve_lagrangian
from surgery.choose.tables import Candidate, Menu


def menu(*candidates: tuple[float, ...]) -> Menu:
    """Candidates as (error, cost of a, cost of b, ...); the first keeps the layer."""
    return Menu(
        ("layer",),
        tuple(
            Candidate("svd" if i else "", (i,) if i else (), (), dict(zip("abc", costs, strict=False)), error)
            for i, (error, *costs) in enumerate(candidates)
        ),
    )


def taken(menus: list[Menu], chosen: tuple[int, ...], measure: str) -> float:
    return fsum(each.candidates[i].costs[measure] for each, i in zip(menus, chosen, strict=True))


def fits(menus: list[Menu], chosen: tuple[int, ...], limits: dict[str, float]) -> bool:
    return all(taken(menus, chosen, measure) <= limit for measure, limit in limits.items())


def error(menus: list[Menu], chosen: tuple[int, ...]) -> float:
    return fsum(each.candidates[i].error for each, i in zip(menus, chosen, strict=True))


def least_error(menus: list[Menu], limits: dict[str, float]) -> float:
    every = product(*(range(len(each.candidates)) for each in menus))
    return min((error(menus, chosen) for chosen in every if fits(menus, chosen, limits)), default=inf)


def solved(menus: list[Menu], limits: dict[str, float]) -> Solution | None:
    try:
        return solve(menus, limits)
    except Infeasible:
        return None


@st.composite
def problems(
    draw: st.DrawFn, errors: st.SearchStrategy[float], costs: st.SearchStrategy[float], measures: int = 3
) -> tuple[list[Menu], dict[str, float]]:
    """Small menus, and limits that some choice meets exactly, or that are near what some choice takes."""
    count = draw(st.integers(1, measures))
    rows = st.lists(st.tuples(errors, *([costs] * count)), min_size=1, max_size=5)
    menus = [menu((0.0, *row[0][1:]), *row[1:]) for row in draw(st.lists(rows, min_size=1, max_size=5))]
    some = tuple(draw(st.integers(0, len(each.candidates) - 1)) for each in menus)
    share = draw(st.sampled_from([1.0, 1.0, 0.9, 1.1, 1.5]))
    return menus, {name: share * taken(menus, some, name) for name in "abc"[:count]}


TIED = problems(st.integers(0, 3).map(float), st.integers(1, 4).map(float))
SPREAD = problems(
    st.floats(-9, 3).map(lambda exponent: 10**exponent), st.floats(0, 10).map(lambda exponent: 10**exponent)
)
ORDINARY = problems(st.just(0.0) | st.floats(1e-9, 1), st.integers(1, 10**9).map(float))
PROBLEMS = st.one_of(TIED, SPREAD, ORDINARY)


@settings(max_examples=250, deadline=None)
@given(PROBLEMS)
def test_the_answer_is_the_best_of_all_choices(problem: tuple[list[Menu], dict[str, float]]) -> None:
    menus, limits = problem
    best, found = least_error(menus, limits), solved(menus, limits)
    if found is None:
        assert best == inf
        return
    assert fits(menus, found.chosen, limits)
    assert found.error == error(menus, found.chosen)
    assert found.error <= best * (1 + GAP)
    # Bounds are sums of floats, and may round up by a few units in the last place.
    assert found.bound <= best * (1 + 1e-9)
    assert found.gap <= GAP


@settings(max_examples=100, deadline=None)
@given(PROBLEMS)
def test_the_lagrangian_bounds_the_best_error_from_both_sides(problem: tuple[list[Menu], dict[str, float]]) -> None:
    menus, limits = problem
    best = least_error(menus, limits)
    try:
        found = solve_lagrangian(menus, limits)
    except Infeasible:
        assert best == inf or len(limits) > 1  # With one limit the cheapest choice is always at hand.
        return
    assert fits(menus, found.chosen, limits)
    assert found.bound <= best * (1 + 1e-9) <= found.error * (1 + 2e-9)


@settings(max_examples=100, deadline=None)
@given(TIED)
def test_no_change_of_one_menu_gives_fewer_cuts_or_less_cost_at_no_more_error(
    problem: tuple[list[Menu], dict[str, float]],
) -> None:
    menus, limits = problem
    found = solved(menus, limits)
    if found is None:
        return

    def rank(chosen: tuple[int, ...]) -> tuple[float, int, float]:
        shares = fsum(taken(menus, chosen, name) / limit for name, limit in limits.items())
        return error(menus, chosen), sum(place > 0 for place in chosen), round(shares, 9)

    for row, each in enumerate(menus):
        for place in range(len(each.candidates)):
            other = (*found.chosen[:row], place, *found.chosen[row + 1 :])
            assert not fits(menus, other, limits) or rank(other) >= rank(found.chosen)


@given(TIED)
@settings(max_examples=50, deadline=None)
def test_the_same_problem_has_the_same_answer(problem: tuple[list[Menu], dict[str, float]]) -> None:
    assert solved(*problem) == solved(*problem)


def test_a_layer_is_kept_where_a_cut_costs_less_but_nothing_asks_for_it() -> None:
    menus = [menu((0.0, 10.0), (0.0, 4.0)), menu((0.0, 10.0), (1.0, 5.0))]
    assert solve(menus, {"a": 20.0}).chosen == (0, 0)
    assert solve(menus, {"a": 14.0}).chosen == (1, 0)
    assert solve(menus, {}).chosen == (0, 0)


def test_nothing_to_choose_is_the_empty_choice() -> None:
    assert solve([], {"a": 0.0}) == Solution((), 0.0, 0.0)


def test_a_limit_that_cannot_be_met_says_what_can() -> None:
    menus = [menu((0.0, 10.0, 7.0), (1.0, 4.0, 9.0)), menu((0.0, 3.0, 3.0))]
    with pytest.raises(Infeasible) as caught:
        solve(menus, {"a": 6.0, "b": 10.0})
    assert caught.value.least == {"a": 7.0, "b": 10.0}
    assert caught.value.missed == ("a",)
    assert str(caught.value) == "cannot be met: a <= 6 (alone at least 7)"


def test_limits_that_cannot_be_met_together_are_told_from_those_that_cannot_be_met_at_all() -> None:
    with pytest.raises(Infeasible) as caught:
        solve([menu((0.0, 10.0, 1.0), (1.0, 1.0, 10.0))], {"a": 5.0, "b": 5.0})
    assert caught.value.missed == ()
    assert str(caught.value) == "cannot be met together: a <= 5 (alone at least 1), b <= 5 (alone at least 1)"


def test_a_limit_missed_by_less_than_the_solvers_tolerance_is_missed() -> None:
    # All but one choice are 1e-9 of the limit above it, and better.
    menus = [menu((0.0, 1e9 + 1), (1.0, 1e9), (3.0, 1.0)) for _ in range(4)]
    found = solve(menus, {"a": 4e9})
    assert found.chosen.count(1) == 4 or taken(menus, found.chosen, "a") <= 4e9
    assert found.error == least_error(menus, {"a": 4e9})


def test_room_that_is_nearly_lost_in_the_limit_is_not_lost() -> None:
    # The limit is known to 4e-6 only, and the room above what must be taken is 1.
    menus = [menu((0.0, 3.1), (1.0, 2.1), (5.0, 1.1)), menu((0.0, 1e10 + 1 / 3)), menu((0.0, 1e10 + 1 / 7))]
    assert solve(menus, {"a": taken(menus, (1, 0, 0), "a")}).chosen == (1, 0, 0)


@pytest.mark.parametrize("seed", range(6))
def test_choices_of_which_most_are_a_hair_above_the_limit_never_break_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    menus = [
        menu((0.0, 1e6), *((float(e), 1e6 - 1e5 * e + 1e-3 * rng.integers(-2, 3)) for e in range(1, 6)))
        for _ in range(6)
    ]
    limits = {"a": 6e6 - 1e6}
    found = solve(menus, limits)
    assert fits(menus, found.chosen, limits)
    assert found.error == least_error(menus, limits)


def large(seed: int, limits: int) -> tuple[list[Menu], dict[str, float]]:
    """60 menus of 200 candidates, errors falling as costs rise."""
    rng = np.random.default_rng(seed)
    menus = []
    for _ in range(60):
        costs = np.round(np.sort(rng.random((200, limits)), axis=0)[::-1] * rng.uniform(1e6, 1e9))
        errors = np.sort(rng.random(200) ** 4) * rng.random() ** 3
        errors[0] = 0.0
        menus.append(menu(*np.column_stack([errors, costs]).tolist()))
    shares = dict(zip("abc"[:limits], (0.4, 0.35, 0.42), strict=False))
    return menus, {name: share * taken(menus, (0,) * 60, name) for name, share in shares.items()}


@pytest.mark.parametrize("limits", [1, 2, 3])
def test_a_network_of_sixty_layers_is_solved_to_the_stated_gap(limits: int, capfd: pytest.CaptureFixture[str]) -> None:
    menus, bounds = large(2, limits)
    found, loose = solve(menus, bounds), solve_lagrangian(menus, bounds)
    assert fits(menus, found.chosen, bounds)
    assert found.gap <= GAP
    assert loose.bound * (1 - 1e-9) <= found.error <= loose.error
    # Each menu's steps are small beside the whole: the relaxation is near.
    assert loose.gap < 0.01
    assert capfd.readouterr().out == ""


def test_without_time_the_answer_is_the_lagrangians_with_its_bound() -> None:
    menus, bounds = large(1, 2)
    found, loose = solve(menus, bounds, time_limit=0.0), solve_lagrangian(menus, bounds)
    assert fits(menus, found.chosen, bounds)
    assert found.error <= loose.error
    assert loose.bound <= found.bound < found.error
    assert found.gap > GAP


def test_too_large_a_problem_is_left_to_the_lagrangian(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knapsack, "LARGEST", 1)
    menus, bounds = large(1, 1)
    assert solve(menus, bounds) == solve_lagrangian(menus, bounds)


def test_candidates_that_another_beats_in_everything_are_left_out() -> None:
    instance = arrange([menu((0.0, 9.0), (2.0, 5.0), (2.0, 6.0), (3.0, 5.0), (4.0, 1.0))], {"a": 8.0})
    assert instance.places.tolist() == [[1, 4]]
