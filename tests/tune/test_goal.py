"""What a person asks a network to match."""

from __future__ import annotations

import pytest

from surgery.errors import PlanError
from surgery.tune.goal import goal_of, parse_weights


def test_labels_are_the_default_where_there_are_any_and_distillation_elsewhere() -> None:
    assert goal_of(None, {}, has_labels=True, layers=()).labels == 1
    assert goal_of(None, {}, has_labels=False, layers=()).distil == 1


def test_a_mixture_takes_the_weights_that_are_given() -> None:
    goal = goal_of(None, parse_weights("labels=1, distil=0.25"), has_labels=True, layers=())
    assert (goal.labels, goal.distil, goal.responses) == (1, 0.25, 0)


@pytest.mark.parametrize(
    ("target", "weights", "has_labels", "layers", "told"),
    [
        ("labels", {}, False, (), "--labels"),
        ("responses", {}, True, (), "--plan"),
        ("distil", {"labels": 1.0}, True, (), "--target mixed"),
    ],
)
def test_what_cannot_be_matched_is_said_in_a_line(
    target: str, weights: dict[str, float], has_labels: bool, layers: tuple[str, ...], told: str
) -> None:
    with pytest.raises(PlanError, match=told):
        goal_of(target, weights, has_labels=has_labels, layers=layers)


@pytest.mark.parametrize("text", ["", "labels", "labels=-1", "labels=nan", "logits=1", "labels=1;distil=1"])
def test_weights_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(PlanError, match="--weights"):
        parse_weights(text)
