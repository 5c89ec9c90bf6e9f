"""Caffe's Format: a prototxt and its weights as one model, cut by splicing text and replacing layers in the weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

from surgery.errors import ModelError
from surgery.formats.caffe import (
    convolve,
    extract,
    fold,
    join,
    meaning,
    merge,
    network,
    shapes,
    sharing,
    spelling,
    text,
    weights,
    write,
)
from surgery.formats.caffe.net import CaffeNet, Original
from surgery.formats.caffe.netstate import state_of
from surgery.formats.caffe.network import Layer, Shape
from surgery.formats.cuts import Cut, Made
from surgery.formats.wiring import Wiring
from surgery.model import (
    Convolve,
    Edit,
    Extract,
    Facts,
    Fold,
    Memory,
    Merge,
    Model,
    Node,
    Overwrite,
    PerChannel,
    Refusal,
    Reweigh,
    Runnable,
    Share,
    Splice,
    placeholder,
)
from surgery.ops import Chain, FloatArray, Op, Scale, Stage

MAX_COUNT = 2**31 - 1  # numbers in one blob
_MADE = "was made by a cut; save the model and load that"
_SCALES = "only scales each channel"


class CaffeFormat:
    """See `surgery.model.Format`."""

    name = "caffe"

    def lift(self, model: Model, node: Node) -> Op | Refusal:
        """Return the layer's operation, or why it has none that can be cut."""
        net: CaffeNet = model.native
        if isinstance(node.native, Made):
            stage = _stage(net, node.native)
            return Refusal(node.key, node.type, _SCALES) if isinstance(stage, Scale) else stage
        if node.key in net.reweighed:
            return net.reweighed[node.key]
        layer: Layer = node.native.layer
        reason = meaning.refusal(layer) or sharing.refusal(net, layer)
        result = reason or _op(net, layer, node.native.index)
        return Refusal(node.key, node.type, result) if isinstance(result, str) else result

    def edit(self, model: Model, edits: Sequence[Edit]) -> Model:
        """Return the model with the edits made, those of one kind in a row at once.

        Raises ModelError for a model without weights, unless the edits are `Extract`.
        """
        for kind, changes in groupby(edits, type):
            if model.native.weights is None and kind is not Extract:
                raise ModelError(f"{model.native.files[0]}: has no weights to cut; give its .caffemodel as well")
            model = _EDITS[kind](model, list(changes))
        return model

    def scale(self, model: Model, node: Node) -> PerChannel | Refusal | None:
        """Return how a BatchNorm, Scale, Bias or BN scales and shifts each channel, or why it does not."""
        if node.type not in fold.SCALES:
            return None
        made = _stage(model.native, node.native) if isinstance(node.native, Made) else None
        result = made if isinstance(made, Scale) else fold.scale(model.native, node)
        return Refusal(node.key, node.type, result) if isinstance(result, str) else PerChannel(result)

    def absorber(self, model: Model, node: Node) -> int | Refusal:
        """Return the output channels of a layer that can take in a scale behind it, or why it cannot."""
        result = _MADE if isinstance(node.native, Made) else fold.absorber(model.native, node)
        return Refusal(node.key, node.type, result) if isinstance(result, str) else result

    def convolvable(self, model: Model, keys: Collection[str]) -> tuple[tuple[str, ...], tuple[Refusal, ...]]:
        """Return which InnerProduct layers can become convolutions, and why the others cannot."""
        return convolve.convolvable(model.native, model.nodes, keys)

    def outputs(self, model: Model) -> tuple[str, ...]:
        """Return the blobs that no layer reads, as Caffe finds them."""
        return tuple(Wiring(model.nodes).loose)

    def facts(self, model: Model) -> Mapping[str, Facts]:
        """Return what is known of every node of an uncut model."""
        net: CaffeNet = model.native
        return {node.key: _facts(net, node) for node in model.nodes}

    def memory(self, model: Model) -> Memory | None:
        """Return what Caffe allocates to run the uncut model."""
        net: CaffeNet = model.native
        needed = shapes.memory(net.active, [net.inferred[id(layer)] for layer in net.active])
        if needed is None:
            return None
        return Memory(needed.weight_bytes, needed.activation_bytes, needed.column_bytes, needed.scratch_bytes)

    def runnable(self, model: Model) -> Runnable:
        """Return the inputs' shapes and the state; a data layer that needs files makes the model unready."""
        net: CaffeNet = model.native
        known: dict[str, Shape | None] = dict(network.inputs(net.document))
        for layer in net.active:
            if layer.type == "Input":
                known.update(zip(layer.tops, net.inferred[id(layer)].tops, strict=True))
            elif not layer.bottoms and layer.type not in ("DummyData", "Parameter"):
                return _runnable(net, {}, f"'{layer.name}' ({layer.type}) reads data; `surgery deploy` cuts it off")
        known |= {name: shape for name, shape in net.shapes.items() if name in known}
        missing = next((name for name, shape in known.items() if shape is None), None)
        reason = missing and f"input '{missing}' has no shape; give --shape {missing}=N,C,H,W"
        return _runnable(net, {name: shape for name, shape in known.items() if shape is not None}, reason)

    def made(self, model: Model) -> Mapping[str, tuple[str, ...]]:
        """Return the names of the layers that each cut layer became, those that it shares with others included."""
        return {name: cut.names for name, cut in model.native.cuts.items()}

    def notes(self, model: Model) -> Sequence[str]:
        """Return what was done on reading, the upgrade of V0 layers, and which weights no layer takes."""
        net: CaffeNet = model.native
        entries = net.weights.layers if net.weights else ()
        strangers = [entry.name for entry in entries if entry.shapes and entry.name not in net.by_name]
        if not strangers:
            return net.notes
        shown = ", ".join(strangers[:5]) + (", ..." if len(strangers) > 5 else "")
        return (*net.notes, f"{net.files[1].name}: {len(strangers)} layers that the prototxt lacks are kept: {shown}")

    def save(self, model: Model, folder: Path, stem: str) -> tuple[Path, ...]:
        """Write `<stem>.prototxt` and, with weights, `<stem>.caffemodel` or `.h5`."""
        net: CaffeNet = model.native
        target = folder / f"{stem}.prototxt"
        target.write_bytes(write.prototxt(net).encode("utf-8", "surrogateescape"))
        if net.weights is None:
            return (target,)
        ending = net.weights.path.suffix or ".caffemodel"
        blobs = folder / f"{stem}{ending}"
        net.weights.write(write.replacements(net), blobs)
        return target, blobs

    def digest(self, model: Model) -> str:
        """Return the SHA-256 over the digests of prototxt and weights."""
        return weights.file_digest(*model.native.files)


