"""A network as a thin list of nodes; what a node looks like inside its file only its format knows."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:  # Values of these types pass through here; inspecting a network loads neither.
    from surgery.ops import Chain, FloatArray, Op
    from surgery.ops.scale import Scale

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Node:
    """One layer that runs; `inputs` and `outputs` name blobs (Caffe) or tensors, `native` is the format's own."""

    key: str
    type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    native: Any


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a node without running it; counts are for the batch size that the file states.

    `shapes` are the outputs', None where unknown, and then `reason` says why. `macs` is None where a shape is missing,
    `params` where no weights tell either. `input_size` is (height, width) of the first input where it has four axes.
    """

    shapes: tuple[Shape | None, ...]
    params: int | None
    macs: int | None
    input_size: tuple[int, int] | None
    column_bytes: int
    reason: str | None

    @property
    def weight_bytes(self) -> int | None:
        """Bytes of the weights as float32."""
        return None if self.params is None else 4 * self.params


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that a runtime allocates to run the network as it stands; `columns` are im2col buffers."""

    weights: int
    activations: int
    columns: int
    scratch: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.activations + self.columns + self.scratch


@dataclass(frozen=True)
class Runnable:
    """What a runtime must be told besides the files: the inputs' shapes and which layers run.

    `unready` says why the model cannot be run as it stands, None where it can.
    """

    inputs: Mapping[str, Shape]
    phase: str
    level: int
    stages: tuple[str, ...]
    unready: str | None


@dataclass(frozen=True, slots=True)
class Refusal:
    """A node that cannot be cut, and why."""

    key: str
    type: str
    reason: str


@dataclass(frozen=True, eq=False, slots=True)
class PerChannel:
    """A node that only scales and shifts each channel of its input number `input`."""

    scale: Scale
    input: int = 0


@dataclass(frozen=True, eq=False, slots=True)
class Splice:
    """The node `key` becomes the layers of `chain`, in running order."""

    key: str
    chain: Chain


@dataclass(frozen=True, eq=False, slots=True)
class Share:
    """The nodes `keys`, which read the same value, read what `stem` makes of it instead: node i becomes `heads[i]`."""

    keys: tuple[str, ...]
    stem: Chain
    heads: tuple[Chain, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Merge:
    """The nodes `keys`, each the only reader of the one before it, become one node of the name `name`."""

    keys: tuple[str, ...]
    op: Op
    name: str


@dataclass(frozen=True, eq=False, slots=True)
class Reweigh:
    """Only the weight, and where given the bias, of the node `key` change; shapes stay."""

    key: str
    op: Op


@dataclass(frozen=True, eq=False, slots=True)
class Overwrite:
    """Only the numbers of these blobs of the node `key` change, by the blob's number; shapes stay.

    Blobs of an ONNX node are its inputs that are constants of real numbers, in the order of its inputs. What shares a
    Caffe layer's blobs keeps its own.
    """

    key: str
    blobs: Mapping[int, FloatArray]


@dataclass(frozen=True, slots=True)
class Extract:
    """Only what leads to the blobs `outputs` stays; where `inputs` are given, the network begins at those blobs.

    A name means the value that it has in the end, behind everything that works in place on it.
    """

    outputs: tuple[str, ...]
    inputs: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False, slots=True)
class Fold:
    """The nodes `absorbed`, which follow the node `key` one after the other, go; its weights take in their `scale`."""

    key: str
    absorbed: tuple[str, ...]
    scale: Scale


@dataclass(frozen=True, slots=True)
class Convolve:
    """The fully connected nodes `keys` become convolutions over all their input; see `Format.convolvable`."""

    keys: tuple[str, ...]


Edit = Splice | Share | Merge | Reweigh | Overwrite | Extract | Fold | Convolve


class Format(Protocol):
    """A file format: the only thing that may open a node's `native`.

    Laws: saving a model without edits gives the same bytes; `edit` leaves every node it does not name as it was;
    `lift` of a node that a Splice made gives the operation back.
    """

    name: str

    def lift(self, model: Model, node: Node) -> Op | Refusal:
        """Return what the node computes, its weights as views of the file, or why that cannot be said."""
        ...

    def edit(self, model: Model, edits: Sequence[Edit]) -> Model:
        """Return the model with the edits made."""
        ...

    def scale(self, model: Model, node: Node) -> PerChannel | Refusal | None:
        """Return how the node scales and shifts each channel, why it does not, or None for a node of another kind."""
        ...

    def absorber(self, model: Model, node: Node) -> int | Refusal:
        """Return the output channels of a node whose weights can take in a scale behind it, or why they cannot."""
        ...

    def convolvable(self, model: Model, keys: Collection[str]) -> tuple[tuple[str, ...], tuple[Refusal, ...]]:
        """Return which fully connected nodes of those keys can become convolutions, and why the others cannot."""
        ...

    def outputs(self, model: Model) -> tuple[str, ...]:
        """Return the names of the blobs that the network gives."""
        ...

    def facts(self, model: Model) -> Mapping[str, Facts]:
        """Return what is known of every node, by key."""
        ...

    def memory(self, model: Model) -> Memory | None:
        """Return what running the model takes, or None where a shape is not known."""
        ...

    def runnable(self, model: Model) -> Runnable:
        """Return what a runtime must be told to run the model."""
        ...

    def made(self, model: Model) -> Mapping[str, tuple[str, ...]]:
        """Return, for each node that was cut, the keys of those in its place, what it shares with others included."""
        ...

    def notes(self, model: Model) -> Sequence[str]:
        """Return what was done to the model on reading it, such as an upgrade."""
        ...

    def save(self, model: Model, folder: Path, stem: str) -> tuple[Path, ...]:
        """Write the model's files into `folder` and return their paths."""
        ...

    def digest(self, model: Model) -> str:
        """Return the SHA-256 of the model's files as they were read."""
        ...


@dataclass(frozen=True, eq=False)
class Model:
    """A network: its running nodes in order, and the format's own record of the files they came from."""

    format: Format
    nodes: tuple[Node, ...]
    native: Any

    def node(self, key: str) -> Node:
        """Return the node of that key; raises KeyError."""
        for node in self.nodes:
            if node.key == key:
                return node
        raise KeyError(key)

    def edit(self, *edits: Edit) -> Model:
        """Return the model with the edits made, all at once."""
        return self.format.edit(self, edits) if edits else self

    def replaced(self, nodes: Mapping[str, Sequence[Node]]) -> Model:
        """Return the model with each node named in `nodes` replaced by those given."""
        new = tuple(made for node in self.nodes for made in nodes.get(node.key, (node,)))
        return replace(self, nodes=new)


def placeholder(shape: Shape) -> FloatArray:
    """Return zeros of `shape` that take no memory, for a layer whose weights no file holds."""
    import numpy as np

    return np.broadcast_to(np.zeros((), np.float32), shape)
