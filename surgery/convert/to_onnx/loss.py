"""Losses and Accuracy, where what they compare with is an input of the network.

Scores are brought to (items, classes, places): classes lie along the layer's axis, labels are (items, 1, places).
Caffe scales by `loss_weight` when it adds losses up, not the tops. Where versions of Caffe differ, as on ties, on what
SigmoidCrossEntropyLoss is divided by and on whether InfogainLoss takes scores, the rules are the master branch's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from surgery.convert.to_onnx.graph import Graph
from surgery.convert.to_onnx.site import InexpressibleError, Site
from surgery.formats.caffe.network import Shape
from surgery.formats.caffe.text import Message

_SMALLEST = float(np.finfo(np.float32).tiny)  # the floor of a probability in SoftmaxWithLoss
_FLOOR = 1e-20  # the same in the other losses
_FOREIGN = ("pre_fixed_normalizer", "weight_by_label_freqs", "class_weighting", "label_smoothing", "is_num_scale")


@dataclass(frozen=True)
class _Labels:
    """Labels as places among the classes, and which of them count, "" where all do; both (items, 1, places)."""

    places: str
    counted: str


def accuracy(site: Site, graph: Graph) -> tuple[str, ...]:
    """The share of labels with at most `top_k` scores as large as theirs, their own included; also by class."""
    param = site.param("accuracy_param")
    scores, shape = _classes_second(graph, site, param.int("axis"))
    labels = _labels(graph, site, shape, param)
    own = graph.op("GatherElements", scores, labels.places, axis=1)
    rivals = graph.cast(graph.op("GreaterOrEqual", scores, own), "float32")
    better = graph.reduce("ReduceSum", rivals, [1], keepdims=True)
    limit = graph.constant(param.int("top_k"), name="top_k")
    hits = graph.cast(graph.op("LessOrEqual", better, limit), "float32")
    if not labels.counted:
        overall = graph.reduce("ReduceMean", hits, [0, 1, 2], keepdims=False)
    else:
        overall = _ratio(graph, graph.op("Mul", hits, labels.counted), labels.counted, [0, 1, 2])
    if len(site.layer.tops) == 1:
        return (overall,)
    return overall, _by_class(graph, hits, labels, shape[1])


def _by_class(graph: Graph, hits: str, labels: _Labels, classes: int) -> str:
    """Return for each class the share of its labels that were hit, 0 where it has none."""
    numbers = graph.constant(np.arange(classes).reshape(1, classes, 1), "int64", name="classes")
    members = graph.cast(graph.op("Equal", labels.places, numbers), "float32")
    if labels.counted:
        members = graph.op("Mul", members, labels.counted)
    return _ratio(graph, graph.op("Mul", members, hits), members, [0, 2])


def _ratio(graph: Graph, part: str, whole: str, axes: Sequence[int]) -> str:
    """Return the sum of `part` over that of `whole`, which is a count, 0 where nothing counts."""
    parts = graph.reduce("ReduceSum", part, axes, keepdims=False)
    count = graph.reduce("ReduceSum", whole, axes, keepdims=False)
    return graph.op("Div", parts, graph.op("Max", count, graph.constant(1.0, name="one")))


def softmax_with_loss(site: Site, graph: Graph) -> tuple[str, ...]:
    """-log of the label's probability, at least FLT_MIN, averaged; a second top has the probabilities."""
    axis = site.param("softmax_param").int("axis")
    scores, shape = _classes_second(graph, site, axis)
    labels = _labels(graph, site, shape, _loss_param(site))
    probability = graph.op("Softmax", scores, axis=1)
    own = graph.op("GatherElements", probability, labels.places, axis=1)
    losses = graph.op("Neg", _log(graph, own, _SMALLEST))
    loss = _normalized(graph, losses, labels.counted, _mode(_loss_param(site)))
    return _with_probability(graph, site, loss, probability, shape)