FORMAT = CaffeFormat()


def _stage(net: CaffeNet, made: Made) -> Stage:
    return net.cuts[made.origin].stages[made.stage]


def _runnable(net: CaffeNet, inputs: Mapping[str, Shape], unready: str | None) -> Runnable:
    return Runnable(inputs, net.state.phase, net.state.level, tuple(net.state.stages), unready)


def load(
    prototxt: Path,
    weight_file: Path | None = None,
    *,
    phase: str = "TEST",
    level: int | None = None,
    stages: Sequence[str] = (),
    input_shapes: Mapping[str, Shape] | None = None,
) -> Model:
    """Read a Caffe model; weights are mapped, not read.

    V0 layers are upgraded in memory, and a note says so. Raises ParseError for damaged files, ModelError for a pair
    that does not belong together.
    """
    document = text.read(prototxt)
    network.check_network(document)
    text.check(document, "NetParameter")
    layers = network.layers(document)
    opened = weights.read(weight_file) if weight_file else None
    notes = []
    if any(layer.generation == 0 for layer in layers):
        from surgery.formats.caffe.upgrade import upgrade_v0

        document = upgrade_v0(document)
        layers = network.layers(document)
        notes.append(f"{prototxt.name}: V0 layers were upgraded to V2")
    if isinstance(opened, weights.BinaryWeights) and opened.has_v0:
        opened = opened.upgraded()
        notes.append(f"{opened.path.name}: V0 layers were upgraded to V2")
    _check_inputs(document, layers, input_shapes or {})
    state = state_of(document, phase=phase, level=level, stages=stages)
    files = (prototxt, weight_file) if weight_file else (prototxt,)
    net = CaffeNet(files, document, layers, opened, state, dict(input_shapes or {}), tuple(notes))
    join.check(net.active, opened, {id(x): net.inferred[id(x)].blobs for x in net.active}, document.path)
    return Model(FORMAT, _nodes(net), net)


def _check_inputs(document: text.Document, layers: Sequence[Layer], shapes: Mapping[str, Shape]) -> None:
    """Raise ModelError for a shape given to a blob that the network does not have."""
    blobs = {*network.input_names(document), *(top for layer in layers for top in layer.tops)}
    for name in shapes:
        if name not in blobs:
            raise ModelError(f"{document.path}: a shape is given for '{name}'; the network has no blob of that name")


