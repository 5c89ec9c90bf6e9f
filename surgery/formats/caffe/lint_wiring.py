"""Findings in how layers are connected: blobs nobody makes, made twice, or changed under another reader's eyes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from surgery.formats.caffe.finding import Finding
from surgery.formats.caffe.netstate import NetState
from surgery.formats.caffe.network import Layer, Shape
from surgery.formats.caffe.shapes import LayerShapes

Source = tuple[int, int]  # Layer and top that make a blob; layer -1 stands for the `input` fields.


def is_in_place(layer: Layer) -> bool:
    """Return whether the first top is the first bottom; Caffe compares equal positions only."""
    return bool(layer.tops) and layer.tops[:1] == layer.bottoms[:1]


def wiring_findings(
    layers: Sequence[Layer], idle: Sequence[Layer], inputs: Mapping[str, Shape | None]
) -> Iterator[Finding]:
    """Yield bottoms that no layer makes, and tops made twice, as Net::Init and InsertSplits meet them."""
    readers = _readers(layers, inputs)
    last: dict[str, Source] = {name: (-1, i) for i, name in enumerate(inputs)}
    for index, layer in enumerate(layers):
        for name in layer.bottoms:
            if name not in last:
                yield _unknown_bottom(name, index, layers, idle)
        before = dict(last)
        for slot, name in enumerate(layer.tops):
            matches = slot < len(layer.bottoms) and layer.bottoms[slot] == name
            if matches and name in before and len(readers[before[name]]) > 1:
                yield _read_before(layer, name, [layers[i].name for i in readers[before[name]] if i not in (-1, index)])
            elif not matches and name in last:
                maker = layers[last[name][0]].name if last[name][0] >= 0 else "an input"
                message = f"makes blob '{name}', which '{maker}' makes already; Caffe stops: give the top its own name"
                yield Finding("error", "blob-made-twice", layer.name, message)
            last[name] = (index, slot)
        if is_in_place(layer) and layer.type != "Dropout" and _is_input(layers, before.get(layer.tops[0])):
            message = f"works in place on the input '{layer.tops[0]}'; each run changes the data that was put in"
            yield Finding("note", "in-place-on-input", layer.name, message)


def _is_input(layers: Sequence[Layer], source: Source | None) -> bool:
    return source is not None and (source[0] < 0 or layers[source[0]].type == "Input")


def _readers(layers: Sequence[Layer], inputs: Mapping[str, Shape | None]) -> dict[Source, list[int]]:
    """Return who reads each version of a blob; -1 among them for its own loss weight, which Caffe splits off too."""
    last: dict[str, Source] = {name: (-1, i) for i, name in enumerate(inputs)}
    readers: dict[Source, list[int]] = {source: [] for source in last.values()}
    for index, layer in enumerate(layers):
        for name in layer.bottoms:
            if name in last:
                readers[last[name]].append(index)
        weights = [float(value) for value in layer.message.all("loss_weight")]
        for slot, name in enumerate(layer.tops):
            last[name] = (index, slot)
            readers[index, slot] = [-1] if slot < len(weights) and weights[slot] else []
    return readers


def _unknown_bottom(name: str, index: int, layers: Sequence[Layer], idle: Sequence[Layer]) -> Finding:
    later = next((layer.name for layer in layers[index:] if name in layer.tops), None)
    asleep = next((layer.name for layer in idle if name in layer.tops), None)
    if later is not None and later != layers[index].name:
        hint = f"'{later}' makes it further down: move that layer up"
    elif asleep is not None:
        hint = f"'{asleep}' makes it, which does not run in this phase, level and stage"
    else:
        hint = "correct the name"
    message = f"reads blob '{name}', which no layer before it makes; Caffe stops: {hint}"
    return Finding("error", "unknown-bottom", layers[index].name, message)


def _read_before(layer: Layer, name: str, others: Sequence[str]) -> Finding:
    who = f"'{others[0]}' reads it too" if others else "it has a loss weight or is read twice"
    message = f"works in place on '{name}', but {who}; Caffe stops: give the top its own name"
    return Finding("error", "read-before-in-place", layer.name, message)


def alias_findings(layers: Sequence[Layer], inferred: Sequence[LayerShapes], state: NetState) -> Iterator[Finding]:
    """Yield in-place layers that change memory which another blob shares and a later reader expects unchanged."""
    groups: dict[str, frozenset[str]] = {}
    last_read = {name: index for index, layer in enumerate(layers) for name in layer.bottoms}
    for index, (layer, shapes) in enumerate(zip(layers, inferred, strict=True)):
        if is_in_place(layer):
            name = layer.tops[0]
            changes = not (layer.type == "Dropout" and state.phase == "TEST")
            others = sorted(groups.get(name, frozenset()) - {name}) if changes else []
            hit = next((other for other in others if last_read.get(other, len(layers)) > index), None)
            if hit is not None:
                message = f"works in place on '{name}' and silently changes '{hit}' too: both are the same memory; "
                message += "give the top its own name"
                yield Finding("warning", "shared-memory-changed", layer.name, message)
        elif layer.bottoms and (shapes.shares_memory or layer.type == "Split"):
            shared = frozenset((layer.bottoms[0], *layer.tops)) | groups.get(layer.bottoms[0], frozenset())
            groups.update(dict.fromkeys(shared, shared))
