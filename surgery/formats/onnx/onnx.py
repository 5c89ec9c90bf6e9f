"""ONNX's Format: a graph and its weights as one model, cut by replacing fields of the file and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

from surgery.errors import ModelError
from surgery.formats.cuts import Cut, Made
from surgery.formats.onnx import (
    convolve,
    costs,
    extract,
    fold,
    graph,
    merge,
    overwrite,
    save,
    scales,
    sharing,
    spelling,
)
from surgery.formats.onnx.constants import FLOATS, is_constant
from surgery.formats.onnx.net import OnnxFile, OnnxNet
from surgery.formats.onnx.shapes import unbounded
from surgery.formats.onnx.source import shown
from surgery.formats.onnx.tensor import type_name
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
    Shape,
    Share,
    Splice,
)
from surgery.ops import Chain, Op, Scale, Stage

_MADE = "was made by a cut; save the model and load that"
_SCALES = "only scales each channel"


class OnnxFormat:
    """See `surgery.model.Format`."""

    name = "onnx"

    def lift(self, model: Model, node: Node) -> Op | Refusal:
        """Return the node's operation, or why it has none that can be cut."""
        net: OnnxNet = model.native
        if isinstance(node.native, Made):
            stage = _stage(net, node.native)
            return Refusal(node.key, node.type, _SCALES) if isinstance(stage, Scale) else stage
        if node.key in net.reweighed:
            return net.reweighed[node.key]
        result = net.file.lifted(node.key)
        return Refusal(node.key, node.type, result) if isinstance(result, str) else result.op

    def edit(self, model: Model, edits: Sequence[Edit]) -> Model:
        """Return the model with the edits made, those of one kind in a row at once."""
        for kind, changes in groupby(edits, type):
            model = _EDITS[kind](model, list(changes))
        return model

    def scale(self, model: Model, node: Node) -> PerChannel | Refusal | None:
        """Return how a BatchNormalization, or arithmetic with a constant, scales each channel, or why it does not."""
        if isinstance(node.native, Made):
            stage = _stage(model.native, node.native)
            return PerChannel(stage) if isinstance(stage, Scale) else None
        result = scales.scale(model.native, node.native)
        return Refusal(node.key, node.type, result) if isinstance(result, str) else result

    def absorber(self, model: Model, node: Node) -> int | Refusal:
        """Return the output channels of a node that can take in a scale behind it, or why it cannot."""
        result = _MADE if isinstance(node.native, Made) else fold.absorber(model.native, node.key)
        return Refusal(node.key, node.type, result) if isinstance(result, str) else result

    def convolvable(self, model: Model, keys: Collection[str]) -> tuple[tuple[str, ...], tuple[Refusal, ...]]:
        """Return which Gemm and MatMul nodes can become convolutions, and why the others cannot."""
        return convolve.convolvable(model.native, model.nodes, keys)

    def outputs(self, model: Model) -> tuple[str, ...]:
        """Return the names of the graph's outputs."""
        return tuple(info.name for info in model.native.graph.outputs)

    def facts(self, model: Model) -> Mapping[str, Facts]:
        """Return what is known of every node of an uncut model."""
        net: OnnxNet = model.native
        shapes, problem = net.file.inferred
        hint = problem or _hint(net)
        trained = costs.params(net.graph)
        result = {}
        for node in model.nodes:
            inner = net.file.keys[node.key]
            found = net.file.lifted(node.key)
            pads = None if isinstance(found, str) else found.pads
            result[node.key] = costs.facts(inner, shapes, trained[inner.index], pads, hint)
        return result

    def memory(self, model: Model) -> Memory | None:
        """Return what running the uncut model takes: weights and every tensor between nodes, as float32."""
        net: OnnxNet = model.native
        nodes = [net.file.keys[node.key] for node in model.nodes]
        return costs.memory(net.graph, net.file.inferred[0], sum(costs.params(net.graph).values()), nodes)

    def runnable(self, model: Model) -> Runnable:
        """Return the inputs' shapes; inputs of unknown sizes, and such as no random numbers do for, are not ready.

        Nor are functions without an end.
        """
        net: OnnxNet = model.native
        known: dict[str, Shape] = {}
        reason = unbounded(net.graph)
        for info in net.graph.inputs:
            sizes = net.file.input_shapes[info.name]
            if sizes is None or not all(isinstance(size, int) for size in sizes):
                reason = (
                    reason
                    or f"input '{shown(info.name)}' has no fixed shape; give --shape {_example(info.name, sizes)}"
                )
            else:
                known[info.name] = tuple(size for size in sizes if isinstance(size, int))
            if info.data_type not in FLOATS:
                held = "no tensor" if info.data_type is None else type_name(info.data_type)
                reason = reason or f"input '{shown(info.name)}' is {held}, for which no random values are drawn"
        return Runnable(known, "TEST", 0, (), reason)

    def made(self, model: Model) -> Mapping[str, tuple[str, ...]]:
        """Return the names of the nodes that each cut node became, those that it shares with others included."""
        return {key: cut.names for key, cut in model.native.cuts.items()}

    def notes(self, model: Model) -> Sequence[str]:
        """Return nothing: an ONNX file is read as it is."""
        return ()

    def save(self, model: Model, folder: Path, stem: str) -> tuple[Path, ...]:
        """Write `<stem>.onnx` and, for weights in a data file, `<stem>.onnx.data`."""
        return save.save(model.native, folder, stem)

    def digest(self, model: Model) -> str:
        """Return the SHA-256 over the digests of the file and its data files."""
        return save.digest(model.native.graph)


