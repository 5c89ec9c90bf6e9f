"""Losses and Accuracy: their first top is a scalar."""

from __future__ import annotations

from surgery.formats.caffe.layers.base import Setup, ShapeError, Shapes, axis_of, four, params, size, text
from surgery.formats.caffe.network import Layer, Shape


def loss(layer: Layer, bottoms: Shapes) -> Setup:
    """Return the setup of a loss that compares items of its first two bottoms."""
    _check_batch(bottoms)
    return Setup(((),))


def elementwise_loss(layer: Layer, bottoms: Shapes) -> Setup:
    """Return the setup of a loss that compares its bottoms number by number."""
    _check_batch(bottoms)
    if size(bottoms[0]) != size(bottoms[1]):
        raise ShapeError(f"bottoms are {text(bottoms[0])} and {text(bottoms[1])}; expected the same number of elements")
    return Setup(((),), scratch_floats=size(bottoms[0]))


def contrastive_loss(layer: Layer, bottoms: Shapes) -> Setup:
    """Return the setup of a ContrastiveLoss: two (N, C) bottoms and a label per pair."""
    _check_batch(bottoms)
    if four(bottoms[0])[1:] != four(bottoms[1])[1:] or four(bottoms[0])[2:] != (1, 1):
        raise ShapeError(f"bottoms are {text(bottoms[0])} and {text(bottoms[1])}; expected two (N, C)")
    return Setup(((),))


def softmax_loss(layer: Layer, bottoms: Shapes) -> Setup:
    """Return the setup of a SoftmaxWithLoss or InfogainLoss; a second top is the probability."""
    _check_batch(bottoms)
    owner = "infogain_loss_param" if layer.type == "InfogainLoss" else "softmax_param"
    _check_labels(bottoms, axis_of(bottoms[0], params(layer, owner).int("axis")))
    # The probability is a buffer of the layer, and a second top is a view of it.
    tops: Shapes = ((), bottoms[0])
    return Setup(tops, scratch_floats=size(bottoms[0]) if len(layer.tops) < 2 else 0)


def accuracy(layer: Layer, bottoms: Shapes) -> Setup:
    """Return the setup of an Accuracy; a second top has one number per class."""
    axis = axis_of(bottoms[0], params(layer, "accuracy_param").int("axis"))
    _check_labels(bottoms, axis)
    return Setup(((), (bottoms[0][axis],)))


def _check_batch(bottoms: Shapes) -> None:
    if bottoms[0][:1] != bottoms[1][:1] or not bottoms[0]:
        raise ShapeError(f"bottoms are {text(bottoms[0])} and {text(bottoms[1])}; expected the same first axis")


def _check_labels(bottoms: Shapes, axis: int) -> None:
    scores, labels = bottoms[:2]
    expected: Shape = scores[:axis] + scores[axis + 1 :]
    if size(labels) != size(expected):
        raise ShapeError(
            f"{size(labels)} labels for {text(scores)}; expected {size(expected)}, classes along axis {axis}"
        )
