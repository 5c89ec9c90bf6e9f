"""Detection layers of SSD, Fast R-CNN and R-FCN."""

from __future__ import annotations

import ctypes

from surgery.formats.caffe.layers.base import Setup, ShapeError, Shapes, four, params, positive, text, unread
from surgery.formats.caffe.network import Layer
from surgery.formats.caffe.text import Message


def prior_box(layer: Layer, bottoms: Shapes) -> Setup:
    """Return the setup of a PriorBox: (1, 2, boxes * 4), boxes in row 0 and variances in row 1."""
    param = params(layer, "prior_box_param")
    foreign = unread(layer, param, "denser_prior_boxes", "offset_h", "offset_w")  # TextBoxes
    if foreign:
        return foreign
    sizes, larger = len(param.named("min_size")), len(param.named("max_size"))
    if not sizes or larger not in (0, sizes):
        raise ShapeError(f"{sizes} min_size and {larger} max_size; expected at least one, and as many max_size or none")
    _, _, h, w = four(bottoms[0])
    return Setup(((1, 2, h * w * (len(ratios(param)) * sizes + larger) * 4),))


def detection_output(layer: Layer, bottoms: Shapes) -> Setup:
    """Return the setup of a DetectionOutput: Caffe states one row of seven numbers until it has run."""
    param = params(layer, "detection_output_param")
    classes = positive(param.int("num_classes"), "num_classes")
    location, confidence, priors = map(four, bottoms[:3])
    count = priors[2] // 4
    boxes = 1 if param.bool("share_location") else classes
    for index, found, expected in ((0, location[1], count * boxes * 4), (1, confidence[1], count * classes)):
        if found != expected:
            raise ShapeError(
                f"bottom {index} is {text(bottoms[index])}; expected {expected} channels for {count} priors "
                f"and {classes} classes"
            )
    if location[0] != confidence[0]:
        raise ShapeError(f"bottoms are {text(bottoms[0])} and {text(bottoms[1])}; expected the same batch")
    return Setup(((1, 1, 1, 7),))


def roi_pooling(layer: Layer, bottoms: Shapes) -> Setup:
    """Return the setup of a ROIPooling: bottom 1 has five numbers per region."""
    return _pooled_regions(params(layer, "roi_pooling_param"), bottoms)


def roi_align(layer: Layer, bottoms: Shapes) -> Setup:
    """Return the setup of a ROIAlign."""
    return _pooled_regions(params(layer, "roi_align_param"), bottoms)


def psroi_pooling(layer: Layer, bottoms: Shapes) -> Setup:
    """Return the setup of a PSROIPooling: one group of channels per bin."""
    param = params(layer, "psroi_pooling_param")
    outputs = positive(param.int("output_dim"), "output_dim")
    group = positive(param.int("group_size"), "group_size")
    channels = four(bottoms[0])[1]
    if channels != outputs * group * group:
        raise ShapeError(f"{channels} input channels; expected output_dim * group_size^2 = {outputs * group * group}")
    return Setup(((four(bottoms[1])[0], outputs, group, group),))


def _pooled_regions(param: Message, bottoms: Shapes) -> Setup:
    height, width = positive(param.int("pooled_h"), "pooled_h"), positive(param.int("pooled_w"), "pooled_w")
    regions, *numbers = four(bottoms[1])
    if numbers not in ([5, 1, 1], [1, 1, 5], [1, 5, 1]):
        raise ShapeError(f"bottom 1 is {text(bottoms[1])}; expected five numbers per region")
    return Setup(((regions, four(bottoms[0])[1], height, width),))


def ratios(param: Message) -> list[float]:
    """Return the different aspect ratios in their order, 1 first, each followed by its inverse where it is flipped.

    They are of single precision, as SSD keeps them.
    """
    found = [1.0]
    for ratio in (_single(float(value)) for value in param.all("aspect_ratio")):
        if all(abs(ratio - known) >= 1e-6 for known in found):
            found.append(ratio)
            if param.bool("flip"):
                found.append(_single(1.0 / ratio) if ratio else ratio)
    return found


def _single(value: float) -> float:
    return ctypes.c_float(value).value
