"""Convolution, Deconvolution, Im2col and the forks' depthwise convolutions: one operator for each bottom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from surgery.convert.to_onnx.graph import Graph
from surgery.convert.to_onnx.site import InexpressibleError, Parameter, Site
from surgery.formats.caffe.layers.base import axis_of
from surgery.formats.caffe.layers.convolution import Window, window
from surgery.formats.caffe.network import Shape


def convolution(site: Site, graph: Graph) -> tuple[str, ...]:
    """Conv, with `group` as the file says."""
    place = _place(site)
    _check_in_place(site, place)
    return _each(site, graph, "Conv", place, _end_pads(place), site.param("convolution_param").int("group"))


def depthwise(site: Site, graph: Graph) -> tuple[str, ...]:
    """Conv with a group for each channel, whatever `group` says: the forks' layers do not read it."""
    place = _place(site)
    _check_in_place(site, place)
    return _each(site, graph, "Conv", place, _end_pads(place), place.shape[place.axis])


def deconvolution(site: Site, graph: Graph) -> tuple[str, ...]:
    """ConvTranspose, whose weights lie as Caffe's do."""
    place = _place(site)
    _check_in_place(site, place)
    return _each(site, graph, "ConvTranspose", place, place.slide.pad, site.param("convolution_param").int("group"))


def im2col(site: Site, graph: Graph) -> tuple[str, ...]:
    """Gather the rows, then the columns, then put the taps behind their channel.

    A Conv with one-hot weights would make NaN of infinite numbers, and its weights grow with the square of the kernel.
    """
    place = _place(site)
    if site.is_in_place:
        raise InexpressibleError("in place it overwrites what it still has to read; give its top a name of its own")
    slide, lead, rank = place.slide, place.axis + 1, len(place.shape)
    value = graph.pad(site.inputs[0], (*[0] * lead, *slide.pad), (*[0] * lead, *_end_pads(place)))
    for index, (kernel, count) in enumerate(zip(slide.kernel, place.counts, strict=True)):
        graph.affordable(kernel * count)
        taps = np.arange(kernel)[:, None] * slide.dilation[index] + np.arange(count) * slide.stride[index]
        value = graph.op("Gather", value, graph.constant(taps, "int64", name="taps"), axis=lead + 2 * index)
    # (..., C, kh, rows, kw, columns) -> (..., C, kh, kw, rows, columns)
    end = 2 * rank - lead
    order = (*range(lead), *range(lead, end, 2), *range(lead + 1, end, 2))
    if order != tuple(range(end)):
        value = graph.op("Transpose", value, perm=list(order))
    return (graph.reshape(value, (*place.shape[:lead], *slide.kernel, *place.counts), site.top()),)


@dataclass(frozen=True)
class _Place:
    """Where a window slides: the bottom's shape, its channel axis, the window, and its positions on each axis."""

    shape: Shape
    axis: int
    slide: Window
    counts: Shape

    @property
    def spatial(self) -> Shape:
        return self.shape[self.axis + 1 :]


def _place(site: Site) -> _Place:
    shape, param = site.shape(), site.param("convolution_param")
    axis = axis_of(shape, param.int("axis"))
    return _Place(shape, axis, window(param, len(shape) - axis - 1), site.top()[axis + 1 :])


def _end_pads(place: _Place) -> Shape:
    """Return the padding behind the input on each axis.

    It is the one before the input, unless the whole input is shorter than the window: Caffe, dividing towards zero,
    still gives one position, and reads zeros beyond the end.
    """
    slide = place.slide
    return tuple(
        max(pad, (count - 1) * stride + extent - size - pad)
        for size, count, stride, extent, pad in zip(
            place.spatial, place.counts, slide.stride, slide.extent, slide.pad, strict=True
        )
    )


def _check_in_place(site: Site, place: _Place) -> None:
    """Refuse what overwrites its input while it reads it; with a buffer for the columns, equal shapes are safe."""
    if site.is_in_place and (site.top() != place.shape or place.slide.is_pointwise):
        raise InexpressibleError("in place it overwrites what it still has to read; give its top a name of its own")


def _each(site: Site, graph: Graph, op_type: str, place: _Place, end_pads: Shape, group: int) -> tuple[str, ...]:
    """Add the operator for each bottom, the axes before the channels made one, as ONNX has a single batch axis."""
    slide, top = place.slide, site.top()
    # ONNX wants a spatial axis; without one, a window of one tap slides over an axis of one.
    ones = () if place.spatial else (1,)
    lead = prod(place.shape[: place.axis])
    inner, outer = (lead, *place.shape[place.axis :], *ones), (lead, *top[place.axis :], *ones)
    operands = _operands(site.blobs, graph, ones)
    results = []
    for value in site.inputs:
        found = graph.op(
            op_type,
            graph.reshape(value, place.shape, inner),
            *operands,
            kernel_shape=[*slide.kernel, *ones],
            strides=[*slide.stride, *ones],
            pads=[*(slide.pad if place.spatial else (0,)), *(end_pads if place.spatial else (0,))],
            dilations=[*slide.dilation, *ones],
            group=group,
        )
        results.append(graph.reshape(found, outer, top))
    return tuple(results)


def _operands(blobs: Sequence[Parameter], graph: Graph, ones: Shape) -> tuple[str, ...]:
    """Return the weight, with the axes `ones` behind it, and the bias if there is one."""
    weight = replace(blobs[0], array=blobs[0].array.reshape(blobs[0].array.shape + ones)) if ones else blobs[0]
    roles = ("weight", "bias")
    return tuple(graph.weight(blob, role) for blob, role in zip((weight, *blobs[1:]), roles, strict=False))
