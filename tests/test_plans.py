"""Plans to JSON and back, and what a reader refuses."""

from __future__ import annotations

import json
from typing import Any

import pytest

from surgery.errors import PlanError
from surgery.plans import Cut, Left, Plan, from_json, to_json

PLAN = Plan(
    "ab" * 32,
    (
        Cut("conv1", "tucker2", (8, 4)),
        Cut("conv2", "svd-channel", (6,), others=("conv3", 'an "odd" name')),
        Cut("fc", "svd", (3,)),
    ),
    (Left("fc8", "svd at rank 9 would take more"),),
    threads=2,
    seed=7,
    calibration={"data": "cd" * 32, "preprocess": {"scale": 0.5}, "symmetric": False},
    refit=True,
)


def test_a_plan_comes_back_from_json_as_it_was() -> None:
    assert from_json(to_json(PLAN), "plan.json") == PLAN
    assert from_json(to_json(Plan("", ())), "plan.json") == Plan("", ())


def test_options_of_a_method_are_kept() -> None:
    plan = Plan("", (Cut("conv", "cp", (4,), (("algorithm", "tpm"),)),))
    assert from_json(to_json(plan), "plan.json") == plan
    assert '"options": {"algorithm": "tpm"}' in to_json(plan)
    assert getattr(plan.cuts[0].configured, "algorithm", None) == "tpm"


def test_a_plan_of_the_first_format_is_read() -> None:
    text = '{"format": 1, "source": "aa", "threads": 1, "seed": 0, "cuts": [], "left": []}'
    assert from_json(text, "plan.json") == Plan("aa", ())


@pytest.mark.parametrize(
    ("place", "name", "value", "said"),
    [
        ("plan", "calibrations", {}, '"calibrations" is not a field of plans'),
        ("plan", "calibration", "images", "\"calibration\" is 'images'; expected an object"),
        ("plan", "refit", "yes", "\"refit\" is 'yes'; expected true or false"),
        ("plan", "format", 4, '"format" is 4; expected 3'),
        ("plan", "asked", {"macs": "half"}, "asked \"macs\" is 'half'; expected a number"),
        ("plan", "asked", {"policy": 3}, 'asked "policy" is 3; expected text'),
        ("plan", "predicted", {"macs": 3}, 'predicted "macs" is 3; expected what `surgery plan` wrote'),
        ("plan", "predicted", {"macs": [1, float("nan")]}, 'predicted "macs" is [1, nan]'),
        ("plan", "predicted", {"macs": [1, 10**400]}, 'predicted "macs" is [1, 1000'),
        ("plan", "predicted", {"of": ["output"]}, "predicted \"of\" is ['output']"),
        ("plan", "predicted", {"sweep": [{"macs": 1}]}, "predicted \"sweep\" is [{'macs': 1}]"),
        ("cut", "rnak", 3, 'cuts[0] has "rnak" is not a field of plans'),
        ("cut", "options", ["tpm"], "conv1: options are ['tpm'] in plan.json; expected an object"),
        ("cut", "options", {"algorithm": "tpm"}, "conv1: tucker2 has no option 'algorithm'"),
        ("cut", "layer", [], '"layer" is []; expected text'),
        ("cut", "layer", ["conv1", "conv1"], "'conv1' is cut twice"),
        ("cut", "layer", ["conv1", "fc"], "'fc' is cut twice"),
    ],
)
def test_what_is_wrong_is_named(place: str, name: str, value: object, said: str) -> None:
    data: dict[str, Any] = json.loads(to_json(PLAN))
    (data if place == "plan" else data["cuts"][0])[name] = value
    with pytest.raises(PlanError) as caught:
        from_json(json.dumps(data), "plan.json")
    assert said in str(caught.value)
