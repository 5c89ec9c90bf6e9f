"""What differs between two networks, as plain values that text, JSON and pages are made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

Shape = tuple[int, ...]
Sizes = tuple[int | str, ...]  # a symbol where a size is not fixed
Kind = Literal["same", "changed", "split", "merged", "renamed", "reordered", "added", "removed"]
KINDS: tuple[Kind, ...] = ("same", "changed", "split", "merged", "renamed", "reordered", "added", "removed")


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer, or node, of a network.

    Attributes:
        key: its name; unique in its network ("#2" behind a repeated one, "-> tensor" for an ONNX node without one).
        type: as its format spells it.
        bottoms: the blobs, or tensors, that it reads; weights are not among them.
        tops: those that it makes.
        sources: for each bottom the key of the layer that makes the value read, "" for an input of the network.
        shapes: of the tops, None where unknown.
        params: numbers in its weights, None where unknown.
        macs: multiply-accumulates of a forward pass, None where unknown.
        fields: what it states besides, field -> text, sorted; what equals the format's default is left out.
    """

    key: str
    type: str
    bottoms: tuple[str, ...] = ()
    tops: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    shapes: tuple[Shape | None, ...] = ()
    params: int | None = None
    macs: int | None = None
    fields: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Side:
    """One of the two networks; `layers` are in running order.

    `format` is "caffe", "onnx", or "caffemodel" for weights without a definition. `inputs` are name and shape of what
    is fed, `outputs` the blobs that it gives. `notes` tell what was done on reading.
    """

    files: tuple[str, ...]
    format: str
    layers: tuple[Layer, ...]
    inputs: tuple[tuple[str, Sizes | None], ...] = ()
    outputs: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @cached_property
    def by_key(self) -> Mapping[str, Layer]:
        """The layers by key."""
        return {layer.key: layer for layer in self.layers}

    @property
    def params(self) -> int | None:
        """Numbers in all weights, None where a layer's are not known."""
        return _total([layer.params for layer in self.layers])

    @property
    def macs(self) -> int | None:
        """Multiply-accumulates of a forward pass, None where a layer's are not known."""
        return _total([layer.macs for layer in self.layers])


@dataclass(frozen=True, slots=True)
class Change:
    """A field that differs; None where a side does not have it."""

    field: str
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True)
class Reweighed:
    """A blob of weights that differs.

    `relative_error` is ||b - a|| / ||a||, None where the shapes differ or one is not there (then its shape is None) or
    where a is zero.
    """

    blob: str
    before: Shape | None
    after: Shape | None
    relative_error: float | None


@dataclass(frozen=True, slots=True)
class Factored:
    """One layer that stands as a chain of layers on the other side.

    Attributes:
        shape: what the chain looks like ("svd-channel", "tucker2", "chain of 5"); a shape, not how it was computed.
        ranks: the inner widths, per group of the layer, in the order in which methods of that look have them.
        relative_error: ||W_chain - W|| / ||W|| of the weights multiplied out, None where no file holds them or they
            cannot be multiplied into the layer; `reason` then says why.
        ternary: which layers of the chain hold only -1, 0 and 1.
        shared: keys of those layers of the chain that other layers' chains begin with as well.
        spectra: for each rank the singular values of the layer's own weights along it, largest first; computed where
            asked for only, else empty.
    """

    shape: str
    ranks: tuple[int, ...]
    relative_error: float | None
    reason: str | None = None
    ternary: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    spectra: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True)
class Entry:
    """What became of one layer, or of a few.

    Every layer of either side is in exactly one entry. "split" has one layer in `a` (several where they share a stem)
    and their chains in `b`; "merged" the other way round. An entry of another kind has at most one layer on each side.
    The kind is the gravest: a layer that is "changed" may be renamed and moved too, which `is_renamed` and `is_moved`
    tell.

    Attributes:
        changes: what differs in type, fields and connections; `bottom` only where another layer's value is read, `top`
            where the blob is called otherwise.
        weights: the blobs that differ; of a split the bias alone, as the rest is in its `parts`.
        parts: of "split" and "merged" only.
        training: fields that no forward pass reads; alone they leave an entry "same".
    """

    kind: Kind
    a: tuple[str, ...]
    b: tuple[str, ...]
    changes: tuple[Change, ...] = ()
    weights: tuple[Reweighed, ...] = ()
    parts: tuple[Part, ...] = ()
    training: tuple[Change, ...] = ()
    is_moved: bool = False

    @property
    def is_renamed(self) -> bool:
        """Whether one layer stands on each side under different names."""
        return len(self.a) == len(self.b) == 1 and self.a != self.b


@dataclass(frozen=True, slots=True)
class Part:
    """A whole layer and the chain in its place, in running order; a stem that others share is part of each chain."""

    whole: str
    chain: tuple[str, ...]
    factored: Factored


@dataclass(frozen=True, slots=True)
class BlobError:
    """How far a blob of B is from the same of A on the same inputs; `layer` is the one of A that finishes it."""

    blob: str
    layer: str
    relative_error: float
    max_abs: float


@dataclass(frozen=True)
class Numeric:
    """Both networks on the same inputs; `blobs` are in the running order of A."""

    blobs: tuple[BlobError, ...]
    samples: int
    runtime: str
    tolerance: float
    notes: tuple[str, ...] = ()

    @property
    def parting(self) -> BlobError | None:
        """The first blob beyond the tolerance, where the networks part."""
        return next((blob for blob in self.blobs if not blob.relative_error <= self.tolerance), None)


@dataclass(frozen=True)
class Difference:
    """Two networks compared.

    `entries` are in running order, those of B alone where they stand in B. `network` are changes of what belongs to no
    layer: inputs, outputs. `is_identical` says that the files hold the same bytes; they were then not compared further.
    `notes` tell what the files differ in that no running layer is.
    """

    a: Side
    b: Side
    entries: tuple[Entry, ...]
    network: tuple[Change, ...] = ()
    is_identical: bool = False
    numeric: Numeric | None = None
    notes: tuple[str, ...] = ()

    @property
    def is_same(self) -> bool:
        """Whether both are the same network; the files may still differ in what no layer is."""
        return not self.network and all(entry.kind == "same" for entry in self.entries)

    @property
    def differing(self) -> tuple[Entry, ...]:
        """The entries that are not the same."""
        return tuple(entry for entry in self.entries if entry.kind != "same")

    def count(self, kind: Kind) -> int:
        """Return how many entries are of a kind."""
        return sum(entry.kind == kind for entry in self.entries)


def _total(counts: list[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None