def copy(definition: Path | None, stored: Path | None, folder: Path, stem: str) -> tuple[Path, ...]:
    """Read the files, whatever their generation, and write them again as they are; return the new paths."""
    paths = []
    if definition is not None:
        document = text.read(definition)
        network.check_network(document)
        paths.append(folder / f"{stem}.prototxt")
        paths[-1].write_bytes(document.encode())
    if stored is not None:
        paths.append(folder / f"{stem}{stored.suffix}")
        weights.read(stored).write({}, paths[-1])
    return tuple(paths)


def _nodes(net: CaffeNet) -> tuple[Node, ...]:
    entries = {entry.name: i for i, entry in enumerate(net.weights.layers)} if net.weights else {}
    seen: Counter[str] = Counter()
    nodes = []
    for layer in net.active:
        seen[layer.name] += 1
        first = seen[layer.name] == 1  # Of layers of one name only the first gets weights.
        key = layer.name if first else f"{layer.name}#{seen[layer.name]}"
        source = Original(layer, entries.get(layer.name) if first else None)
        nodes.append(Node(key, layer.type, layer.bottoms, layer.tops, source))
    return tuple(nodes)


def _op(net: CaffeNet, layer: Layer, index: int | None) -> Op | str:
    inferred = net.inferred[id(layer)].blobs
    if net.weights is not None:
        if index is None:
            return f"'{net.weights.path.name}' holds no weights for it"
        reason = net.weights.refusal(index)
        if reason:
            return reason
        arrays: Sequence[FloatArray] = net.weights.arrays(index)
    elif inferred is not None:
        if any(meaning.count([shape]) > MAX_COUNT for shape in inferred):
            return f"a blob of its would hold more than {MAX_COUNT} numbers, which Caffe refuses"
        arrays = [placeholder(shape) for shape in inferred]
    else:
        return f"its shape is not known: {net.inferred[id(layer)].reason}"
    return meaning.as_op(layer, arrays) if arrays else "has no weights"


def _facts(net: CaffeNet, node: Node) -> Facts:
    inferred = net.inferred[id(node.native.layer)]
    blobs = inferred.blobs
    if net.weights is not None:
        blobs = net.weights.layers[node.native.index].shapes if node.native.index is not None else blobs or ()
    first = inferred.bottoms[0] if inferred.bottoms else None
    return Facts(
        shapes=inferred.tops,
        params=None if blobs is None else meaning.count(blobs),
        macs=inferred.macs,
        input_size=(first[2], first[3]) if first is not None and len(first) == 4 else None,
        column_bytes=4 * (inferred.column_floats or 0),
        reason=inferred.reason,
    )


def _each(edit: Callable[[Model, Any], Model]) -> Callable[[Model, Sequence[Any]], Model]:
    def all_of(model: Model, changes: Sequence[Any]) -> Model:
        for change in changes:
            model = edit(model, change)
        return model

    return all_of


def _splice(model: Model, change: Splice) -> Model:
    node, net = model.node(change.key), model.native
    layer = _whole(net, node)
    if any(isinstance(stage, Scale) for stage in change.chain.ops):
        _check_scales(layer)
    names = spelling.stems(layer.name, _taken(net), len(change.chain.ops))
    return _with_cut(model, node, Cut(change.chain.ops, tuple(names)))


def _taken(net: CaffeNet) -> Callable[[str], bool]:
    made = {name for cut in net.cuts.values() for name in cut.names}
    return lambda name: name in net.taken or name in made


def _share(model: Model, change: Share) -> Model:
    """Put the stem before the first of the nodes, and each head in the place of its node."""
    heads = dict(zip(change.keys, change.heads, strict=True))
    nodes = [node for node in model.nodes if node.key in heads]
    layers = [_whole(model.native, node) for node in nodes]
    reason = sharing.stem_refusal(model, nodes, layers)
    if reason:
        raise ModelError(
            f"{nodes[0].key}: cannot share factors with {', '.join(node.key for node in nodes[1:])}: {reason}"
        )
    if any(isinstance(stage, Scale) for chain in (change.stem, *change.heads) for stage in chain.ops):
        _check_scales(layers[0])
    stem = spelling.shared_stems(layers[0].name, _taken(model.native), len(change.stem.ops))
    for i, node in enumerate(nodes):
        own = spelling.stems(node.key, _taken(model.native), len(heads[node.key].ops))
        stages = (*change.stem.ops, *heads[node.key].ops)
        model = _with_cut(model, node, Cut(stages, (*stem, *own), len(stem) if i else 0))
    return model


