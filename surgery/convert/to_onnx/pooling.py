"""Pooling and SPP: Caffe's own count of windows, spelled out as paddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import nan, prod

import numpy as np

from surgery.convert.to_onnx.graph import Graph
from surgery.convert.to_onnx.site import InexpressibleError, Site
from surgery.formats.caffe.layers import pooling as rules
from surgery.formats.caffe.network import Shape

LOWEST = float(np.finfo(np.float32).min)  # what Caffe gives for the maximum of no numbers


def pooling(site: Site, graph: Graph) -> tuple[str, ...]:
    """MaxPool or AveragePool; a mask of MAX counts within its plane, in float32."""
    param = site.param("pooling_param")
    foreign = rules.foreign(site.layer, param)
    if foreign is not None:
        raise InexpressibleError(foreign.reason or "")
    if site.is_in_place:
        raise InexpressibleError("in place it overwrites what it still has to read; give its top a name of its own")
    method, size = _method(param.str("pool")), site.shape()[2:]
    if param.bool("global_pooling") and len(site.tops) == 1:
        return (graph.op("GlobalMaxPool" if method == "MAX" else "GlobalAveragePool", site.inputs[0]),)
    kernel, stride, pad = rules.window(param, size)
    windows = _Windows(size, kernel, stride, pad, site.top()[2:])
    if len(site.tops) == 2:
        return _max_and_mask(graph, site.inputs[0], windows)
    return (_pooled(graph, site.inputs[0], method, windows),)


def spp(site: Site, graph: Graph) -> tuple[str, ...]:
    """Pool to 1, 4, 16, ... bins, and join these behind one another."""
    param, (batch, channels, *rest) = site.param("spp_param"), site.shape()
    method, size = _method(param.str("pool")), tuple(rest)
    parts = []
    for level in range(param.int("pyramid_height")):
        kernel, pad = rules.pyramid_window(size, 2**level)
        counts = rules.pooled(size, kernel, kernel, pad)
        value = _pooled(graph, site.inputs[0], method, _Windows(size, kernel, kernel, pad, counts))
        if param.int("pyramid_height") == 1:
            return (value,)  # A single level is not flattened.
        parts.append(graph.flatten(value, (batch, channels, *counts), 1)[0])
    return (graph.op("Concat", *parts, axis=1),)


def _method(method: str) -> str:
    if method not in ("MAX", "AVE"):
        raise InexpressibleError(f"pool {method} picks at random; Caffe itself cannot run it on the CPU")
    return method


@dataclass(frozen=True)
class _Windows:
    """Caffe's windows over a plane, one entry per axis: `counts` of them."""

    size: Shape
    kernel: Shape
    stride: Shape
    pad: Shape
    counts: Shape

    @property
    def inside(self) -> _Windows:
        """The windows that start in the plane or before it.

        Where the stride is larger than the kernel and nothing is padded, one more starts behind it.
        """
        counts = tuple(
            count - ((count - 1) * stride - pad >= size)
            for size, stride, pad, count in zip(self.size, self.stride, self.pad, self.counts, strict=True)
        )
        return replace(self, counts=counts)

    @property
    def ends(self) -> Shape:
        """How far the last windows reach beyond the plane."""
        return tuple(
            max(0, (count - 1) * stride + kernel - size - pad)
            for size, kernel, stride, pad, count in zip(
                self.size, self.kernel, self.stride, self.pad, self.counts, strict=True
            )
        )


def _pooled(graph: Graph, value: str, method: str, windows: _Windows) -> str:
    if method == "AVE":
        return _average(graph, value, windows)
    inside = windows.inside
    pads = [*windows.pad, *inside.ends]
    found = graph.op("MaxPool", value, kernel_shape=list(windows.kernel), strides=list(windows.stride), pads=pads)
    return _appended(graph, found, _missing(windows), LOWEST)


def _max_and_mask(graph: Graph, value: str, windows: _Windows) -> tuple[str, str]:
    inside, missing = windows.inside, _missing(windows)
    pads = [*windows.pad, *inside.ends]
    found, indices = graph.ops(
        "MaxPool", (value,), 2, kernel_shape=list(windows.kernel), strides=list(windows.stride), pads=pads
    )
    # ONNX counts through the whole tensor, Caffe from the start of each plane.
    plane = graph.constant(prod(windows.size), "int64", name="plane")
    mask = graph.cast(graph.op("Mod", indices, plane), "float32")
    return _appended(graph, found, missing, LOWEST), _appended(graph, mask, missing, -1.0)


def _average(graph: Graph, value: str, windows: _Windows) -> str:
    """Average as Caffe does: over the window clipped to the padded plane, padding before and behind alike.

    Caffe's own padding is an operator of its own: count_include_pad would count what lies beyond it too, and OpenCV
    does not read that attribute. What lies beyond, AveragePool pads and does not count.
    """
    begins, ends = windows.pad, windows.inside.ends
    value = graph.pad(value, (0, 0, *begins), (0, 0, *map(min, ends, begins)))
    beyond = [max(0, end - pad) for end, pad in zip(ends, begins, strict=True)]
    kernel, stride = list(windows.kernel), list(windows.stride)
    found = graph.op("AveragePool", value, kernel_shape=kernel, strides=stride, pads=[0, 0, *beyond])
    return _empty_averages(graph, found, windows)


def _empty_averages(graph: Graph, value: str, windows: _Windows) -> str:
    """Append the averages of windows behind the plane: 0 / 0 right behind it, 0 over a negative size further off."""
    missing = _missing(windows)
    starts = [(count - 1) * stride for count, stride in zip(windows.counts, windows.stride, strict=True)]
    touching = [start == size for start, size in zip(starts, windows.size, strict=True)]
    far = [more if not touches else 0 for more, touches in zip(missing, touching, strict=True)]
    near = [more if touches else 0 for more, touches in zip(missing, touching, strict=True)]
    # A zero size on either axis gives NaN, so these come last and cover the corner.
    return _appended(graph, _appended(graph, value, far, 0.0), near, nan)


def _missing(windows: _Windows) -> list[int]:
    return [all_ - inside for all_, inside in zip(windows.counts, windows.inside.counts, strict=True)]


def _appended(graph: Graph, value: str, counts: Sequence[int], fill: float) -> str:
    """Append rows and columns of `fill`."""
    return graph.pad(value, (0, 0, 0, 0), (0, 0, *counts), fill)
