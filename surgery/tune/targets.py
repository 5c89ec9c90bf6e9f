"""What a network in training is to match: true classes, the teacher's outputs, its responses layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from surgery.errors import PlanError
from surgery.model import Model
from surgery.tune.caffe.settings import Goal
from surgery.tune.network import Network
from surgery.tune.parts import Placed

Blobs = Mapping[str, Tensor]


@dataclass(frozen=True)
class Response:
    """A cut layer: what the teacher calls its output, what the cut network does, and the layers that make it."""

    teacher: str
    own: str
    keys: tuple[str, ...]


@dataclass(frozen=True)
class Matched:
    """The values that two networks are compared at.

    Attributes:
        logits: the scores of classes, as the teacher calls them and the cut network.
        responses: of the cut layers.
        scored: whether the logits are such, so that classes can be told; else they are outputs of any kind.
    """

    logits: tuple[str, str]
    responses: tuple[Response, ...]
    scored: bool


def matched(teacher: Network, network: Network, models: tuple[Model, Model], placements: Sequence[Placed]) -> Matched:
    """Return what of both networks is compared, and ask them for it; raises PlanError where they end in another way."""
    ends = tuple(_end(each) for each in (teacher, network))
    responses = tuple(
        Response(teacher.made_by(key)[0], network.made_by(chain[-1].key)[0], tuple(part.key for part in chain))
        for placement in placements
        for key, chain in placement.chains.items()
    )
    teacher.ask({ends[0], *(each.teacher for each in responses)})
    network.ask({ends[1], *(each.own for each in responses)})
    scored = teacher.logits is not None or _is_row(models[0], ends[0])
    return Matched((ends[0], ends[1]), responses, scored)


def _end(network: Network) -> str:
    if network.logits is not None:
        return network.logits
    if len(network.outputs) != 1:
        raise PlanError(f"the network ends in {', '.join(network.outputs)}; expected a Softmax, or one output")
    return network.outputs[0]


def _is_row(model: Model, name: str) -> bool:
    """Return whether an output is one row of scores for each sample."""
    facts = model.format.facts(model)
    made = {n: shape for node in model.nodes for n, shape in zip(node.outputs, facts[node.key].shapes, strict=False)}
    shape = made.get(name) or ()
    return len(shape) > 1 and shape[1] > 1 and all(size == 1 for size in shape[2:])


def losses(goal: Goal, at: Matched, own: Blobs, teacher: Blobs, labels: Tensor | None) -> dict[str, Tensor]:
    """Return what the batch loses on each target of the goal, weighted; their sum is the loss.

    Responses are `responses/<value>`, one for each cut layer, as each may be for its own layers alone.
    """
    found: dict[str, Tensor] = {}
    scores = own[at.logits[1]]
    if goal.labels:
        assert labels is not None
        found["labels"] = goal.labels * functional.cross_entropy(_rows(scores, int(labels.max())), labels)
    if goal.distil:
        wanted = teacher[at.logits[0]]
        miss = _divergence(wanted, scores, goal.temperature) if at.scored else share(wanted, scores)
        found["distil"] = goal.distil * miss
    for each in at.responses if goal.responses else ():
        weight = goal.responses / len(at.responses)
        found[f"responses/{each.own}"] = weight * share(teacher[each.teacher], own[each.own])
    return found


def share(wanted: Tensor, made: Tensor) -> Tensor:
    """Return the squared error as a share of the squares of what is wanted."""
    return (made - wanted).square().sum() / wanted.square().sum().clamp_min(torch.finfo(wanted.dtype).tiny)


def _divergence(wanted: Tensor, scores: Tensor, temperature: float) -> Tensor:
    """Return Kullback and Leibler's divergence of the softened classes, times the temperature squared.

    So its gradient does not fade with the temperature: Hinton, Vinyals and Dean (2015), "Distilling the knowledge in a
    neural network". The mean is over samples and positions.
    """
    log_p, log_q = (functional.log_softmax(each / temperature, dim=1) for each in (wanted, scores))
    return temperature**2 * (log_p.exp() * (log_p - log_q)).sum(dim=1).mean()


def _rows(scores: Tensor, largest: int) -> Tensor:
    """Return one row of scores for each sample; raises PlanError for other outputs, and for a larger label."""
    if scores[0].numel() != scores.shape[1]:
        found = "x".join(map(str, scores.shape[1:]))
        raise PlanError(f"labels need one row of scores for each sample; the network gives {found}: leave out --labels")
    if largest >= scores.shape[1]:
        raise PlanError(f"a label is {largest}; the network has {scores.shape[1]} classes, counted from 0")
    return scores.flatten(1)


@dataclass(frozen=True)
class Score:
    """How a network does on some samples.

    Attributes:
        loss: of all targets.
        accuracy: share of samples of the true class, None where that is not known.
        agreement: share of samples, or of positions of a map, of the teacher's class; None without classes.
    """

    loss: float
    accuracy: float | None
    agreement: float | None


class Tally:
    """Adds up, batch by batch, how a network does."""

    def __init__(self, goal: Goal, at: Matched) -> None:
        """Begin with no sample."""
        self.goal, self.at = goal, at
        self.samples = self.right = self.agreeing = self.positions = 0
        self.loss = 0.0
        self.labelled = True

    @torch.no_grad()
    def add(self, own: Blobs, teacher: Blobs, labels: Tensor | None) -> None:
        """Count a batch; losses are means over samples, weighted by how many there are."""
        made, wanted = own[self.at.logits[1]], teacher[self.at.logits[0]]
        count = len(made)
        self.loss += count * float(sum(losses(self.goal, self.at, own, teacher, labels).values()))
        self.samples += count
        if not self.at.scored:
            return
        classes = made.argmax(dim=1)
        self.agreeing += int((classes == wanted.argmax(dim=1)).sum())
        self.positions += classes.numel()
        if labels is not None and classes.numel() == count:
            self.right += int((classes.flatten() == labels).sum())
        else:
            self.labelled = False

    @property
    def score(self) -> Score:
        """What came of it."""
        agreement = self.agreeing / self.positions if self.at.scored else None
        accuracy = self.right / self.samples if self.at.scored and self.labelled else None
        return Score(self.loss / self.samples, accuracy, agreement)
