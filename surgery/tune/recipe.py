"""How training goes about it, as a person asks for it: schedules, rates, steps, and when it ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

BatchNorm = Literal["batch", "fixed"]

SCHEDULES = ("one-shot", "iterative", "hybrid")
COURSES = ("cosine", "step", "constant")
BATCHNORMS: tuple[BatchNorm, ...] = ("batch", "fixed")
OPTIMIZERS = ("sgd", "adam")


@dataclass(frozen=True)
class Recipe:
    """How each step of a schedule is trained.

    Attributes:
        epochs: at most.
        rate: the learning rate's height, None for one that short trials find.
        course: one of COURSES.
        warm_up: epochs, or a part of one, in which the rate climbs to its height.
        optimizer: one of OPTIMIZERS: SGD with Nesterov's momentum, or AdamW.
        momentum: of the steps; Adam's first moment.
        decay: weight decay, of weights alone.
        batchnorm: one of BATCHNORMS: what BatchNorm normalises by while it is trained: the statistics of the batch,
            which the stored ones follow, or the stored ones as they are.
        patience: epochs without a new least held-back loss of an epoch, after which training ends.
        batch: samples in each step.
        seed: of all that is drawn.
    """

    epochs: int = 10
    rate: float | None = None
    course: str = "cosine"
    warm_up: float = 0.5
    optimizer: str = "sgd"
    momentum: float = 0.9
    decay: float = 1e-4
    batchnorm: BatchNorm = "batch"
    patience: int = 5
    batch: int = 64
    seed: int = 0
