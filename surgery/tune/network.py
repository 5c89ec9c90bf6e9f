"""A model as a PyTorch module: a small interpreter of its ONNX form, whose parameters are the blobs of its files.

Importing this module imports torch: call `surgery.tune.installed.require_torch` first.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from surgery.errors import ModelError, PlanError
from surgery.model import Model, Refusal
from surgery.tune.batch import is_any_batch
from surgery.tune.call import Call
from surgery.tune.operators import OPERATORS
from surgery.tune.program import Program, Step, program, unknown
from surgery.tune.weights import Constants, written

# Operators whose result has the same numbers in the same order, through which logits are looked for.
_VIEWS = ("Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze")


class Network(nn.Module):
    """What a model computes, differentiable, its blobs as parameters. Made by `Network.of`.

    `train()` and `eval()` mean what they mean in PyTorch: in training mode BatchNorms normalise by the batch and keep
    running statistics, else by those stored. Dropouts drop nothing in either.

    Attributes:
        refused: the layers whose blobs cannot be trained, and why; they stay as they are.
    """

    def __init__(self, found: Program, trained: Collection[str], dtype: torch.dtype) -> None:
        super().__init__()
        self.refused: tuple[Refusal, ...] = found.refused
        self.constants = Constants(found, trained, dtype)
        self._program = found
        self._dtype = dtype
        self._moments: dict[str, _Moments] | None = None  # while they are gathered, by the tensor of the means
        self._asked: Mapping[str, str] = {}
        self._steps: Sequence[tuple[Step, frozenset[str]]] = ()
        self._fed: tuple[str, ...] = ()
        self.ask(found.outputs)

    @classmethod
    def of(cls, model: Model, trainable: Collection[str] | None = None, dtype: torch.dtype = torch.float32) -> Network:
        """Return the network of a model without unsaved edits, in evaluation mode.

        `trainable` are the keys of the layers whose parameters get gradients, None for all that can. Raises PlanError
        for a key that is no layer or whose blobs cannot be trained (they are shared, or no file holds them), ModelError
        for a model with operators that the interpreter does not have, all of which it names, and ConversionError.
        """
        found = program(model)
        missing = unknown(found.steps, OPERATORS)
        if missing:
            raise ModelError(f"torch cannot run {'; '.join(missing)}; a Caffe model can be tuned with --engine caffe")
        keys = {node.key for node in model.nodes}
        reasons = {refusal.key: refusal.reason for refusal in found.refused}
        for key in trainable or ():
            if key not in keys:
                raise PlanError("the network has no layer of that name", key)
            if key in reasons:
                raise PlanError(f"cannot be trained: {reasons[key]}", key)
        return cls(found, keys if trainable is None else trainable, dtype).eval()

    @property
    def asked(self) -> tuple[str, ...]:
        """The names asked for."""
        return tuple(self._asked)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the blobs to be fed."""
        return self._program.inputs

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the blobs that the model gives."""
        return self._program.outputs

    @cached_property
    def batch(self) -> int | None:
        """The only size of batch that the network takes, None where any will do.

        Where the file states one, whether two samples more change nothing for the others is tried out.
        """
        stated = self._program.batch
        return None if stated is None or is_any_batch(self, stated, self._program.shapes) else stated

    @cached_property
    def logits(self) -> str | None:
        """Name of the value before the Softmax that gives an output, None where no output comes from one."""
        makers = {output: step for step in self._program.steps for output in step.outputs}
        for output in self.outputs:
            step = makers.get(self._tensor(output))
            while step is not None and step.type in _VIEWS:
                step = makers.get(step.inputs[0])
            if step is not None and step.type in ("Softmax", "LogSoftmax"):
                return step.inputs[0]
        return None

    def made_by(self, key: str) -> tuple[str, ...]:
        """Return the names of the values that a layer makes, as it makes them: before what works on them in place.

        Raises ModelError for a layer that the network lacks, or that makes nothing of its own, as a Dropout.
        """
        own = [step for step in self._program.steps if step.layer == key]
        read = {name for step in own for name in step.inputs}
        made = tuple(name for step in own for name in step.outputs if name not in read)
        if not made:
            raise ModelError(f"'{key}': no layer of that name makes a value in the network")
        return made

    def ask(self, names: Collection[str]) -> None:
        """Let `forward` return these blobs, or tensors of the ONNX form, from now on; at first it returns `outputs`.

        What they do not need is not computed. Raises ModelError for a name that the network does not have.
        """
        asked = {name: self._tensor(name) for name in names}
        needed = set(asked.values())
        steps = []
        for step in reversed(self._program.steps):
            if needed.intersection(step.outputs):
                # What nothing behind it needs can go when it has run.
                steps.append((step, frozenset({*step.inputs, *step.outputs} - needed)))
                needed.update(step.inputs)
        self._asked, self._steps = asked, steps[::-1]
        self._fed = tuple(name for name in self.inputs if name in needed)

    def forward(self, inputs: Mapping[str, Tensor], replaced: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Return the blobs asked for, by the names under which they were asked.

        `replaced` are numbers to be used in the place of parameters, by their names; gradients go there then. Raises
        ModelError for an input that is not given.
        """
        missing = [name for name in self._fed if name not in inputs]
        if missing:
            raise ModelError(f"input '{missing[0]}' is not fed; expected {', '.join(self._fed)}")
        values = {name: inputs[name] for name in self._fed}
        for step, spent in self._steps:
            arguments = tuple(self._value(name, values, replaced or {}) for name in step.inputs)
            result = OPERATORS[step.type](self._call(step, arguments))
            values.update(zip(step.outputs, result if isinstance(result, tuple) else (result,), strict=False))
            for name in spent:
                values.pop(name, None)
        return {name: values[tensor] for name, tensor in self._asked.items()}

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield each blob as `<layer key>/<blob index>`; those that are not trained have no `requires_grad`.

        Shapes are those of the blobs, of a convolution (out, in / groups, kh, kw), of an InnerProduct (out, in); that
        of a Scale, Bias or PReLU may have axes of one behind it. In ONNX, blobs are the inputs of a node that are
        constants, in the order of its inputs.
        """
        yield from ((prefix + name, parameter) for name, parameter in self.constants.named())

    def refresh_batchnorm(self, batches: Iterable[Mapping[str, Tensor]]) -> None:
        """Put the mean and variance of what reaches each BatchNorm in the place of its statistics.

        They are those of all batches together, gathered in one pass in which every BatchNorm normalises by the batch.
        Without batches all stays.
        """
        asked, training = self.asked, self.training
        self._moments = {}
        self.train()
        self.ask(self.outputs)
        try:
            with torch.no_grad():
                for batch in batches:
                    self(batch)
                for step, (mean, variance) in self._normalised():
                    if step.inputs[3] in self._moments:
                        found = self._moments[step.inputs[3]]
                        mean.copy_(found.mean)
                        variance.copy_(found.variance)
        finally:
            self._moments = None
            self.train(training)
            self.ask(asked)

    def written(self, model: Model) -> Model:
        """Return the model this network is of with the numbers that changed; every other byte of its files stays.

        Means and variances that changed are stored as they are: Caffe's factor for them becomes 1.
        """
        return written(model, self.constants.changed())

    def _tensor(self, name: str) -> str:
        """Return the tensor that has a name or that holds the blob of that name in the end; raises ModelError."""
        made = (output for step in self._program.steps for output in step.outputs)
        found = self._program.tensors.get(name, name)
        if found in self.inputs or found in made:
            return found
        raise ModelError(f"the network makes no blob '{name}'")

    def _value(self, name: str, values: Mapping[str, Tensor], replaced: Mapping[str, Tensor]) -> Tensor | None:
        if not name or name in values:
            return values.get(name)
        place = self._program.places.get(name)
        if place is not None and str(place) in replaced:
            return self.constants.shaped(name, replaced[str(place)])
        return self.constants[name]

    def _call(self, step: Step, arguments: tuple[Tensor | None, ...]) -> Call:
        call = Call(step, arguments, self._program.opset, self._dtype, self.training and self._is_normalised(step))
        if self._moments is not None and call.training:
            self._moments.setdefault(step.inputs[3], _Moments()).add(call.x)
        return call

    def _is_normalised(self, step: Step) -> bool:
        """Return whether an operator is a BatchNormalization whose statistics may change."""
        return step.type == "BatchNormalization" and self._program.statistics.issuperset(step.inputs[3:5])

    def _normalised(self) -> Iterator[tuple[Step, tuple[Tensor, Tensor]]]:
        for step in self._program.steps:
            if self._is_normalised(step):
                yield step, (self.constants[step.inputs[3]], self.constants[step.inputs[4]])


class _Moments:
    """Sums over batches, for each channel, in float64."""

    def __init__(self) -> None:
        self._count = 0
        self._sum: Tensor | float = 0.0
        self._squares: Tensor | float = 0.0

    def add(self, x: Tensor) -> None:
        """Take in a batch (N, C, ...)."""
        rows = x.detach().double().movedim(1, 0).reshape(x.shape[1], -1)
        self._count += rows.shape[1]
        self._sum = self._sum + rows.sum(1)
        self._squares = self._squares + (rows * rows).sum(1)

    @property
    def mean(self) -> Tensor:
        """Mean of each channel."""
        return torch.as_tensor(self._sum / self._count)

    @property
    def variance(self) -> Tensor:
        """Mean square of what each channel differs from its mean by."""
        return torch.as_tensor(self._squares / self._count) - self.mean**2
