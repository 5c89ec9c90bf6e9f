"""What all steps of a tuning share: the networks, the data, the goal, and in which steps the plan is carried out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from surgery.errors import ModelError, PlanError
from surgery.model import Model
from surgery.pipeline import check_source
from surgery.tune.asked import Asked
from surgery.tune.caffe.settings import Goal
from surgery.tune.data import Samples, open_samples
from surgery.tune.goal import goal_of
from surgery.tune.network import Network
from surgery.tune.schedules import Step, steps

Progress = Callable[[str, float], None]


@dataclass(frozen=True, eq=False)
class Run:
    """What all steps share."""

    asked: Asked
    cut: Model
    original: Model
    teacher: Network
    steps: tuple[Step, ...]
    samples: Samples
    test: Samples | None
    goal: Goal
    device: torch.device
    notes: tuple[str, ...]
    progress: Progress

    @classmethod
    def of(cls, asked: Asked, progress: Progress = lambda text, share: None) -> Run:
        """Read all that is asked for; raises PlanError, ModelError and DataError for what does not go together."""
        cut, original = asked.cut.load(), asked.teacher.load()
        for model in (cut, original):
            if model.format.name == "caffe" and model.native.weights is None:
                raise ModelError(f"{model.native.files[0]}: has no weights; give its .caffemodel as well")
        if asked.plan is not None:
            check_source(asked.teacher.files, asked.plan)
        made = steps(original, asked.plan, asked.schedule, asked.groups) if asked.plan is not None else ((),)
        _check(asked, made)
        device = _device(asked.device)
        teacher = Network.of(original, ()).to(device)
        size = teacher.batch or asked.recipe.batch
        opened = partial(
            open_samples,
            preprocess=asked.preprocess,
            default=lambda: asked.planned_preprocess,
            size=size,
            fixed=teacher.batch is not None,
        )
        seed = asked.recipe.seed
        samples = opened(
            asked.data, original, labels=asked.labels, images=asked.images, augment=asked.augment, seed=seed
        )
        test = None if asked.test is None else opened(asked.test, original, labels=asked.test_labels)
        goal = goal_of(
            asked.target,
            asked.weights,
            has_labels=samples.labels is not None,
            layers=tuple(key for step in made for each in step for key in each.keys),
            temperature=asked.temperature,
        )
        notes = () if asked.plan is not None else ("no plan: every layer is free, whatever its cut bound it to",)
        return cls(asked, cut, original, teacher, made, samples, test, goal, device, notes, progress)

    @property
    def is_whole(self) -> bool:
        """Whether the cut network is trained as it is; else the teacher is cut step by step."""
        return len(self.steps) == 1

    @property
    def labels_digest(self) -> str | None:
        """What tells one set of labels from another."""
        labels = self.samples.labels
        return None if labels is None else hashlib.sha256(labels.tobytes()).hexdigest()

    @property
    def told_goal(self) -> Mapping[str, float]:
        """The targets and their weights."""
        goal = self.goal
        found = {"labels": goal.labels, "distil": goal.distil, "responses": goal.responses}
        return found | ({"temperature": goal.temperature} if goal.distil else {})

    @property
    def told_data(self) -> Mapping[str, Any]:
        """What is told of the data."""
        data, trained = self.samples.data, len(self.samples.trained)
        how = None if data.preprocess is None else data.preprocess.facts()
        counts = {"trained": trained, "held_back": data.count - trained}
        return {"path": data.path.name, "digest": data.digest, "preprocess": how, **counts}


def _check(asked: Asked, made: Sequence[Step]) -> None:
    """Raise PlanError for what does not go together."""
    if asked.plan is None and asked.schedule != "one-shot":
        raise PlanError(f"--schedule {asked.schedule} cuts step by step and needs the plan; give it with --plan")
    if asked.rechoose and len(made) == 1:
        raise PlanError("--rechoose chooses ranks before each step, and there is only one; give --schedule iterative")


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise PlanError("--device cuda: PyTorch finds no GPU here; leave it out")
    return torch.device(name)
