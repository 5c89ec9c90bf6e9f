"""Where training takes hold of a network: where it ends, and what is in the place of the layers that were cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from surgery.errors import PlanError
from surgery.formats.wiring import Value, Wiring
from surgery.model import Model, Node, Shape

_VIEWS = ("Dropout", "Flatten", "Reshape")


@dataclass(frozen=True)
class Ends:
    """Where a network ends: the blob of its logits, the shape of that, and the Softmax layer to be left out."""

    logits: str
    shape: Shape
    softmax: str | None


def ends(model: Model, logits: str | None) -> Ends | None:
    """Return where a network ends, at the blob `logits` where it is given; None where it has several outputs.

    Raises PlanError for a blob that is not there, or has no axis of classes.
    """
    wiring, outputs = Wiring(model.nodes), model.format.outputs(model)
    if logits is None:
        if len(outputs) != 1:
            return None
        logits = _before_softmax(wiring, outputs[0])
    place = wiring.final.get(logits)
    if place is None:
        raise PlanError(f"no layer makes a blob '{logits}'; the outputs are {', '.join(outputs)}")
    readers = (node for node in model.nodes if node.type == "Softmax" and node.inputs == (logits,))
    softmax = next((node for node in readers if node.outputs[0] in outputs), None)
    shape = model.format.facts(model)[model.nodes[place.node].key].shapes[place.slot]
    if shape is None or len(shape) < 2:
        raise PlanError(f"'{logits}' is {shape}; expected (images, classes) or more axes behind")
    return Ends(logits, shape, softmax.key if softmax else None)


def _before_softmax(wiring: Wiring, output: str) -> str:
    """Return what the Softmax reads that makes an output, views of it looked through; else the output itself."""
    value: Value | None = wiring.final[output]
    while value is not None:
        node = wiring.nodes[value.node]
        if node.type == "Softmax":
            return node.inputs[0]
        value = wiring.sources[value.node][0] if node.type in _VIEWS else None
    return output


@dataclass(frozen=True)
class Replaced:
    """The layers in the place of one that was cut, in running order, and the shape of what the last one makes."""

    layers: tuple[str, ...]
    shape: Shape


def replaced(cut: Model, teacher: Model, keys: Sequence[str]) -> dict[str, Replaced]:
    """Return, for each layer that was cut, what is in its place.

    The last of those layers makes the blob that the layer made; between it and the first is none that the original has.
    Raises PlanError for layers of which one of the networks has no such thing.
    """
    wiring = Wiring(cut.nodes)
    originals = {node.key: node for node in teacher.nodes}
    return {key: _replaced(cut, wiring, originals, key) for key in keys}


def _replaced(cut: Model, wiring: Wiring, originals: Mapping[str, Node], key: str) -> Replaced:
    if key not in originals:
        raise PlanError("its response cannot be matched: the original has no layer of that name", key)
    blob = originals[key].outputs[0]
    makers = (i for i, node in enumerate(cut.nodes) if node.outputs[:1] == (blob,) and blob not in node.inputs)
    place = next(makers, None)
    if place is None:
        raise PlanError(f"its response cannot be matched: no layer of the cut network makes '{blob}' as it does", key)
    names = [cut.nodes[place].key]
    facts = cut.format.facts(cut)[names[0]]
    if facts.shapes[0] is None:
        raise PlanError(f"its response cannot be matched: {facts.reason}", key)
    while (source := wiring.sources[place][0]) is not None and cut.nodes[source.node].key not in originals:
        place = source.node
        names.append(cut.nodes[place].key)
    return Replaced(tuple(reversed(names)), facts.shapes[0])
