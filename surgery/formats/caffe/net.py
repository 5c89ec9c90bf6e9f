"""A Caffe model in memory: the files, what runs in them, and what was changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from surgery.formats.caffe import network, shapes, weights
from surgery.formats.caffe.netstate import NetState, active
from surgery.formats.caffe.network import Layer, Shape
from surgery.formats.caffe.shapes import LayerShapes
from surgery.formats.caffe.text import Document
from surgery.formats.cuts import Cut
from surgery.ops import Op


@dataclass(frozen=True, eq=False)
class Original:
    """A node that is a layer of the file; `index` is its entry in the weights, None without."""

    layer: Layer
    index: int | None


@dataclass(frozen=True, eq=False)
class CaffeNet:
    """The files behind a model and what was changed in it, by layer name. `shapes` are the user's, by input."""

    files: tuple[Path, ...]
    document: Document
    layers: tuple[Layer, ...]
    weights: weights.Weights | None
    state: NetState
    shapes: Mapping[str, Shape]
    notes: tuple[str, ...] = ()
    cuts: Mapping[str, Cut] = field(default_factory=dict)
    reweighed: Mapping[str, Op] = field(default_factory=dict)

    @cached_property
    def active(self) -> tuple[Layer, ...]:
        """The layers that run in `state`."""
        return active(self.layers, self.state)

    @cached_property
    def by_name(self) -> Mapping[str, tuple[Layer, ...]]:
        """All layers by name, whatever their phase."""
        found: dict[str, list[Layer]] = {}
        for layer in self.layers:
            found.setdefault(layer.name, []).append(layer)
        return {name: tuple(same) for name, same in found.items()}

    @cached_property
    def inferred(self) -> Mapping[int, LayerShapes]:
        """Shapes of the active layers, by the id of the layer."""
        stored = {entry.name: entry.shapes for entry in self.weights.layers} if self.weights else {}
        inputs = {**network.inputs(self.document), **self.shapes}
        results = shapes.infer(self.active, inputs, stored)
        return {id(layer): result for layer, result in zip(self.active, results, strict=True)}

    @cached_property
    def shared(self) -> Mapping[str, tuple[str, ...]]:
        """Layers by the name under which they share a blob, for names that more than one layer uses."""
        users: dict[str, list[str]] = {}
        for layer in self.layers:
            for name in filter(None, layer.param_names):
                users.setdefault(name, []).append(layer.name)
        return {name: tuple(dict.fromkeys(who)) for name, who in users.items() if len(who) > 1}

    @cached_property
    def taken(self) -> frozenset[str]:
        """Every name of a layer or blob in the files."""
        names = {layer.name for layer in self.layers}
        names.update(blob for layer in self.layers for blob in (*layer.tops, *layer.bottoms))
        names.update(entry.name for entry in self.weights.layers) if self.weights else None
        return frozenset(names | set(network.input_names(self.document)))

    def entries(self, name: str) -> list[int]:
        """Return the indices of the weights' entries of that name; Caffe takes the last."""
        return [i for i, entry in enumerate(self.weights.layers) if entry.name == name] if self.weights else []
