"""The ONNX twin of a model: a file that any part of can be run, and where in it the layers to be cut are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from surgery.errors import ConversionError, ModelError, PlanError
from surgery.folding import folding
from surgery.formats import load
from surgery.formats.wiring import Value, Wiring
from surgery.model import Model, Node, Refusal, Shape
from surgery.ops import Op, Scale
from surgery.ops.stack import stack


@dataclass(frozen=True, eq=False)
class Site:
    """A layer to be cut, in the twin.

    Attributes:
        key: the layer's key in the model.
        input: the tensor that it reads.
        output: the tensor that it makes.
        op: what it computes.
        pads: zeros before and behind the rows, and the columns; not always those of `op`, whose two ends are alike.
        scale: what is done to each channel of the output before anything else.
        relu: whether nothing but a ReLU reads what comes of that.
    """

    key: str
    input: str
    output: str
    op: Op
    pads: tuple[tuple[int, int], tuple[int, int]]
    scale: Scale | None
    relu: bool


@dataclass(frozen=True, eq=False)
class Twin:
    """An ONNX model, its inputs' shapes, and its sites in running order. `batch` is None where any size will do."""

    model: Model
    inputs: Mapping[str, Shape]
    batch: int | None
    sites: tuple[Site, ...]

    def with_batch(self, batch: int) -> Model:
        """Return the model for that many images at a time: what the file leaves open is then known throughout."""
        shapes = {name: (batch, *shape[1:]) for name, shape in self.inputs.items()}
        return load([self.model.native.graph.path], input_shapes=shapes)


def twin_of(model: Model, keys: Sequence[str], folder: Path) -> Twin:
    """Return the twin of a model without edits; that of a Caffe model is written into `folder`.

    Raises PlanError for a key that names no layer that can be cut, ConversionError for layers that have no equivalent,
    ModelError where the inputs have no shape.
    """
    unknown = next((key for key in keys if key not in {node.key for node in model.nodes}), None)
    if unknown is not None:
        raise PlanError(f"no layer is named '{unknown}'; `surgery inspect` lists the names")
    if model.format.name == "caffe":
        return _converted(model, keys, folder / "twin.onnx")
    run = model.format.runnable(model)
    if run.unready:
        raise ModelError(f"cannot be run: {run.unready}")
    free = all(info.shape and not isinstance(info.shape[0], int) for info in model.native.graph.inputs)
    places = {model.node(key).outputs[0]: key for key in keys}
    return Twin(model, run.inputs, None if free else _batch(run.inputs), _sites(model, places))


def together(sites: Sequence[Site]) -> Site:
    """Return sites that read the same value as one, whose outputs are those of all, side by side.

    It goes by the name of the first.
    """
    if len(sites) == 1:
        return sites[0]
    scale = scales_together([site.scale for site in sites], [site.op.out_channels for site in sites])
    op = stack([site.op for site in sites])
    return replace(sites[0], op=op, scale=scale, relu=all(site.relu for site in sites))


def scales_together(scales: Sequence[Scale | None], rows: Sequence[int]) -> Scale | None:
    """Return the scale of stacked outputs, `rows` of each; None where none of them has any."""
    if not any(scales):
        return None
    each = [scale or Scale.of() for scale in scales]
    factor = np.concatenate([np.broadcast_to(scale.factor, n) for scale, n in zip(each, rows, strict=True)])
    shift = np.concatenate([np.broadcast_to(scale.shift, n) for scale, n in zip(each, rows, strict=True)])
    return Scale(factor, shift)


def _converted(model: Model, keys: Sequence[str], path: Path) -> Twin:
    from surgery.convert.to_onnx import to_onnx

    if model.native.weights is None:  # It would run with zeros.
        raise ModelError(f"{model.native.files[0]}: has no weights; give its .caffemodel as well")
    fixed = to_onnx(model)
    inputs = {each.name: _stated(each.shape) for each in fixed.inputs}
    batch: int | None = _batch(inputs)
    conversion = fixed
    with suppress(ConversionError, ModelError):  # Where shapes hang on the batch it stays as the file has it.
        conversion, batch = to_onnx(model, batch="dynamic"), None
    conversion.save(path)
    twin = load([path], input_shapes=inputs)
    holders = {name: origin.key for name, origin in conversion.weights.items() if origin.blob == 0}
    places: dict[str, str] = {}
    for node in twin.nodes:
        key = holders.get(node.inputs[1], "") if len(node.inputs) > 1 else ""
        if key in keys:
            if key in places.values():
                raise PlanError("runs more than once, so that its inputs are not those of one layer", key)
            places[node.outputs[0]] = key
    missing = next((key for key in keys if key not in places.values()), None)
    if missing is not None:
        raise PlanError("no part of the network's ONNX twin has its weights", missing)
    return Twin(twin, inputs, batch, _sites(twin, places))


def _stated(shape: Sequence[int | str | None] | None) -> Shape:
    return tuple(size for size in shape or () if isinstance(size, int))


def _batch(inputs: Mapping[str, Shape]) -> int:
    """Return the batch size that the inputs state."""
    sizes = {shape[0] for shape in inputs.values() if shape}
    if len(sizes) != 1:
        stated = ", ".join(f"'{name}' {shape}" for name, shape in inputs.items())
        raise ModelError(f"the inputs {stated or 'none'} have no batch axis in common; it must be the first of each")
    return sizes.pop()


def _sites(twin: Model, places: Mapping[str, str]) -> tuple[Site, ...]:
    """Return the sites in running order; `places` gives the key for the tensor that a site makes."""
    follows = _Behind(twin)
    return tuple(
        _site(twin, i, places[node.outputs[0]], follows)
        for i, node in enumerate(twin.nodes)
        if node.outputs and node.outputs[0] in places
    )


def _site(twin: Model, i: int, key: str, follows: _Behind) -> Site:
    node = twin.nodes[i]
    op = twin.format.lift(twin, node)
    if isinstance(op, Refusal):
        raise PlanError(f"cannot be cut: {op.reason}", key)
    pads = twin.native.file.lifted(node.key).pads or ((0, 0), (0, 0))
    scale, relu = follows(node)
    return Site(key, node.inputs[0], node.outputs[0], op, (pads[0], pads[1]), scale, relu)


class _Behind:
    """What follows each node of a twin."""

    def __init__(self, twin: Model) -> None:
        self.nodes = twin.nodes
        self.wiring = Wiring(twin.nodes)
        self.index = {node.key: i for i, node in enumerate(twin.nodes)}
        self.outputs = set(twin.format.outputs(twin))
        self.folds = {fold.key: fold for fold in folding(twin).folds}

    def __call__(self, node: Node) -> tuple[Scale | None, bool]:
        """Return the scale behind a node, and whether a ReLU alone reads what comes of it."""
        fold = self.folds.get(node.key)
        last = self.index[fold.absorbed[-1] if fold else node.key]
        readers = self.wiring.readers.get(Value(last, 0), ())
        is_inner = self.nodes[last].outputs[0] not in self.outputs
        relu = is_inner and len(readers) == 1 and self.nodes[readers[0]].type == "Relu"
        return (fold.scale if fold else None), relu
