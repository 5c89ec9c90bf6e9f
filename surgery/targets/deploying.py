"""A Caffe network as it is brought to any device: deployed, in V2's spelling, stripped, with the batch asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from surgery.errors import ModelError, PlanError
from surgery.formats.caffe import text
from surgery.formats.caffe.deploy import deploy
from surgery.formats.caffe.edit import flat
from surgery.formats.caffe.liveness import is_loss, is_source
from surgery.formats.caffe.netstate import NetState, is_active
from surgery.formats.caffe.network import Layer, Shape, input_names, layers
from surgery.formats.caffe.sources import shape_of
from surgery.formats.caffe.text import Document
from surgery.formats.caffe.upgrade import needs_upgrade, upgrade
from surgery.formats.caffe.weights import Weights
from surgery.targets.batches import rebatched
from surgery.targets.problem import Problem
from surgery.targets.stripping import stripped
from surgery.targets.tree import Tree, tree_of

_ANY_SHAPE = (1, 1, 1, 1)


@dataclass(frozen=True, eq=False)
class Deployed:
    """The network as a tree, what was done to it, and why it is not what it should be where it is not.

    With `is_shaped` false shapes are missing, and what follows from shapes cannot be judged.
    """

    tree: Tree
    changes: tuple[str, ...]
    problems: tuple[Problem, ...] = ()
    is_shaped: bool = True


def deployed(
    document: Document, stored: Weights | None, state: NetState, shapes: Mapping[str, Shape], batch: int
) -> Deployed:
    """Return the network that runs in `state`, brought into the form for devices.

    Raises ParseError and ModelError for a text that is no network.
    """
    text.check(document, "NetParameter")
    found = layers(document)
    steps = needs_upgrade(document)
    try:
        made, missing = _deployed(document, state, shapes)
        made = upgrade(made)
    except (ModelError, PlanError) as error:
        return _undeployed(document, state, str(error))
    tops = {top for layer in layers(made) for top in layer.tops}
    bare = [name for name in input_names(made) if name not in tops]  # Those with shapes are Input layers now.
    missing += [
        Problem(name, "input-without-shape", "the input states no shape", "", f"give --shape {name}=N,C,H,W")
        for name in bare
    ]
    weighted = None if stored is None else {entry.name for entry in stored.layers if entry.shapes}
    tree, stripping = stripped(tree_of(made), weighted)
    changes = [f"upgraded: {', '.join(steps)}"] if steps else []
    changes += _told(found, layers(made), state)
    tree, batching = rebatched(tree, batch)
    return Deployed(tree, (*changes, *stripping, *batching), tuple(missing), is_shaped=not missing)


def _deployed(document: Document, state: NetState, shapes: Mapping[str, Shape]) -> tuple[Document, list[Problem]]:
    """Return the deployed network, and the inputs for which no shape is stated; they have any."""
    try:
        return deploy(document, state, shapes), []
    except PlanError:
        unknown = dict(_unshaped(layers(upgrade(document)), shapes))
        if not unknown:
            raise
        made = deploy(document, state, {**shapes, **dict.fromkeys(unknown, _ANY_SHAPE)})
        fed = [top for layer in layers(made) if layer.type == "Input" for top in layer.tops]
        return made, [unknown[name] for name in dict.fromkeys(fed) if name in unknown]


def _unshaped(found: Sequence[Layer], shapes: Mapping[str, Shape]) -> list[tuple[str, Problem]]:
    result = []
    for layer in found:
        for slot, name in enumerate(layer.tops if not layer.bottoms else ()):
            try:
                shape_of(layer, slot, shapes)
            except PlanError as error:
                stated, _, advice = error.message.partition("; ")
                result.append((name, Problem(layer.name, "input-without-shape", stated, "", advice)))
    return result


def _undeployed(document: Document, state: NetState, reason: str) -> Deployed:
    """Return what of a network that cannot be deployed is neither data nor loss, so that it is judged as well."""
    try:
        found = layers(upgrade(document))
    except ModelError:
        found = ()
    kept = [
        layer
        for layer in found
        if not (layer.message.has("include") and layer.message.has("exclude")) and is_active(layer, state)
        if not is_loss(layer) and not is_source(layer, found)
    ]
    where, _, message = reason.partition(": ")
    problem = Problem(where, "not-deployable", message or where)
    if not kept:
        return Deployed((), (), (problem,), is_shaped=False)
    own = kept[0].message.document
    fields = tuple(layer.field for layer in kept)
    tree, _ = stripped(tree_of(Document(own.text, own.path, fields)), None)
    return Deployed(tree, (), (problem,), is_shaped=False)


def _told(before: Sequence[Layer], after: Sequence[Layer], state: NetState) -> list[str]:
    """Return what deploying did: what layers became, and how many of which type are gone."""
    # Of several of one name the one that runs counts, at the place of the first.
    old = {layer.name: layer for layer in before} | {layer.name: layer for layer in before if is_active(layer, state)}
    new = {layer.name: layer for layer in after}
    lines = [_became(old[name], new[name]) for name in old if name in new and old[name].type != new[name].type]
    gone = Counter(layer.type for name, layer in old.items() if name not in new)
    return lines + (["gone: " + ", ".join(f"{n} {kind}" for kind, n in sorted(gone.items()))] if gone else [])


def _became(old: Layer, new: Layer) -> str:
    """Return what a layer became, with what a data layer did to its images: whoever feeds the network must now."""
    document = old.message.document
    transforms = [flat(document, field) for field in old.message.named("transform_param") if field.children]
    return "; it had ".join([f"'{old.name}' ({old.type}) became {new.type}", *transforms])