FORMAT = OnnxFormat()


def _stage(net: OnnxNet, made: Made) -> Stage:
    return net.cuts[made.origin].stages[made.stage]


def load(path: Path, input_shapes: Mapping[str, Shape] | None = None) -> Model:
    """Read an ONNX model; weights are mapped, not read.

    Raises ParseError for a damaged file, ModelError for one whose parts do not make a graph, or a shape given to what
    is no input.
    """
    net = OnnxNet(OnnxFile(graph.read(path), dict(input_shapes or {})))
    _ = net.file.input_shapes  # Raises for a shape given to no input.
    return _model(net)


def _model(net: OnnxNet) -> Model:
    nodes = tuple(
        Node(key, f"{node.domain}.{node.op_type}" if node.domain else node.op_type, node.inputs, node.outputs, node)
        for key, node in net.file.keys.items()
        if not is_constant(net.graph, node)
    )
    return Model(FORMAT, nodes, net)


def copy(path: Path, folder: Path, stem: str) -> tuple[Path, ...]:
    """Read a file and write it again as it is, its data files beside it; return the new paths."""
    return save.copy(graph.read(path), folder / f"{stem}.onnx")


def digest(path: Path) -> str:
    """Return the SHA-256 over the digests of the file and its data files."""
    return save.digest(graph.read(path))


def _hint(net: OnnxNet) -> str | None:
    for info in net.graph.inputs:
        sizes = net.file.input_shapes[info.name]
        if sizes is None or not all(isinstance(size, int) for size in sizes):
            return f"give --shape {_example(info.name, sizes)}"
    return None


def _example(name: str, sizes: tuple[int | str | None, ...] | None) -> str:
    if sizes is None:
        return f"{name}=N,C,H,W"
    letters = (str(size) if isinstance(size, int) else f"<{size or 'size'}>" for size in sizes)
    return f"{name}={','.join(letters)}"


def _splice(model: Model, change: Splice) -> Model:
    _check_whole(model, change.key)
    return _with_cut(model, change.key, model.native.cut(change.key, change.chain))


def _check_whole(model: Model, key: str) -> None:
    """Raise ModelError where something was done to a node already."""
    if isinstance(model.node(key).native, Made):
        raise ModelError(f"{key}: was made by a cut; save the model and cut that, or merge first")
    if key in model.native.reweighed:
        raise ModelError(f"{key}: has other weights already; save the model and cut that")


def _with_cut(model: Model, key: str, cut: Cut) -> Model:
    """Return the model with what a node became in its place."""
    net: OnnxNet = model.native
    links = list(enumerate(net.links(key, cut)))[cut.shared :]
    nodes = [Node(x.name, x.type, x.inputs, (x.output,), Made(key, i)) for i, x in links]
    return replace(model.replaced({key: nodes}), native=replace(net, cuts={**net.cuts, key: cut}))


def _share(model: Model, change: Share) -> Model:
    """Put the stem before the first of the nodes, and each head in the place of its node."""
    heads = dict(zip(change.keys, change.heads, strict=True))
    keys = [node.key for node in model.nodes if node.key in heads]
    for key in keys:
        _check_whole(model, key)
    reason = sharing.refusal(model, keys)
    if reason:
        raise ModelError(f"{keys[0]}: cannot share factors with {', '.join(keys[1:])}: {reason}")
    net: OnnxNet = model.native
    stem = spelling.shared_stems(net.file.keys[keys[0]], net.is_taken, len(change.stem.ops))
    for i, key in enumerate(keys):
        cut = model.native.cut(key, Chain((*change.stem.ops, *heads[key].ops)), stem)
        model = _with_cut(model, key, replace(cut, shared=len(stem) if i else 0))
    return model


def _reweigh(model: Model, change: Reweigh) -> Model:
    node, net = model.node(change.key), model.native
    if isinstance(node.native, Made):
        origin, stage = node.native.origin, node.native.stage
        changed = replace(net, cuts={**net.cuts, origin: net.cuts[origin].with_op(stage, change.op)})
        return replace(model, native=changed)
    if not spelling.same(change.op.bias, net.original(node.key).op.bias):
        return _splice(model, Splice(node.key, Chain((change.op,))))
    return replace(model, native=replace(net, reweighed={**net.reweighed, node.key: change.op}))


def _uncut(model: Model) -> OnnxNet:
    """Return the network; raises ModelError where nodes of it were cut: they are not written yet."""
    net: OnnxNet = model.native
    if net.cuts or net.reweighed:
        raise ModelError(f"{next(iter({**net.cuts, **net.reweighed}))}: {_MADE}")
    return net


def _each(edit: Callable[[Model, Any], Model]) -> Callable[[Model, Sequence[Any]], Model]:
    def all_of(model: Model, changes: Sequence[Any]) -> Model:
        for change in changes:
            model = edit(model, change)
        return model

    return all_of


_EDITS: dict[type, Callable[[Model, Sequence[Any]], Model]] = {
    Splice: _each(_splice),
    Share: _each(_share),
    Reweigh: _each(_reweigh),
    Overwrite: lambda model, changes: _model(overwrite.overwritten(_uncut(model), changes)),
    Extract: _each(lambda model, change: _model(extract.extracted(_uncut(model), change))),
    Fold: lambda model, changes: _model(fold.folded(_uncut(model), changes)),
    Merge: lambda model, changes: _model(merge.merged(_uncut(model), changes)),
    Convolve: _each(lambda model, change: _model(convolve.convolved(_uncut(model), change.keys))),
}
