"""The course of the learning rate and the choice of its height."""

from __future__ import annotations

from math import inf, nan

import pytest

from surgery.errors import PlanError
from surgery.tune.rates import CANDIDATES, COURSES, found_rate, rate_at
from surgery.tune.recipe import COURSES as NAMES


@pytest.mark.parametrize("course", NAMES)
def test_a_rate_climbs_to_its_height_and_never_rises_again(course: str) -> None:
    rates = [rate_at(step, 100, 0.1, course=course, warm_up=10) for step in range(100)]
    assert rates[:11] == sorted(rates[:11])
    assert rates[10] == max(rates) == 0.1
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert min(rates) > 0


def test_courses_are_those_that_can_be_asked_for() -> None:
    assert tuple(COURSES) == NAMES


def test_steps_fall_to_a_tenth_twice_and_a_cosine_to_nothing() -> None:
    assert rate_at(99, 100, 1.0, course="step", warm_up=0) == pytest.approx(0.01)
    assert rate_at(99, 100, 1.0, course="cosine", warm_up=0) < 1e-3


def test_the_rate_with_the_least_loss_is_found_and_larger_ones_that_are_as_good_win() -> None:
    losses = dict(zip(CANDIDATES, (inf, nan, 5.0, 1.01, 1.0, 2.0, 3.0, 0.1), strict=False))
    tried: list[float] = []

    def trial(rate: float) -> float:
        tried.append(rate)
        return losses[rate]

    assert found_rate(trial) == CANDIDATES[3]
    assert tried == list(CANDIDATES[:7]), "two that were worse end the search"


def test_where_no_loss_is_a_number_the_data_is_to_blame() -> None:
    with pytest.raises(PlanError, match="not finite"):
        found_rate(lambda rate: nan)
