"""The part of a network that leads to chosen blobs, from its own inputs or from blobs in its middle."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from surgery.errors import PlanError
from surgery.formats.caffe import network
from surgery.formats.caffe.changed import changed
from surgery.formats.caffe.edit import margin, newline, removals, unit, without_lists
from surgery.formats.caffe.net import CaffeNet
from surgery.formats.caffe.network import Layer, Shape
from surgery.formats.caffe.schema import quote
from surgery.formats.caffe.text import Document, Field, Splice
from surgery.formats.wiring import Value, Wiring
from surgery.model import Extract, Node

_CONSTANTS = ("ContinuationIndicator", "DummyData", "Parameter")
_EDITED = {"layer", "layers", "bottom", "top", "input", "input_dim", "input_shape", "shape"}


def extracted(net: CaffeNet, nodes: Sequence[Node], change: Extract) -> CaffeNet:
    """Return the network that `change` asks for, as it runs in its phase, level and stages.

    Every layer that stays keeps its text and its weights; the entry of weights of one that goes, goes too. Raises
    PlanError for blobs that are not there, that are on no way to the outputs, or that do not suffice.
    """
    part = _Part(net, nodes, change)
    part.check()
    document, gone, notes = part.document(), part.gone, (*net.notes, *part.notes())
    if document is net.document:
        return replace(net, notes=notes)
    kept = {layer.name for layer in net.layers if id(layer) in part.staying}
    indices = {i for layer in gone if layer.name not in kept for i in net.entries(layer.name)}
    stored = changed(net.weights, dict.fromkeys(indices)) if net.weights else None
    layers = network.layers(document)
    return replace(net, document=document, layers=layers, weights=stored, notes=notes)


@dataclass(frozen=True, eq=False)
class _Part:
    """A network and what is asked of it."""

    net: CaffeNet
    nodes: Sequence[Node]
    change: Extract

    @cached_property
    def wiring(self) -> Wiring:
        return Wiring(self.nodes)

    @cached_property
    def fields(self) -> list[str]:
        """The blobs of the file's `input` fields."""
        return network.input_names(self.net.document)

    @cached_property
    def cut(self) -> dict[str, Value]:
        """The blobs at which the network is to begin anew."""
        made = {name: self.wiring.final[name] for name in self.change.inputs if name in self.wiring.final}
        return {name: value for name, value in made.items() if self.nodes[value.node].type != "Input"}

    @cached_property
    def roots(self) -> list[Value]:
        return [self.wiring.final[name] for name in self.change.outputs]

    @cached_property
    def live(self) -> set[int]:
        """The nodes that the outputs need."""
        return self.wiring.needed(self.roots, set(self.cut.values()))

    @cached_property
    def read(self) -> set[Value]:
        """The values that these nodes read, and the outputs."""
        found = (value for i in self.live for value in self.wiring.sources[i] if value is not None)
        return {*found, *self.roots}

    @cached_property
    def silenced(self) -> Mapping[int, set[int]]:
        """The Silence layers that still have something to hide, with the numbers of the bottoms that are left."""
        result = {}
        for i, node in enumerate(self.nodes):
            if node.type == "Silence":
                sources = enumerate(self.wiring.sources[i])
                result[i] = {k for k, v in sources if v and v.node in self.live and v not in self.read}
        return {i: left for i, left in result.items() if left}

    @cached_property
    def staying(self) -> set[int]:
        """The layers that stay, by id."""
        return {id(self.nodes[i].native.layer) for i in (*self.live, *self.silenced)}

    @property
    def gone(self) -> list[Layer]:
        return [layer for layer in self.net.layers if id(layer) not in self.staying]

    def check(self) -> None:
        """Raise PlanError where the request does not make a network."""
        if not self.change.outputs:
            raise PlanError("no output is named; give at least one blob")
        for name in self.change.outputs:
            maker = self.wiring.final.get(name)
            if name in self.change.inputs or (maker is None and name in self.fields):
                raise PlanError(f"'{name}' is asked for as an output, but it is an input")
            if maker is None:
                raise PlanError(self._unknown(name))
            if not self.nodes[maker.node].inputs:
                raise PlanError(f"'{name}' is asked for as an output, but no layer computes it")
        for name in self.change.inputs:
            if name not in self.wiring.final and name not in self.fields:
                raise PlanError(self._unknown(name))
        if self.change.inputs:
            self._check_inputs()

    def _check_inputs(self) -> None:
        used = {name for i in self.live for name in self._outer(i)} | self._cut_names()
        for name in self.change.inputs:
            if name not in used:
                raise PlanError(f"input '{name}' does not lead to {', '.join(self.change.outputs)}")
        missing = sorted(used - set(self.change.inputs))
        if missing:
            raise PlanError(
                f"{', '.join(self.change.outputs)} also need '{missing[0]}', which these inputs do not replace; "
                "name it as an input as well, or begin elsewhere"
            )
        for i in self.live:
            for name in self.nodes[i].outputs:
                if name in self.cut:
                    raise PlanError(
                        f"'{name}' cannot be an input: layer '{self.nodes[i].key}', which makes it, is needed besides"
                    )

    def _outer(self, i: int) -> Iterator[str]:
        """Yield what a node takes from outside: `input` fields, and what it feeds if it is a data layer."""
        node = self.nodes[i]
        yield from (name for name, value in zip(node.inputs, self.wiring.sources[i], strict=True) if value is None)
        if not node.inputs and node.type not in _CONSTANTS:
            yield from (name for k, name in enumerate(node.outputs) if Value(i, k) in self.read)

    def _cut_names(self) -> set[str]:
        return {name for name, value in self.cut.items() if value in self.read}

    def _unknown(self, name: str) -> str:
        blobs = [*self.fields, *self.wiring.final]
        for node in self.nodes:
            if node.key == name and node.outputs:
                return f"no blob is named '{name}'; the layer of that name makes '{node.outputs[0]}'"
        near = difflib.get_close_matches(name, blobs, 3)
        hint = f"near: {', '.join(near)}" if near else f"there are {', '.join(blobs[:5])}, ..."
        return f"no blob is named '{name}'; {hint}"

    def document(self) -> Document:
        """Return the text, the file's own where nothing goes."""
        idle = [name for name in self.fields if name not in {n for i in self.live for n in self._outer(i)}]
        if not (self.gone or idle or self.cut or self._trimmed()):
            return self.net.document
        document = without_lists(self.net.document, _EDITED)
        again = dict(zip(map(id, self.net.layers), network.layers(document), strict=True))
        fields = [again[id(layer)].field for layer in self.gone]
        fields += [f for i, slots in self._trimmed().items() for f in _slots(again[id(self._layer(i))], slots)]
        fields += _input_fields(document, {k for k, name in enumerate(self.fields) if name in idle})
        first = next(layer for layer in self.net.layers if id(layer) in self.staying)
        splices = [
            *self._new_inputs(document, again[id(first)], set(self.fields) - set(idle)),
            *removals(document, fields),
        ]
        return document.edited(splices)

    def _trimmed(self) -> dict[int, set[int]]:
        """Return the bottoms of Silence and the tops of Input layers that go while the layer stays."""
        result = {i: set(range(len(self.nodes[i].inputs))) - left for i, left in self.silenced.items()}
        for i in self.live:
            if self.nodes[i].type == "Input":
                result[i] = {k for k in range(len(self.nodes[i].outputs)) if Value(i, k) not in self.read}
        return {i: slots for i, slots in result.items() if slots}

    def _layer(self, i: int) -> Layer:
        layer: Layer = self.nodes[i].native.layer
        return layer

    def _new_inputs(self, document: Document, first: Layer, fields: Collection[str]) -> list[Splice]:
        shapes = {name: self._shape(name) for name in self.cut}
        if not shapes:
            return []
        if first.generation == 2:
            names = {layer.name for layer in self.net.layers if id(layer) in self.staying}
            return [_input_layers(document, first, shapes, names)]
        if fields:
            raise PlanError("a V1 network cannot begin at its own inputs and at others too; `surgery upgrade` it first")
        return [_as_fields(document, first, shapes)]

    def _shape(self, name: str) -> Shape:
        maker = self.net.inferred[id(self._layer(self.cut[name].node))]
        shape = self.net.shapes.get(name, maker.tops[self.cut[name].slot])
        if shape is None:
            raise PlanError(f"input '{name}' has no known shape: {maker.reason}")
        return shape

    def notes(self) -> Iterator[str]:
        """Yield what the request meant and what came of it that it did not say."""
        running = set(map(id, self.net.active))
        others = sum(id(layer) not in running for layer in self.net.layers)
        if others:
            yield f"{others} layers of other phases, levels or stages went"
        for name in dict.fromkeys((*self.change.outputs, *self.cut)):
            writers = [node for node in self.nodes if name in node.outputs]
            if len(writers) > 1:
                yield f"'{name}' is taken as '{writers[-1].key}' ({writers[-1].type}) leaves it"
        for name, value in zip(self.change.outputs, self.roots, strict=True):
            reader = next((i for i in self.wiring.readers.get(value, ()) if i in self.live), None)
            if reader is not None:
                key = self.nodes[reader].key
                yield f"'{name}' is read by '{key}': to be fetched by name, as no output of the network"
        hidden = {self.wiring.sources[i][k] for i, left in self.silenced.items() for k in left}
        for i in sorted(self.live - set(self._trimmed())):
            for k, name in enumerate(self.nodes[i].outputs):
                if Value(i, k) not in self.read | hidden:
                    yield f"'{name}' is an output too: '{self.nodes[i].key}' makes it beside what is needed"


