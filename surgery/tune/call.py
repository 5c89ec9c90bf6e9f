"""One ONNX operator about to run in torch: its inputs, its attributes, and the version of the operators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from surgery.errors import ModelError
from surgery.tune.program import Step

Result = Tensor | tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
class Call:
    """What a function of the table of operators is given.

    Attributes:
        step: the operator.
        values: its inputs, None for an optional one left out.
        opset: version of the standard operators.
        dtype: what the network computes in.
        training: whether BatchNorms normalise by the batch.
    """

    step: Step
    values: tuple[Tensor | None, ...]
    opset: int
    dtype: torch.dtype
    training: bool = False

    def __getitem__(self, index: int) -> Tensor:
        """Return input `index`, beside the first one with a device; shapes and the like are made on the CPU."""
        value = self.values[index]
        if value is None:
            raise self.unsupported(f"without its input {index}")
        return value.to(self.device)

    @property
    def x(self) -> Tensor:
        """The first input."""
        return self[0]

    @property
    def given(self) -> list[Tensor]:
        """All inputs that are there."""
        return [self[i] for i in range(len(self.values)) if self.has(i)]

    @property
    def device(self) -> torch.device:
        """Where the operator runs: where its first input lies that is not on the CPU."""
        devices = [value.device for value in self.values if value is not None]
        return next((device for device in devices if device.type != "cpu"), torch.device("cpu"))

    def has(self, index: int) -> bool:
        """Return whether input `index` is given."""
        return index < len(self.values) and self.values[index] is not None

    def optional(self, index: int) -> Tensor | None:
        """Return input `index`, None where it is left out."""
        return self[index] if self.has(index) else None

    def integer(self, name: str, default: int) -> int:
        """Return an attribute that is a whole number."""
        return int(self.step.attributes.get(name, default))

    def real(self, name: str, default: float) -> float:
        """Return an attribute that is a number."""
        return float(self.step.attributes.get(name, default))

    def text(self, name: str, default: str) -> str:
        """Return an attribute that is a text."""
        return str(self.step.attributes.get(name, default)) or default

    def integers(self, name: str, default: Sequence[int] = ()) -> list[int]:
        """Return an attribute that is a list of whole numbers."""
        return [int(value) for value in self.step.attributes.get(name, default)]

    def numbers(self, name: str, index: int) -> list[int] | None:
        """Return whole numbers that are an attribute in old opsets and input `index` in new ones, None without."""
        if name in self.step.attributes:
            return self.integers(name)
        value = self.values[index] if self.has(index) else None
        return None if value is None else [int(number) for number in value.reshape(-1).tolist()]

    def limit(self, name: str, index: int) -> float | Tensor | None:
        """Return one number that is an attribute in old opsets and input `index` in new ones, None without."""
        return self.real(name, 0.0) if name in self.step.attributes else self.optional(index)

    def unsupported(self, what: str) -> ModelError:
        """Return the error for an operator that asks what the table does not do."""
        return ModelError(
            f"'{self.step.layer}' ({self.step.type}): {what} cannot be trained in torch; a Caffe model can be "
            "tuned with --engine caffe"
        )
