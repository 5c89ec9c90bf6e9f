"""Weights with some layers taken away and others replaced, to be read and written like any other weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from surgery.formats.caffe import binary
from surgery.formats.caffe.network import Shape
from surgery.formats.caffe.weights import LayerWeights, Weights

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class _NewEntry:
    """What a changed layer tells without its numbers."""

    name: str
    type: str
    shapes: tuple[Shape, ...]


@dataclass(frozen=True, eq=False)
class Entry:
    """One layer: number `origin` of the file, as it is there or as `layer` says; `type` is the new layer's."""

    origin: int
    layer: binary.NewLayer | None = None
    type: str = ""


@dataclass(frozen=True, eq=False)
class ChangedWeights:
    """See `weights.Weights`: those of the file `base` that `entries` name, in the file's order."""

    base: Weights
    entries: tuple[Entry, ...]

    @property
    def path(self) -> Path:
        """The file."""
        return self.base.path

    @cached_property
    def layers(self) -> Sequence[LayerWeights]:
        """The layers in order."""
        return [
            self.base.layers[entry.origin]
            if entry.layer is None
            else _NewEntry(entry.layer.name, entry.type, tuple(blob.shape for blob in entry.layer.blobs))
            for entry in self.entries
        ]

    def counts(self, index: int) -> list[tuple[Shape, int]]:
        """See Weights."""
        entry = self.entries[index]
        return self.base.counts(entry.origin) if entry.layer is None else []

    def arrays(self, index: int) -> tuple[NDArray[np.floating], ...]:
        """See Weights."""
        entry = self.entries[index]
        return self.base.arrays(entry.origin) if entry.layer is None else entry.layer.blobs

    def refusal(self, index: int) -> str | None:
        """See Weights."""
        entry = self.entries[index]
        return self.base.refusal(entry.origin) if entry.layer is None else None

    def is_legacy(self, index: int) -> bool:
        """See Weights."""
        return self.base.is_legacy(self.entries[index].origin)

    def generation(self, index: int) -> int:
        """See Weights."""
        return self.base.generation(self.entries[index].origin)

    def reweighed(self, index: int, blobs: Sequence[NDArray[np.floating]]) -> binary.NewLayer:
        """See Weights."""
        entry = self.entries[index]
        if entry.layer is None:
            return self.base.reweighed(entry.origin, blobs)
        return replace(entry.layer, blobs=tuple(blobs))

    def overwritten(self, numbers: Mapping[tuple[int, int], NDArray[np.floating]]) -> Weights:
        """See Weights. A layer with other numbers is written anew."""
        return overwritten(self, numbers)

    def write(self, replacements: Mapping[int, Sequence[binary.NewLayer]], path: Path) -> None:
        """See Weights."""
        changes: dict[int, Sequence[binary.NewLayer]] = {i: [] for i in range(len(self.base.layers))}
        for index, entry in enumerate(self.entries):
            if index in replacements:
                changes[entry.origin] = replacements[index]
            elif entry.layer is not None:
                changes[entry.origin] = [entry.layer]
            else:
                del changes[entry.origin]
        self.base.write(changes, path)


def changed(stored: Weights, changes: Mapping[int, Entry | None]) -> Weights:
    """Return the weights with the layers of these numbers replaced, or taken away where there is None."""
    if not changes:
        return stored
    base = stored.base if isinstance(stored, ChangedWeights) else stored
    old = stored.entries if isinstance(stored, ChangedWeights) else tuple(map(Entry, range(len(stored.layers))))
    entries = (changes.get(i, entry) for i, entry in enumerate(old))
    return ChangedWeights(base, tuple(entry for entry in entries if entry is not None))


def overwritten(stored: Weights, numbers: Mapping[tuple[int, int], NDArray[np.floating]]) -> Weights:
    """Return the weights with other numbers in blobs, by number of the layer and of the blob."""
    entries: dict[int, Entry | None] = {}
    for index in dict.fromkeys(index for index, _ in numbers):
        blobs = [
            numbers[index, blob].reshape(old.shape) if (index, blob) in numbers else old
            for blob, old in enumerate(stored.arrays(index))
        ]
        entries[index] = Entry(origin(stored, index), stored.reweighed(index, blobs))
    return changed(stored, entries)


def origin(stored: Weights, index: int) -> int:
    """Return the number in the file of the layer `index`."""
    return stored.entries[index].origin if isinstance(stored, ChangedWeights) else index


def new_layer(
    stored: Weights,
    index: int,
    type_name: str,
    links: tuple[Sequence[str], Sequence[str]],
    blobs: Sequence[NDArray[np.floating]],
) -> Entry:
    """Return the layer `index` with another type, other bottoms and tops, and other blobs."""
    name, generation = stored.layers[index].name, stored.generation(index)
    head = binary.head(name, type_name, *links, generation)
    layer = binary.NewLayer(name, head, generation, tuple(blobs), stored.is_legacy(index))
    return Entry(origin(stored, index), layer, type_name)
