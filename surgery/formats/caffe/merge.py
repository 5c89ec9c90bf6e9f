"""Make one layer of several that follow each other: its text in place of the first's, its blobs in place of theirs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from surgery.errors import ModelError
from surgery.formats.caffe import binary, meaning, network, sharing, spelling
from surgery.formats.caffe.changed import Entry, changed, origin
from surgery.formats.caffe.edit import margin, newline, removals, without_lists
from surgery.formats.caffe.net import CaffeNet
from surgery.formats.caffe.network import Layer
from surgery.formats.caffe.text import Document, Splice
from surgery.model import Merge, Node


def merged(net: CaffeNet, nodes: Mapping[str, Node], merges: Sequence[Merge]) -> CaffeNet:
    """Return the network with the merges made.

    Raises ModelError where layers do not follow each other, or where others need what is between them.
    """
    assert net.weights is not None
    runs = {merge: [_layer(nodes, key) for key in merge.keys] for merge in merges}
    for merge, run in runs.items():
        _check(net, merge, run)
    changes: dict[int, Entry | None] = {}
    for merge, run in runs.items():
        changes.update({index: None for layer in run for index in net.entries(layer.name)})
        index = net.entries(run[0].name)[-1]
        changes[index] = _entry(net, index, merge, run)
    document = without_lists(net.document, {"layer", "layers"})
    found = {layer.name: layer for layer in network.layers(document)}
    splices = (_text(document, merge, [found[layer.name] for layer in run]) for merge, run in runs.items())
    document = document.edited([splice for several in splices for splice in several])
    return replace(net, document=document, layers=network.layers(document), weights=changed(net.weights, changes))


def _layer(nodes: Mapping[str, Node], key: str) -> Layer:
    layer: Layer = nodes[key].native.layer
    return layer


def _check(net: CaffeNet, merge: Merge, run: Sequence[Layer]) -> None:
    reason = next(_refusals(net, merge, run), None)
    if reason:
        raise ModelError(f"{merge.name}: cannot be made of {', '.join(merge.keys)}: {reason}")


def _refusals(net: CaffeNet, merge: Merge, run: Sequence[Layer]) -> Iterator[str]:
    """Yield why layers cannot become one."""
    names = {layer.name for layer in run}
    yield from (f"another layer has the name '{name}'" for name in names if len(net.by_name[name]) > 1)
    stored = {entry.name for entry in net.weights.layers} if net.weights else set()
    if merge.name in {*net.by_name, *stored} - names:
        yield f"the name '{merge.name}' is taken"
    for layer in run:
        is_scale = layer.type == "Scale" and layer not in (run[0], run[-1])
        reason = None if is_scale else meaning.refusal(layer) or sharing.refusal(net, layer)
        yield from [f"'{layer.name}' {reason}"] if reason else []
        yield from [] if net.entries(layer.name) else [f"'{net.files[-1].name}' holds no weights for '{layer.name}'"]
    for layer, after in pairwise(run):
        if layer.tops != after.bottoms:
            yield f"'{after.name}' does not read '{layer.name}' alone"
        if spelling.states(layer) != spelling.states(after):
            yield f"'{after.name}' runs in another phase, level or stage than '{layer.name}'"
        readers = [other.name for other in net.layers if set(layer.tops) & {*other.bottoms, *other.tops}]
        others = [name for name in readers if name not in (layer.name, after.name)]
        yield from (f"'{name}' uses '{layer.tops[0]}' too" for name in others)


def _entry(net: CaffeNet, index: int, merge: Merge, run: Sequence[Layer]) -> Entry:
    assert net.weights is not None
    generation = net.weights.generation(index)
    head = binary.head(merge.name, run[0].type, run[0].bottoms, run[-1].tops, generation)
    blobs = spelling.blobs(merge.op)
    layer = binary.NewLayer(merge.name, head, generation, blobs, net.weights.is_legacy(index))
    return Entry(origin(net.weights, index), layer, run[0].type)


def _text(document: Document, merge: Merge, run: Sequence[Layer]) -> Iterator[Splice]:
    """Yield what puts the new layer in the first one's place; where nothing stands between them, in that of all."""
    first, *rest = (layer.field for layer in run)
    indent = margin(document, first.start) or ""
    made = spelling.merged(run[0], run[-1], merge.op, merge.name, newline(document), indent)
    is_one_piece = not any(document.text[a.end : b.start].strip() for a, b in pairwise([first, *rest]))
    yield Splice(first.start, rest[-1].end if is_one_piece else first.end, made)
    yield from () if is_one_piece else removals(document, rest)
