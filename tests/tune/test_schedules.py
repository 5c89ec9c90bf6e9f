"""In which steps a plan is carried out."""

from __future__ import annotations

from pathlib import Path

import pytest

from surgery.errors import PlanError
from surgery.model import Reweigh
from surgery.ops import Conv2d
from surgery.plans import Cut, Plan
from surgery.tune.recipe import SCHEDULES
from surgery.tune.schedules import rechosen, steps
from tests.tune.cases import small

CUTS = (Cut("score", "svd", (2,)), Cut("fc", "svd", (3,)), Cut("conv", "cp", (4,)))


def names(model_folder: Path, schedule: str, groups: tuple[str, ...] = ()) -> list[list[str]]:
    found = steps(small(model_folder).load(), Plan("", CUTS), schedule, groups)
    return [[cut.key for cut in step] for step in found]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_cut_is_made_once_in_running_order_within_each_step(tmp_path: Path, schedule: str) -> None:
    found = names(tmp_path, schedule)
    assert sorted(key for step in found for key in step) == ["conv", "fc", "score"]
    assert [sorted(step, key=("conv", "fc", "score").index) for step in found] == found


def test_schedules_differ_in_what_goes_together(tmp_path: Path) -> None:
    assert names(tmp_path, "one-shot") == [["conv", "fc", "score"]]
    assert names(tmp_path, "iterative") == [["conv"], ["fc"], ["score"]]
    assert names(tmp_path, "hybrid") == [["conv"], ["fc", "score"]]


def test_a_group_is_a_step_of_its_own(tmp_path: Path) -> None:
    assert names(tmp_path, "iterative", ("[cf]*",)) == [["conv", "fc"], ["score"]]
    assert names(tmp_path, "one-shot", ("score",)) == [["score"], ["conv", "fc"]]
    with pytest.raises(PlanError, match="cuts no layer"):
        names(tmp_path, "iterative", ("pool*",))


def test_a_plan_without_cuts_is_one_step_all_the_same(tmp_path: Path) -> None:
    assert steps(small(tmp_path).load(), Plan("", ()), "iterative") == ((),)


def test_a_plan_for_another_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="'conv9'"):
        steps(small(tmp_path).load(), Plan("", (Cut("conv9", "svd", (1,)),)), "one-shot")


def test_a_rank_stays_for_the_same_weights_and_falls_where_fewer_hold_as_much(tmp_path: Path) -> None:
    model, cut = small(tmp_path).load(), Cut("conv", "svd-channel", (5,))
    assert rechosen(cut, model, model).rank == (5,)
    op = model.format.lift(model, model.node("conv"))
    assert isinstance(op, Conv2d)
    poor = op.weight.copy()
    poor[2:] = 0  # Its rank is 2.
    simpler = model.edit(Reweigh("conv", Conv2d(poor, op.bias, op.stride, op.padding, op.dilation, op.groups)))
    assert rechosen(cut, model, simpler).rank < (3,)
