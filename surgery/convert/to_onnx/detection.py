"""SSD's PriorBox and DetectionOutput: boxes on a grid, and those of them that are objects."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from surgery.convert.to_onnx.graph import Graph
from surgery.convert.to_onnx.site import Array, InexpressibleError, Site
from surgery.formats.caffe.layers.base import four
from surgery.formats.caffe.layers.detection import ratios
from surgery.formats.caffe.text import Message


def prior_box(site: Site, graph: Graph) -> tuple[str, ...]:
    """A constant: boxes in row 0 and their variances in row 1; it depends on shapes only."""
    param = site.param("prior_box_param")
    if site.tops[0] is None:
        raise InexpressibleError("it has TextBoxes' fields, and what these do is not known")
    graph.affordable(math.prod(site.top()))
    if not all(math.isfinite(float(size)) for name in ("min_size", "max_size") for size in param.all(name)):
        raise InexpressibleError("a min_size or max_size is no finite number")
    _, _, h, w = four(site.shape())
    image = _image(site, param)
    boxes = _boxes(param, (h, w), image)
    variances = [float(value) for value in param.all("variance")] or [0.1]
    if len(variances) not in (1, 4):
        raise InexpressibleError(f"it has {len(variances)} variances; expected 1 or 4")
    both = np.stack([boxes, np.resize(np.asarray(variances, np.float32), boxes.shape)])
    return (graph.constant(both[np.newaxis], name="priors"),)


def _image(site: Site, param: Message) -> tuple[int, int]:
    """Return the height and width of the image that the boxes are fractions of."""
    size = param.int("img_size")
    height, width = (param.int("img_h"), param.int("img_w")) if not size else (size, size)
    if height and width:
        return height, width
    if len(site.bottoms) < 2:
        raise InexpressibleError("it has neither img_size nor a second bottom for the image's size")
    return four(site.shape(1))[2:]


def _boxes(param: Message, grid: tuple[int, int], image: tuple[int, int]) -> Array:
    """Return the corners of all boxes, x before y, cell by cell, in the precision of SSD's own arithmetic."""
    steps = [param.float("step_h"), param.float("step_w")]
    if not all(steps):
        step = param.float("step")
        steps = [step, step] if step else [side / count for side, count in zip(image, grid, strict=True)]
    offset = np.float32(param.float("offset"))
    ys, xs = (
        (np.arange(count, dtype=np.float32) + offset) * np.float32(step)
        for count, step in zip(grid, steps, strict=True)
    )
    sizes = np.asarray(_sizes(param), np.float64)  # (boxes, 2), width before height
    centres = np.stack([np.broadcast_to(xs, grid), np.broadcast_to(ys[:, np.newaxis], grid)], -1).astype(np.float64)
    centres, half = centres[:, :, np.newaxis], sizes / 2
    corners = np.concatenate([centres - half, centres + half], -1) / np.asarray(2 * [image[1], image[0]])
    boxes: Array = corners.astype(np.float32).reshape(-1)
    return boxes.clip(0, 1) if param.bool("clip") else boxes


def _sizes(param: Message) -> list[tuple[float, float]]:
    """Return width and height of each box of a cell, in pixels; SSD cuts sizes to whole numbers."""
    larger = [int(float(value)) for value in param.all("max_size")]
    found: list[tuple[float, float]] = []
    for index, side in enumerate(int(float(value)) for value in param.all("min_size")):
        found.append((side, side))
        if larger:
            middle = float(np.float32(np.sqrt(np.float64(side * larger[index]))))
            found.append((middle, middle))
        for ratio in ratios(param)[1:]:
            if abs(ratio - 1.0) >= 1e-6:
                root, size = np.sqrt(np.float32(ratio)), np.float32(side)
                found.append((float(size * root), float(size / root)))
    return found


@dataclass(frozen=True)
class _Task:
    """What a DetectionOutput is asked to do, and over how many boxes."""

    param: Message
    batch: int
    classes: int
    priors: int

    @property
    def is_shared(self) -> bool:
        """Whether one box serves all classes."""
        return self.param.bool("share_location")

    @property
    def labels(self) -> list[int]:
        """The classes that can be found."""
        return [label for label in range(self.classes) if label != self.param.int("background_label_id")]

    @property
    def candidates(self) -> int:
        """How many boxes of a class go into the suppression."""
        nms = self.param.message("nms_param")
        top = nms.int("top_k") if nms.has("top_k") else -1
        return self.priors if top < 0 else min(top, self.priors)


