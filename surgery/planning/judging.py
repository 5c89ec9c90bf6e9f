"""How good a cut network is, as measured on samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from surgery.calibrate.passes import Progress
from surgery.choose.tables import Probe
from surgery.errors import PlanError
from surgery.measure.evaluation import evaluate
from surgery.model import Model
from surgery.planning.means import Means


def judge_with(original: Model, means: Means) -> Callable[[Model], Mapping[str, Any]] | None:
    """Return what measures a cut network and gives JSON values, None without samples to measure on."""
    if means.data is None and means.tests is None:
        return None

    def judge(cut: Model) -> Mapping[str, Any]:
        found = asdict(judged(original, cut, means))
        return {name: value for name, value in found.items() if name != "response"}

    return judge


def judged(original: Model, cut: Model, means: Means, progress: Progress = lambda text, share: None) -> Probe:
    """Return what a cut network loses on the samples to measure on, else on those of the data that no fit sees."""
    data = means.tests or means.data
    if data is None:
        raise PlanError("there are no samples to measure on; give --calibrate or --evaluate")
    reading: dict[str, Any] = {name: means.reading.get(name) for name in ("preprocess", "scratch")}
    images = None if means.tests else means.reading.get("images")
    unseen = means.tests is None
    return evaluate(
        original, cut, data, images=images, unseen=unseen, labels=means.labels, progress=progress, **reading
    )


def drop_of(probe: Probe) -> float:
    """Return by how much the accuracy fell; without labels, on which share of images the best class is another."""
    if probe.accuracy is not None and probe.original is not None:
        return probe.original - probe.accuracy
    if probe.agreement is None:
        raise PlanError("--max-drop needs a network with one output, a score for each class")
    return 1 - probe.agreement
