"""What a training run is asked to do: what the network is to match, and how Caffe's solver goes about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from surgery.errors import PlanError

Policy = Literal["poly", "step", "fixed"]
KINDS = ("SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam")


@dataclass(frozen=True)
class Goal:
    """The weights of what is added up to the loss; those that are 0 do not count.

    Attributes:
        labels: of the softmax loss against the true classes.
        distil: of the cross entropy against the teacher's probabilities, both at `temperature`, times its square.
        responses: of the mean, over `layers`, of the squared error of a layer's output against the teacher's, as a
            share of the squares of that.
        temperature: divides the logits of both before their Softmax.
        layers: names of the layers that were cut, as the teacher has them.
    """

    labels: float = 0.0
    distil: float = 0.0
    responses: float = 0.0
    temperature: float = 4.0
    layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if min(self.labels, self.distil, self.responses) < 0 or not (self.labels or self.distil or self.responses):
            raise PlanError("the targets' weights must not be negative, and one of them must be above 0")
        if self.temperature <= 0:
            raise PlanError(f"temperature is {self.temperature}; expected a number above 0")
        if self.responses and not self.layers:
            raise PlanError("no layer is named whose response is to be matched; name the layers that were cut")

    @property
    def needs_teacher(self) -> bool:
        """Whether the original network must be run."""
        return bool(self.distil or self.responses)

    @property
    def is_local(self) -> bool:
        """Whether each cut layer is to learn from its own original alone."""
        return not (self.labels or self.distil)


@dataclass(frozen=True)
class Solver:
    """Caffe's solver.

    Attributes:
        epochs: times that all training samples are seen; `iterations`, where given, counts instead.
        iterations: batches.
        rate: the learning rate in the beginning.
        policy: "poly" lets it fall in a straight line to 0, "step" to a tenth after one half and again after three
            quarters, "fixed" not at all. Caffe has neither a cosine nor a warm-up.
        batch: samples in each.
        kind: one of KINDS. Caffe's momentum is not used by AdaGrad, RMSProp.
        momentum: of the steps.
        weight_decay: of L2 regularisation; biases and scales have none.
        seed: of Caffe's random numbers, as Dropout's.
        patience: tests without a lower loss until the run ends early; None never ends it.
    """

    epochs: int = 10
    iterations: int | None = None
    rate: float = 0.001
    policy: Policy = "poly"
    batch: int = 64
    kind: str = "SGD"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    seed: int = 1
    patience: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise PlanError(f"the solver is {self.kind}; Caffe has {', '.join(KINDS)}")
        if self.policy not in ("poly", "step", "fixed"):
            raise PlanError(f"the policy is {self.policy}; with Caffe it can be poly, step or fixed")
        if self.epochs < 1 or (self.iterations is not None and self.iterations < 1) or self.batch < 1:
            raise PlanError("epochs, iterations and batch must be at least 1")
        if not self.rate >= 0 or not 0 <= self.momentum < 1 or not self.weight_decay >= 0:
            raise PlanError("rate and weight decay must not be negative; momentum must be from 0 to below 1")
