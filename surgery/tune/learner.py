"""A network in training: its gradient steps within what binds its weights, and how it does on samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from surgery.errors import PlanError
from surgery.tune.bounds import Bound, Moved
from surgery.tune.caffe.settings import Goal
from surgery.tune.data import Batch
from surgery.tune.network import Network
from surgery.tune.recipe import Recipe
from surgery.tune.targets import Blobs, Matched, Score, Tally, losses

NORMED = 64  # batches that BatchNorm's statistics are re-estimated from

State = dict[str, Any]  # what `torch.save` keeps


def _sgd(groups: list[dict[str, Any]], recipe: Recipe) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=0.0, momentum=recipe.momentum, nesterov=recipe.momentum > 0, foreach=False)


def _adam(groups: list[dict[str, Any]], recipe: Recipe) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=0.0, betas=(recipe.momentum, 0.999), foreach=False)


# Each with the power of a pace that its steps take: Adam's do not grow with the gradient.
_OPTIMIZERS: Mapping[str, tuple[Callable[[list[dict[str, Any]], Recipe], torch.optim.Optimizer], float]] = {
    "sgd": (_sgd, 1.0),
    "adam": (_adam, 0.5),
}


@dataclass(eq=False)
class Learner:
    """A network, its teacher, and where they are compared; `bounds` say what may move, and how."""

    network: Network
    teacher: Network
    goal: Goal
    at: Matched
    bounds: Sequence[Bound]
    recipe: Recipe
    device: torch.device

    def __post_init__(self) -> None:
        """Make the optimizer; the teacher stays as it is."""
        self.teacher.eval()
        make, self._power = _OPTIMIZERS[self.recipe.optimizer]
        self._moved: list[Moved] = [moved for bound in self.bounds for moved in bound.moved]
        if not self._moved:
            raise PlanError("no layer that is to be trained has weights that can be")
        decay = self.recipe.decay
        groups = [{"params": [each.tensor], "weight_decay": decay if each.decays else 0.0} for each in self._moved]
        self._optimizer = make(groups, self.recipe)
        self._parameters = {bound.name: bound.parameter for bound in self.bounds}

    def step(self, batch: Batch, rate: float) -> float:
        """Take one step of the learning rate `rate` and return the loss before it."""
        self.network.train(self.recipe.batchnorm == "batch")
        own, teacher, labels = _computed(self.network, self.teacher, batch, self.device)
        parts = losses(self.goal, self.at, own, teacher, labels)
        for bound in self.bounds:
            bound.parameter.grad = None
        self._backward(parts)
        for bound in self.bounds:
            bound.pull()
        for group, moved in zip(self._optimizer.param_groups, self._moved, strict=True):
            group["lr"] = rate * moved.pace**self._power
        self._optimizer.step()
        with torch.no_grad():
            for bound in self.bounds:
                bound.push()
        return float(sum(part.detach() for part in parts.values()))

    def score(self, batches: Iterable[Batch]) -> Score:
        """Return how the network does on samples."""
        return score(self.network, self.teacher, self.goal, self.at, batches, self.device)

    def normed(self, batches: Callable[[], Iterator[Batch]], held_back: Callable[[], Iterator[Batch]]) -> bool:
        """Re-estimate BatchNorm's statistics from samples; return whether that lowers the loss, else undo it."""
        if len(self.network.state_dict()) == len(list(self.network.parameters())):
            return False  # Statistics are all that is kept besides.
        before, kept = self.score(held_back()).loss, self.weights()
        self.network.refresh_batchnorm(_inputs(batch, self.device) for batch in islice(batches(), NORMED))
        if self.score(held_back()).loss < before:
            return True
        self.network.load_state_dict(kept)
        return False

    def weights(self) -> State:
        """Return a copy of the network's own state: what is written in the end."""
        return {name: value.detach().clone() for name, value in self.network.state_dict().items()}

    def state(self) -> State:
        """Return all that the next step depends on, besides the data."""
        moved = [each.tensor.detach().clone() for each in self._moved]
        return {"network": self.weights(), "moved": moved, "optimizer": _copied(self._optimizer.state_dict())}

    @torch.no_grad()
    def restore(self, state: State) -> None:
        """Go on from a state."""
        self.network.load_state_dict(state["network"])
        for each, value in zip(self._moved, state["moved"], strict=True):
            each.tensor.copy_(value)
        self._optimizer.load_state_dict(_copied(state["optimizer"]))

    def _backward(self, parts: Mapping[str, Tensor]) -> None:
        """Find the gradients; where the goal is local, each cut layer's loss is for its own layers alone."""
        if not self.goal.is_local:
            torch.stack(list(parts.values())).sum().backward()  # type: ignore[no-untyped-call]
            return
        for response in self.at.responses:
            own = [p for name, p in self._parameters.items() if name.rpartition("/")[0] in response.keys]
            found = torch.autograd.grad(parts[f"responses/{response.own}"], own, retain_graph=True) if own else ()
            for parameter, gradient in zip(own, found, strict=True):
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient


def score(
    network: Network, teacher: Network, goal: Goal, at: Matched, batches: Iterable[Batch], device: torch.device
) -> Score:
    """Return how a network does on samples."""
    network.eval()
    tally = Tally(goal, at)
    with torch.no_grad():
        for batch in batches:
            own, wanted, labels = _computed(network, teacher, batch, device)
            tally.add(_first(own, batch), _first(wanted, batch), None if labels is None else labels[: batch.count])
    return tally.score


def teachers_score(teacher: Network, goal: Goal, at: Matched, batches: Iterable[Batch], device: torch.device) -> Score:
    """Return how the teacher itself does on samples."""
    names = {at.logits[1]: at.logits[0]} | {each.own: each.teacher for each in at.responses}
    tally = Tally(goal, at)
    with torch.no_grad():
        for batch in batches:
            wanted = _first(teacher(_inputs(batch, device)), batch)
            labels = _labels(batch, device)
            own = {name: wanted[teachers] for name, teachers in names.items()}
            tally.add(own, wanted, None if labels is None else labels[: batch.count])
    return tally.score


def _computed(
    network: Network, teacher: Network, batch: Batch, device: torch.device
) -> tuple[Blobs, Blobs, Tensor | None]:
    inputs = _inputs(batch, device)
    with torch.no_grad():
        wanted = teacher(inputs)
    return network(inputs), wanted, _labels(batch, device)


def _inputs(batch: Batch, device: torch.device) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array).to(device) for name, array in batch.inputs.items()}


def _labels(batch: Batch, device: torch.device) -> Tensor | None:
    return None if batch.labels is None else torch.from_numpy(batch.labels).to(device)


def checked(loss: float, where: str) -> float:
    """Return a loss; raises PlanError for one that is not finite."""
    if not isfinite(loss):
        raise PlanError(f"{where}: the loss is {loss}; give a smaller --rate")
    return loss


def _first(blobs: Blobs, batch: Batch) -> Blobs:
    """Return what the samples that count gave; the others only fill up the batch."""
    size = len(next(iter(batch.inputs.values())))
    return blobs if batch.count == size else {name: b[: len(b) * batch.count // size] for name, b in blobs.items()}


def _copied(state: State) -> State:
    """Return an optimizer's state that further steps leave alone."""
    moments = {
        place: {name: value.clone() if isinstance(value, Tensor) else value for name, value in values.items()}
        for place, values in state["state"].items()
    }
    return {"state": moments, "param_groups": [dict(group) for group in state["param_groups"]]}
