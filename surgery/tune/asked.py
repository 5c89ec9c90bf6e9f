"""All that a tuning is asked for, and what of it the result depends on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from surgery.calibrate import Preprocess, settings_of
from surgery.formats import Source, digest
from surgery.plans import Plan, to_json
from surgery.tune.data import Augment
from surgery.tune.recipe import Recipe


@dataclass(frozen=True)
class Asked:
    """A cut network, its teacher, data, and how to train.

    Attributes:
        plan: the cuts that made the network; None where nothing is known of them, so that none binds anything.
        preprocess: how pictures become inputs; see `planned_preprocess` for the default.
        labels: a text of the data's classes; see `surgery.measure.labels`.
        target: a name in `surgery.tune.goal.TARGETS`, None for the default; `weights` mix "mixed".
        schedule: a name in `surgery.tune.recipe.SCHEDULES`; anything but one step starts from the teacher.
        groups: names or globs of layers that are cut and trained together.
        rechoose: whether ranks are chosen again before each step.
        layers: names or globs of layers of the cut network that may change; all where empty.
        test: more data that the networks are measured on, in the end alone.
    """

    cut: Source
    teacher: Source
    data: Path
    plan: Plan | None = None
    labels: Path | None = None
    preprocess: Preprocess | None = None
    images: int | None = None
    augment: Augment = field(default_factory=Augment)
    target: str | None = None
    weights: Mapping[str, float] = field(default_factory=dict)
    temperature: float = 4.0
    schedule: str = "one-shot"
    groups: tuple[str, ...] = ()
    rechoose: bool = False
    layers: tuple[str, ...] = ()
    recipe: Recipe = field(default_factory=Recipe)
    device: str = "auto"
    threads: int = 1
    test: Path | None = None
    test_labels: Path | None = None
    fresh: bool = False

    @property
    def planned_preprocess(self) -> Preprocess | None:
        """How the plan's own data became inputs: what holds for pictures where nothing else is asked for."""
        if self.plan is None or self.plan.calibration is None:
            return None
        found: Preprocess | None = settings_of(self.plan.calibration)["preprocess"]
        return found

    @property
    def files(self) -> tuple[Path, ...]:
        """All input files and folders."""
        more = (self.labels, self.test, self.test_labels)
        return (*self.cut.files, *self.teacher.files, self.data, *(path for path in more if path is not None))


def settings(asked: Asked) -> dict[str, Any]:
    """Return how it is to be trained, as JSON values."""
    return {
        "target": asked.target,
        "weights": dict(asked.weights),
        "temperature": asked.temperature,
        "schedule": asked.schedule,
        "groups": list(asked.groups),
        "rechoose": asked.rechoose,
        "layers": list(asked.layers),
        "augment": asdict(asked.augment),
        "recipe": asdict(asked.recipe),
        "threads": asked.threads,
    }


def fingerprint(asked: Asked, data: str, labels: str | None, versions: Mapping[str, str]) -> dict[str, Any]:
    """Return all that trained weights depend on, as JSON values; `data` and `labels` are digests of them."""
    models = {name: digest(source.files) for name, source in (("cut", asked.cut), ("teacher", asked.teacher))}
    plan = None if asked.plan is None else to_json(asked.plan)
    return {**models, "plan": plan, "data": data, "labels": labels, **settings(asked), "versions": dict(versions)}
