"""What is added up to the loss, as a person asks for it."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import TYPE_CHECKING

from surgery.errors import PlanError

if TYPE_CHECKING:  # The command line asks for names only.
    from surgery.tune.caffe.settings import Goal

PARTS = ("labels", "distil", "responses")
TEMPERATURE = 4.0
TARGETS = (*PARTS, "mixed")


def goal_of(
    target: str | None,
    weights: Mapping[str, float],
    *,
    has_labels: bool,
    layers: tuple[str, ...],
    temperature: float = TEMPERATURE,
) -> Goal:
    """Return the goal; without a target it is the labels where there are any, else distillation.

    `weights` say how parts are mixed; "mixed" without any is labels (or responses, without labels) and distillation,
    half and half. `layers` are those that were cut. Raises PlanError for parts that cannot be had.
    """
    from surgery.tune.caffe.settings import Goal

    chosen = target or ("mixed" if weights else "labels" if has_labels else "distil")
    if weights and chosen != "mixed":
        raise PlanError(f"--weights mixes targets; give it with --target mixed, not {chosen}")
    half = {"distil": 0.5, "labels" if has_labels else "responses": 0.5}
    parts = (dict(weights) or half) if chosen == "mixed" else {chosen: 1.0}
    if parts.get("labels") and not has_labels:
        raise PlanError("the labels of the data are not known; give --labels, or another --target")
    if parts.get("responses") and not layers:
        raise PlanError("no plan says which layers were cut, so none has a response to match; give --plan")
    return Goal(**parts, temperature=temperature, layers=layers)


def parse_weights(text: str) -> dict[str, float]:
    """Read `labels=1,distil=0.5`; raises PlanError."""
    found: dict[str, float] = {}
    for part in text.split(","):
        name, _, number = part.partition("=")
        try:
            weight = float(number)
        except ValueError:
            weight = -1.0
        if name.strip() not in PARTS or not (isfinite(weight) and weight >= 0):
            raise PlanError(f"--weights {text[:60]}: expected like labels=1,distil=0.5; parts are {', '.join(PARTS)}")
        found[name.strip()] = weight
    return found