def infogain_loss(site: Site, graph: Graph) -> tuple[str, ...]:
    """-log of every class's probability, weighted by the label's row of a matrix and averaged."""
    if len(site.inputs) < 3:
        source = site.param("infogain_loss_param").str("source")
        raise InexpressibleError(f"its matrix is in a file of its own, '{source}'; feed it as bottom 2")
    scores, shape = _classes_second(graph, site, site.param("infogain_loss_param").int("axis"))
    classes = shape[1]
    if prod(site.shape(2)) != classes**2:
        raise InexpressibleError(f"bottom 2 has {prod(site.shape(2))} numbers; expected {classes} x {classes}")
    labels = _labels(graph, site, shape, _loss_param(site))
    probability = graph.op("Softmax", scores, axis=1)
    matrix = graph.reshape(site.inputs[2], site.shape(2), (classes, classes))
    rows = graph.op("Gather", matrix, graph.squeeze(labels.places, [1]), axis=0)  # (items, places, classes)
    rows = graph.op("Transpose", rows, perm=[0, 2, 1])
    gains = graph.op("Mul", rows, _log(graph, probability, _FLOOR))
    losses = graph.op("Neg", graph.reduce("ReduceSum", gains, [1], keepdims=True))
    loss = _normalized(graph, losses, labels.counted, _mode(_loss_param(site)))
    return _with_probability(graph, site, loss, probability, shape)


def _with_probability(graph: Graph, site: Site, loss: str, probability: str, shape: Shape) -> tuple[str, ...]:
    if len(site.layer.tops) < 2:
        return (loss,)
    return loss, graph.reshape(probability, shape, site.shape())


def multinomial_logistic_loss(site: Site, graph: Graph) -> tuple[str, ...]:
    """-log of the label's probability, which is the bottom itself, averaged over the items."""
    values, shape = graph.flatten(site.inputs[0], site.shape(), 1)
    own = graph.op("GatherElements", values, _item_labels(graph, site, shape[0]), axis=1)
    return (_mean(graph, graph.op("Neg", _log(graph, own, _FLOOR)), 2),)


def hinge_loss(site: Site, graph: Graph) -> tuple[str, ...]:
    """The sum of max(0, 1 - x) for the label and max(0, 1 + x) for the others, or of squares, averaged over items."""
    values, shape = graph.flatten(site.inputs[0], site.shape(), 1)
    numbers = graph.constant(np.arange(shape[1]).reshape(1, -1), "int64", name="classes")
    is_own = graph.op("Equal", _item_labels(graph, site, shape[0]), numbers)
    signed = graph.op("Where", is_own, graph.op("Neg", values), values)
    margins = graph.op("Relu", graph.scaled(signed, 1.0, 1.0))
    norm = {"L1": "ReduceSum", "L2": "ReduceSumSquare"}[site.param("hinge_loss_param").str("norm")]
    return (_mean(graph, graph.reduce(norm, margins, [1], keepdims=False), 1),)


def euclidean_loss(site: Site, graph: Graph) -> tuple[str, ...]:
    """Half the squared distance, averaged over the items."""
    difference = _difference(graph, site)
    squares = graph.reduce("ReduceSumSquare", difference, [1], keepdims=False)
    return (graph.scaled(_mean(graph, squares, 1), 0.5),)


def contrastive_loss(site: Site, graph: Graph) -> tuple[str, ...]:
    """Half the squared distance of pairs that are alike, for the others what it lacks to `margin`, averaged."""
    param = site.param("contrastive_loss_param")
    difference = _difference(graph, site)
    squares = graph.reduce("ReduceSumSquare", difference, [1], keepdims=True)
    margin = graph.constant(param.float("margin"), name="margin")
    if param.bool("legacy_version"):
        apart = graph.op("Relu", graph.op("Sub", margin, squares))
    else:
        gap = graph.op("Relu", graph.op("Sub", margin, graph.op("Sqrt", squares)))
        apart = graph.op("Mul", gap, gap)
    labels = graph.reshape(site.inputs[2], site.shape(2), (site.shape()[0], 1))
    alike = graph.cast(graph.cast(labels, "int32"), "bool")  # Caffe takes the whole part: 0.5 is not alike.
    return (graph.scaled(_mean(graph, graph.op("Where", alike, squares, apart), 2), 0.5),)


def sigmoid_cross_entropy_loss(site: Site, graph: Graph) -> tuple[str, ...]:
    """-t log s(x) - (1 - t) log(1 - s(x)) for every number x and its target t, summed and normalized."""
    param = _loss_param(site)
    shape: Shape = (site.shape()[0], 1, prod(site.shape()[1:]))
    values = graph.reshape(site.inputs[0], site.shape(), shape)
    targets = graph.reshape(site.inputs[1], site.shape(1), shape)
    # max(x, 0) - x t + log(1 + e^-|x|): the first two cancel before the last, which may be small, is added, and that is
    # rounded as Caffe rounds it, unlike in Softplus.
    line = graph.op("Sub", graph.op("Relu", values), graph.op("Mul", values, targets))
    tail = graph.op("Exp", graph.op("Neg", graph.op("Abs", values)))
    losses = graph.op("Add", line, graph.op("Log", graph.scaled(tail, 1.0, 1.0)))
    mode = _mode(param) if param.has("normalization") or param.has("normalize") else "BATCH_SIZE"
    return (_normalized(graph, losses, _counted(graph, graph.cast(targets, "int32"), param), mode),)