def _whole(net: CaffeNet, node: Node) -> Layer:
    """Return the layer of a node that nothing was done to; raises ModelError."""
    if isinstance(node.native, Made):
        raise ModelError(f"{node.key}: was made by a cut; save the model and cut that, or merge first")
    if node.key in net.reweighed:
        raise ModelError(f"{node.key}: has other weights already; save the model and cut that")
    layer: Layer = node.native.layer
    return layer


def _check_scales(layer: Layer) -> None:
    """Raise ModelError where no Scale layer can stand between the layers that a layer becomes."""
    if layer.generation != 2:
        advice = "`surgery upgrade` the model first, or cut with form=folded"
        raise ModelError(f"{layer.name}: a Scale is to stand between its factors, which V1 lacks; {advice}")
    if len(layer.tops) > 1:
        advice = "a Scale between its factors has one; cut with form=folded"
        raise ModelError(f"{layer.name}: has {len(layer.tops)} tops, but {advice}")


def _with_cut(model: Model, node: Node, cut: Cut) -> Model:
    """Return the model with what a node became in its place."""
    layer, net = node.native.layer, model.native
    links = list(enumerate(spelling.links(layer, cut.names)))[cut.shared :]
    nodes = [
        Node(x.name, spelling.type_of(layer, cut.stages[i]), x.bottoms, x.tops, Made(layer.name, i)) for i, x in links
    ]
    return replace(model.replaced({node.key: nodes}), native=replace(net, cuts={**net.cuts, layer.name: cut}))


def _reweigh(model: Model, change: Reweigh) -> Model:
    key, op = change.key, change.op
    node, net = model.node(key), model.native
    if isinstance(node.native, Made):
        origin, stage = node.native.origin, node.native.stage
        changed = replace(net, cuts={**net.cuts, origin: net.cuts[origin].with_op(stage, op)})
        return replace(model, native=changed)
    old = model.format.lift(model, node)
    if not isinstance(old, Refusal) and (old.bias is None) != (op.bias is None):
        return _splice(model, Splice(key, Chain((op,))))
    return replace(model, native=replace(net, reweighed={**net.reweighed, key: op}))


def _restructured(model: Model, net: CaffeNet) -> Model:
    return replace(model, nodes=_nodes(net), native=net)


def _uncut(model: Model) -> CaffeNet:
    """Return the network; raises ModelError where layers of it were cut: their texts are not written yet."""
    net: CaffeNet = model.native
    if net.cuts or net.reweighed:
        raise ModelError(f"{next(iter({**net.cuts, **net.reweighed}))}: {_MADE}")
    return net


def _extract(model: Model, change: Extract) -> Model:
    return _restructured(model, extract.extracted(_uncut(model), model.nodes, change))


def _merge(model: Model, changes: Sequence[Merge]) -> Model:
    return _restructured(model, merge.merged(_uncut(model), {node.key: node for node in model.nodes}, changes))


def _fold(model: Model, changes: Sequence[Fold]) -> Model:
    return _restructured(model, fold.folded(_uncut(model), {node.key: node for node in model.nodes}, changes))


def _overwrite(model: Model, changes: Sequence[Overwrite]) -> Model:
    net = _uncut(model)
    numbers: dict[tuple[int, int], FloatArray] = {}
    for change in changes:
        *_, last = net.entries(change.key) or [-1]
        shapes = net.weights.layers[last].shapes if net.weights is not None and last >= 0 else ()
        for blob, array in change.blobs.items():
            if blob >= len(shapes) or meaning.count([shapes[blob]]) != array.size:
                raise ModelError(f"{change.key}: its weights have no blob {blob} of {array.size} numbers")
            numbers[last, blob] = array
    assert net.weights is not None
    return _restructured(model, replace(net, weights=net.weights.overwritten(numbers)))


def _convolve(model: Model, change: Convolve) -> Model:
    return _restructured(model, convolve.convolved(_uncut(model), model.nodes, change.keys))


_EDITS: dict[type, Callable[[Model, Sequence[Any]], Model]] = {
    Splice: _each(_splice),
    Share: _each(_share),
    Reweigh: _each(_reweigh),
    Overwrite: _overwrite,
    Extract: _each(_extract),
    Merge: _merge,
    Fold: _fold,
    Convolve: _each(_convolve),
}