def detection_output(site: Site, graph: Graph) -> tuple[str, ...]:
    """Decode the boxes, suppress each class's overlapping ones, keep the best, one row of seven numbers each.

    Candidates are sorted by score first, so rows come image by image, class by class, best first, as in SSD, and
    top_k counts before the suppression, where ONNX's operator counts after it.
    """
    task = _task(site)
    scores, boxes = _candidates(site, graph, task)
    labels, k = len(task.labels), task.candidates
    kept = _suppressed(graph, task, scores, boxes)
    limit = task.param.int("keep_top_k")
    if -1 < limit < labels * k:
        kept = _best(graph, task, scores, kept, limit)
    table = graph.reshape(kept, (task.batch, labels * k), (task.batch, labels, k))
    places = graph.op("Transpose", graph.op("NonZero", table), perm=[1, 0])
    rows = graph.op("Concat", *_columns(graph, task, scores, boxes, places), axis=1)
    rows = graph.op("Concat", rows, _nothing(site, graph, task, places), axis=0)
    return (graph.unsqueeze(rows, [0, 1]),)


def _task(site: Site) -> _Task:
    """Return the task; raises InexpressibleError for what SSD's forks do differently or ONNX cannot do."""
    param = site.param("detection_output_param")
    nms = param.message("nms_param")
    if not param.has("nms_param"):
        raise InexpressibleError("without nms_param SSD suppresses at 0.3 and its forks not at all; state nms_param")
    if nms.float("eta") < 1 and nms.float("nms_threshold") > 0.5:
        raise InexpressibleError("eta lowers the threshold box by box, which NonMaxSuppression cannot")
    if param.has("objectness_score"):
        raise InexpressibleError("RefineDet's objectness_score is not part of SSD")
    batch, classes = site.shape()[0], param.int("num_classes")
    task = _Task(param, batch, classes, four(site.shape(2))[2] // 4)
    if param.bool("share_location") and param.int("background_label_id") == -1:
        raise InexpressibleError("SSD finds no boxes where they are shared and background_label_id is -1")
    if not task.labels or not task.candidates or not param.int("keep_top_k"):
        raise InexpressibleError("it can find nothing: no class but the background, or top_k or keep_top_k is 0")
    return task


def _candidates(site: Site, graph: Graph, task: _Task) -> tuple[str, str]:
    """Return the best `candidates` of each class, sorted: scores (N, L, k) and boxes (N, L, k, 4)."""
    n, classes, priors, k = task.batch, task.classes, task.priors, task.candidates
    labels = len(task.labels)
    scores = graph.reshape(site.inputs[1], site.shape(1), (n, priors, classes))
    scores = _foreground(graph, task, graph.op("Transpose", scores, perm=[0, 2, 1]))
    scores, order = graph.ops("TopK", (scores, graph.integers([k])), 2, axis=2)
    if task.is_shared:
        boxes = _decoded(graph, task, graph.reshape(site.inputs[0], site.shape(), (n, priors, 4)), site, (1, priors, 4))
        order = graph.reshape(order, (n, labels, k), (n, labels * k))
        boxes = graph.op("GatherND", boxes, graph.unsqueeze(order, [2]), batch_dims=1)
        return scores, graph.reshape(boxes, (n, labels * k, 4), (n, labels, k, 4))
    places = graph.reshape(site.inputs[0], site.shape(), (n, priors, classes, 4))
    places = _foreground(graph, task, graph.op("Transpose", places, perm=[0, 2, 1, 3]))
    boxes = _decoded(graph, task, places, site, (1, 1, priors, 4))
    return scores, graph.op("GatherND", boxes, graph.unsqueeze(order, [3]), batch_dims=2)


def _foreground(graph: Graph, task: _Task, value: str) -> str:
    """Take the classes (axis 1) that can be found."""
    labels = task.labels
    if len(labels) == task.classes:
        return value
    if labels[-1] - labels[0] == len(labels) - 1:
        return graph.slice(value, [1], [labels[0]], [labels[-1] + 1])
    return graph.op("Gather", value, graph.integers(labels), axis=1)


def _decoded(graph: Graph, task: _Task, offsets: str, site: Site, spread: tuple[int, ...]) -> str:
    """Return the boxes that `offsets` (..., 4) make of the priors, in the order of SSD's own arithmetic."""
    both = graph.reshape(site.inputs[2], site.shape(2), (2, task.priors, 4))
    priors, variances = (graph.reshape(half, (1, task.priors, 4), spread) for half in graph.split(both, 0, [1, 1]))
    if not task.param.bool("variance_encoded_in_target"):
        offsets = graph.op("Mul", variances, offsets)
    axis = len(spread) - 1
    code = task.param.str("code_type")
    if code == "CORNER":
        return graph.op("Add", priors, offsets)
    low, high = graph.split(priors, axis, [2, 2])
    size = graph.op("Sub", high, low)
    if code == "CORNER_SIZE":
        return graph.op("Add", priors, graph.op("Mul", offsets, graph.op("Concat", size, size, axis=axis)))
    if code != "CENTER_SIZE":
        raise InexpressibleError(f"its fork's code_type {code} is not known to this tool")
    middle = graph.scaled(graph.op("Add", low, high), 0.5)
    shift, growth = graph.split(offsets, axis, [2, 2])
    centre = graph.op("Add", graph.op("Mul", shift, size), middle)
    half = graph.scaled(graph.op("Mul", graph.op("Exp", growth), size), 0.5)
    return graph.op("Concat", graph.op("Sub", centre, half), graph.op("Add", centre, half), axis=axis)


def _suppressed(graph: Graph, task: _Task, scores: str, boxes: str) -> str:
    """Return (N, L k): 1 where a candidate is above the threshold and overlaps no better one that stays, else 0."""
    n, labels, k = task.batch, len(task.labels), task.candidates
    param, flat = task.param, (task.batch * labels, k)
    low, high = graph.split(graph.reshape(boxes, (n, labels, k, 4), (*flat, 4)), 2, [2, 2])
    if param.str("code_type") != "CENTER_SIZE":
        # A box turned inside out overlaps nothing in SSD; ONNX would turn it back.
        high = graph.op("Max", low, high)
    inputs = [
        graph.op("Concat", low, high, axis=2),
        graph.reshape(scores, (n, labels, k), (n * labels, 1, k)),
        graph.constant([k], "int64", "candidates"),
        graph.constant([min(param.message("nms_param").float("nms_threshold"), 1.0)], name="overlap"),
    ]
    if param.has("confidence_threshold"):
        inputs.append(graph.constant([param.float("confidence_threshold")], name="confidence"))
    # (class of image, 0, candidate) of each box that stays
    found = graph.op("Gather", graph.op("NonMaxSuppression", *inputs), graph.integers([0, 2]), axis=1)
    none = graph.op("ConstantOfShape", graph.op("Shape", graph.reshape(scores, (n, labels, k), flat)))
    count = graph.slice(graph.op("Shape", found), [0], [0], [1])
    return graph.reshape(graph.op("ScatterND", none, found, _ones(graph, count)), flat, (n, labels * k))


def _best(graph: Graph, task: _Task, scores: str, kept: str, limit: int) -> str:
    """Return `kept` (N, L k) with the `limit` best of each image only."""
    n, labels, k = task.batch, len(task.labels), task.candidates
    scores = graph.reshape(scores, (n, labels, k), (n, labels * k))
    lowest = graph.constant(float(np.finfo(np.float32).min), name="lowest")
    scores = graph.op("Where", graph.cast(kept, "bool"), scores, lowest)
    order = graph.ops("TopK", (scores, graph.integers([limit])), 2, axis=1)[1]
    none = graph.op("ConstantOfShape", graph.op("Shape", kept))
    best = graph.op("ScatterElements", none, order, _ones(graph, graph.op("Shape", order)), axis=1)
    return graph.op("Mul", kept, best)


def _columns(graph: Graph, task: _Task, scores: str, boxes: str, places: str) -> list[str]:
    """Return image, label, score and corners of the candidates at `places` (M, 3)."""
    image, label = (graph.slice(places, [1], [axis], [axis + 1]) for axis in (0, 1))
    return [
        graph.cast(image, "float32"),
        graph.op("Gather", graph.constant(task.labels, name="labels"), label, axis=0),
        graph.unsqueeze(graph.op("GatherND", scores, places), [1]),
        graph.op("GatherND", boxes, places),
    ]


def _nothing(site: Site, graph: Graph, task: _Task, places: str) -> str:
    """Return a row (image, -1, ..., -1) for each image where no image has an object, else no row."""
    if graph.depends([task.batch]):
        batch = graph.squeeze(graph.slice(graph.op("Shape", site.inputs[0]), [0], [0], [1]), [0])
        images = graph.op("Range", graph.constant(0, "int64", "first"), batch, graph.constant(1, "int64", "step"))
        rows = graph.pad(graph.unsqueeze(graph.cast(images, "float32"), [1]), [0, 0], [0, 6], -1.0)
    else:
        graph.affordable(7 * task.batch)
        table = np.full((task.batch, 7), -1, np.float32)
        table[:, 0] = np.arange(task.batch)
        rows = graph.constant(table, name="nothing")
    count = graph.slice(graph.op("Shape", places), [0], [0], [1])
    is_empty = graph.cast(graph.op("Equal", count, graph.integers([0])), "int64")
    end = graph.op("Mul", is_empty, graph.integers([np.iinfo(np.int32).max]))
    return graph.op("Slice", rows, graph.integers([0]), end, graph.integers([0]))


def _ones(graph: Graph, shape: str) -> str:
    return graph.op("ConstantOfShape", shape, value=np.ones(1, np.float32))