def _loss_param(site: Site) -> Message:
    site.refuse_foreign("loss_param", *_FOREIGN)
    return site.param("loss_param")


def _mode(param: Message) -> str:
    """Return how the loss is normalized; `normalize` is the older field."""
    if not param.has("normalization") and param.has("normalize"):
        return "VALID" if param.bool("normalize") else "BATCH_SIZE"
    mode = param.str("normalization")
    if mode not in ("FULL", "VALID", "BATCH_SIZE", "NONE"):
        raise InexpressibleError(f"what a fork's normalization {mode} does is not known")
    return mode


def _classes_second(graph: Graph, site: Site, axis: int) -> tuple[str, Shape]:
    """Return bottom 0 as (items, classes, places) with the classes along `axis`, and that shape."""
    shape = site.shape()
    axis %= len(shape)
    three = (prod(shape[:axis]), shape[axis], prod(shape[axis + 1 :]))
    return graph.reshape(site.inputs[0], shape, three), three


def _labels(graph: Graph, site: Site, scores: Shape, param: Message) -> _Labels:
    shape = (scores[0], 1, scores[2])
    places = graph.cast(graph.reshape(site.inputs[1], site.shape(1), shape), "int64")
    counted = _counted(graph, places, param, "int64")
    if not counted:
        return _Labels(places, "")
    # A label that does not count need not be a class, often it is 255.
    inside = graph.op("Mul", places, graph.cast(counted, "int64"))
    return _Labels(inside, counted)


def _counted(graph: Graph, labels: str, param: Message, dtype: str = "int32") -> str:
    """Return 1 for every label that is not `ignore_label` and 0 for the others; "" where none is ignored."""
    if not param.has("ignore_label"):
        return ""
    ignored = graph.op("Equal", labels, graph.constant(param.int("ignore_label"), dtype, name="ignore_label"))
    return graph.cast(graph.op("Not", ignored), "float32")


def _item_labels(graph: Graph, site: Site, items: int) -> str:
    """Return the first `items` labels as places, (items, 1)."""
    shape = site.shape(1)
    value, count = site.inputs[1], prod(shape)
    if count != items:
        value = graph.reshape(value, shape, (count,))
        value, shape = graph.slice(value, [0], [0], [graph.fixed(items)]), (items,)
    return graph.cast(graph.reshape(value, shape, (items, 1)), "int64")


def _difference(graph: Graph, site: Site) -> str:
    """Return bottom 0 - bottom 1 as (items, numbers); bottom 1 may have another shape of that size."""
    first, shape = graph.flatten(site.inputs[0], site.shape(), 1)
    second = graph.reshape(site.inputs[1], site.shape(1), shape)
    return graph.op("Sub", first, second)


def _log(graph: Graph, value: str, floor: float) -> str:
    return graph.op("Log", graph.op("Max", value, graph.constant(floor, name="floor")))


def _mean(graph: Graph, value: str, axes: int) -> str:
    """Return the mean of a tensor of so many axes."""
    return graph.reduce("ReduceMean", value, range(axes), keepdims=False)


def _normalized(graph: Graph, losses: str, counted: str, mode: str) -> str:
    """Return the sum of `losses`, (items, 1, places), over what `mode` says.

    Where that depends on sizes alone it is spelt as a mean, which does for every batch.
    """
    if counted:
        losses = graph.op("Where", graph.cast(counted, "bool"), losses, graph.constant(0.0, name="nothing"))
    if mode == "VALID" and counted:
        return _ratio(graph, losses, counted, [0, 1, 2])
    if mode in ("VALID", "FULL"):
        return _mean(graph, losses, 3)
    if mode == "NONE":
        return graph.reduce("ReduceSum", losses, [0, 1, 2], keepdims=False)
    return _mean(graph, graph.reduce("ReduceSum", losses, [1, 2], keepdims=False), 1)