def _slots(layer: Layer, slots: Collection[int]) -> Iterator[Field]:
    """Yield the fields of some bottoms of a Silence, or of some tops of an Input and their shapes."""
    name = "bottom" if layer.type == "Silence" else "top"
    yield from (field for k, field in enumerate(layer.message.named(name)) if k in slots)
    shapes = [field for block in layer.message.messages("input_param") for field in block.named("shape")]
    if len(shapes) == len(layer.tops):  # A single one is for all tops.
        yield from (field for k, field in enumerate(shapes) if k in slots)


def _input_fields(document: Document, numbers: Collection[int]) -> Iterator[Field]:
    """Yield the fields of the `input`s of these numbers, with their shapes."""
    net = document.message("NetParameter")
    for name, count in (("input", 1), ("input_shape", 1), ("input_dim", 4)):
        yield from (field for i, field in enumerate(net.named(name)) if i // count in numbers)


def _input_layers(document: Document, first: Layer, shapes: Mapping[str, Shape], taken: Collection[str]) -> Splice:
    """Return what puts Input layers, named like their blobs where no other layer is, before a layer."""
    start = first.field.start
    indent, step, end = margin(document, start) or "", unit(document), newline(document)
    lines = [
        line
        for name, shape in shapes.items()
        for line in (
            "layer {",
            f"{step}name: {quote(f'{name}_input' if name in taken else name)}",
            f'{step}type: "Input"',
            f"{step}top: {quote(name)}",
            f"{step}input_param {{ shape {{ {_dims(shape)} }} }}",
            "}",
        )
    ]
    return Splice(start, start, "".join(line + end + indent for line in lines))


def _as_fields(document: Document, first: Layer, shapes: Mapping[str, Shape]) -> Splice:
    """Return what puts `input` fields before a layer; of shapes the oldest Caffes know only those of four axes."""
    start, end = first.field.start, newline(document)
    names = [f"input: {quote(name)}" for name in shapes]
    if all(len(shape) == 4 for shape in shapes.values()):
        lines = [*names, *(f"input_dim: {n}" for shape in shapes.values() for n in shape)]
    else:
        lines = [*names, *(f"input_shape {{ {_dims(shape)} }}" for shape in shapes.values())]
    indent = margin(document, start) or ""
    return Splice(start, start, "".join(line + end + indent for line in lines))


def _dims(shape: Shape) -> str:
    return " ".join(f"dim: {size}" for size in shape)
