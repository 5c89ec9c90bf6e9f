"""What training moves and what the network computes with, where a cut binds its weights: zeros, signs, -1, 0 and 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from surgery.errors import PlanError
from surgery.model import Model
from surgery.tune.latent import Latent, latents
from surgery.tune.parts import MASKED, SIGNED, Part, Placed

MOST = 1.5  # to which latent weights may grow: farther from where they round to another number, few would come back


@dataclass(frozen=True, eq=False)
class Moved:
    """Numbers that the optimizer moves, by `pace` times the learning rate; weight decay applies where it `decays`."""

    tensor: Tensor
    pace: float = 1.0
    decays: bool = False


class Bound:
    """A parameter of the network and what the optimizer moves for it: without more, the parameter itself."""

    def __init__(self, name: str, parameter: Tensor, pace: float = 1.0) -> None:
        """Bind the parameter of that name."""
        self.name = name
        self.parameter = parameter
        is_weight = sum(size > 1 for size in parameter.shape) > 1  # Biases and scales do not decay.
        self.moved: Sequence[Moved] = [Moved(parameter, pace, decays=is_weight)]

    def pull(self) -> None:
        """Hand the parameter's gradient to what is moved."""

    def push(self) -> None:
        """Set the parameter from what was moved, within what is allowed."""


class Kept(Bound):
    """A parameter whose zeros stay zero where it is `masked`, and none of whose numbers is negative where `signed`."""

    def __init__(self, name: str, parameter: Tensor, pace: float = 1.0, *, masked: bool, signed: bool) -> None:
        """Bind a parameter by the zeros that it has now."""
        super().__init__(name, parameter, pace)
        self.mask = (parameter.detach() != 0).to(parameter.dtype) if masked else None
        self.signed = signed

    def pull(self) -> None:
        """Take out of the gradient what would move zeros, and give them momentum."""
        if self.mask is not None and self.parameter.grad is not None:
            self.parameter.grad.mul_(self.mask)

    def push(self) -> None:
        """Project onto what is allowed."""
        if self.mask is not None:
            self.parameter.mul_(self.mask)
        if self.signed:
            self.parameter.clamp_(min=0)


class Ternary(Bound):
    """A weight of -1, 0, 1, or of these times a scale for each input: what a latent weight rounds to.

    The gradient of the rounded weight is taken for that of the latent one: the straight-through estimator.
    """

    def __init__(self, name: str, parameter: Tensor, start: Latent) -> None:
        """Bind a parameter that holds what `start` rounds to."""
        super().__init__(name, parameter)
        latent = torch.tensor(start.weight).to(parameter)
        self.turned = not _fits(rounded(latent), parameter)  # ONNX may hold a matrix as (inputs, outputs).
        self.latent = latent.reshape(self._own(parameter).shape)
        self.scale = None if start.scale is None else torch.tensor(start.scale).to(parameter)
        self.groups = start.groups
        self.moved = [Moved(self.latent, start.pace)]  # Weight decay would pull all of it to 0.
        self.moved += [] if self.scale is None else [Moved(self.scale, start.scale_pace)]

    def pull(self) -> None:
        """Hand the gradient to the latent weight and the scale."""
        if self.parameter.grad is None:
            return
        gradient = self._own(self.parameter.grad)
        if self.scale is None:
            self.latent.grad = gradient.clone()
            return
        self.latent.grad = gradient * self._scales()
        along = (gradient * rounded(self.latent)).reshape(*self._grouped(), -1)
        self.scale.grad = along.sum(dim=(1, 3)).reshape(-1)

    def push(self) -> None:
        """Round."""
        self.latent.clamp_(-MOST, MOST)
        if self.scale is None:
            self._own(self.parameter).copy_(rounded(self.latent))
            return
        self.scale.clamp_(min=0)
        self._own(self.parameter).copy_(rounded(self.latent) * self._scales())

    def _own(self, array: Tensor) -> Tensor:
        """Return the parameter, or its gradient, with its outputs first."""
        return array.t() if self.turned else array

    def _grouped(self) -> tuple[int, int, int]:
        outputs, inputs = self.latent.shape[:2]
        return self.groups, outputs // self.groups, inputs

    def _scales(self) -> Tensor:
        """Return the scale for each number of the weight."""
        assert self.scale is not None
        groups, outputs, inputs = self._grouped()
        each = self.scale.reshape(groups, 1, inputs).expand(groups, outputs, inputs).reshape(-1, inputs)
        return each.reshape(*each.shape, *[1] * (self.latent.ndim - 2)).expand_as(self.latent)


def rounded(latent: Tensor) -> Tensor:
    """Return -1, 0 or 1 for each number."""
    return (latent > 0.5).to(latent.dtype) - (latent < -0.5).to(latent.dtype)


def _fits(weight: Tensor, parameter: Tensor) -> bool:
    """Return whether a parameter holds the signs of a weight in that order; a matrix may be turned."""
    return parameter.ndim != 2 or torch.equal(weight.reshape(parameter.shape), parameter.detach().sign())


@torch.no_grad()
def bounds(parameters: Mapping[str, Tensor], placements: Sequence[Placed], cut: Model, original: Model) -> list[Bound]:
    """Return what binds each parameter that is trained, in their order; `parameters` are `<layer key>/<blob>`.

    `cut` is the model that they are of; ternary factors begin where they are nearest to the layers of `original`.
    Raises PlanError where a weight is not what its cut says.
    """
    starts = {key: start for each in placements for key, start in latents(each, cut, original).items()}
    parts = {f"{part.key}/0": part for each in placements for part in each.parts if part.kinds}
    return [
        _bound(name, parameter, parts[name], starts) if name in parts else Bound(name, parameter)
        for name, parameter in parameters.items()
    ]


def _bound(name: str, parameter: Tensor, part: Part, starts: Mapping[str, Latent]) -> Bound:
    start = starts.get(part.key)
    if start is not None and start.weight is not None:
        bound = Ternary(name, parameter, start)
        before = parameter.detach().clone()
        bound.push()
        if not torch.allclose(bound.parameter, before, rtol=1e-5):  # A folded scale was multiplied in as float32.
            raise PlanError("does not hold the ternary weight that its cut made; give the plan that made it", part.key)
        return bound
    if SIGNED in part.kinds and bool((parameter < 0).any()):
        raise PlanError("holds negative numbers, which its cut never makes; give the plan that made it", part.key)
    pace = start.pace if start is not None else 1.0
    return Kept(name, parameter, pace, masked=MASKED in part.kinds, signed=SIGNED in part.kinds)
