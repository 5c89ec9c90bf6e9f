"""What OpenCV's importer and layers compute otherwise than Caffe, or refuse, and spellings that they read right.

Measured with OpenCV 4.14 against real Caffe, layer by layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from surgery.formats.caffe.layers.base import params
from surgery.formats.caffe.layers.pooling import window
from surgery.formats.caffe.network import Layer
from surgery.formats.caffe.schema import kind_of, spell
from surgery.formats.caffe.shapes import LayerShapes
from surgery.formats.caffe.text import Message, default_of
from surgery.targets.tree import Entry, Tree, fields_of, mapped, named, with_block

Found = Callable[[Layer, LayerShapes], str | None]


@dataclass(frozen=True)
class Limit:
    """Something that the target's layers of some types do not do.

    `found` returns what the layer has of it, None where it has nothing; `does` says what the target makes of that.
    """

    types: tuple[str, ...]
    found: Found
    does: str
    advice: str


def _field(block: str, name: str, is_wrong: Callable[[Message], bool]) -> Found:
    """Return a check that names the field where it is wrong."""

    def found(layer: Layer, _: LayerShapes) -> str | None:
        param = params(layer, block)
        if not is_wrong(param):
            return None
        values = ", ".join(str(value) for value in param.all(name)) if param.has(name) else "not stated"
        return f"{name} is {values} in {block}"

    return found


def _axes(layer: Layer, shapes: LayerShapes) -> str | None:
    shape = shapes.bottoms[0] if shapes.bottoms else None
    known = (2,) if layer.type == "Deconvolution" else (1, 2, 3)
    return None if shape is None or len(shape) - 2 in known else f"it slides over {len(shape) - 2} axes"


def _volume(layer: Layer, shapes: LayerShapes) -> str | None:
    shape = shapes.bottoms[0] if shapes.bottoms else None
    given = len(params(layer, "convolution_param").named("kernel_size"))
    return "one kernel_size for three axes" if shape is not None and len(shape) == 5 and given == 1 else None


def _other_axis(layer: Layer, shapes: LayerShapes) -> str | None:
    axis, shape = params(layer, "convolution_param").int("axis"), shapes.bottoms[0] if shapes.bottoms else None
    return None if axis == 1 or (shape is not None and axis + len(shape) == 1) else f"its channels are axis {axis}"


def _batch_statistics(layer: Layer, _: LayerShapes) -> str | None:
    param = params(layer, "batch_norm_param")
    is_off = param.has("use_global_stats") and not param.bool("use_global_stats")
    return "it takes the batch's statistics (use_global_stats: false)" if is_off else None


def _mask(layer: Layer, _: LayerShapes) -> str | None:
    return "a second top, the mask" if len(layer.tops) > 1 else None


def _outside(layer: Layer, shapes: LayerShapes) -> str | None:
    """Return that the last windows lie wholly behind the image, as they can without padding where stride > kernel."""
    bottom, top = shapes.bottoms[0], shapes.tops[0]
    if bottom is None or top is None or len(bottom) != 4 or len(top) != 4:
        return None
    _, stride, pad = window(params(layer, "pooling_param"), bottom[2:])
    starts = (((o - 1) * s, i + p) for o, s, i, p in zip(top[2:], stride, bottom[2:], pad, strict=True))
    return "windows without any pixel" if any(start >= end for start, end in starts) else None


def _alone(layer: Layer, _: LayerShapes) -> str | None:
    return "a single top" if len(layer.tops) == 1 else None


def _scalar(_: Layer, shapes: LayerShapes) -> str | None:
    return "its result has no axes" if shapes.tops[0] == () else None


def _biased_product(layer: Layer, _: LayerShapes) -> str | None:
    is_biased = len(layer.bottoms) > 1 and params(layer, "scale_param").bool("bias_term")
    return "two bottoms and a bias_term" if is_biased else None


def _k(param: Message) -> bool:
    return param.str("norm_region") == "ACROSS_CHANNELS" and param.float("k") != 1


_STOPS, _WRONG, _IGNORED = "OpenCV stops there", "OpenCV computes something else", "OpenCV passes over it"
_SLIDING = ("Convolution", "ConvolutionDepthwise", "Deconvolution")
_ELSEWHERE = "run the network elsewhere"

LIMITS = (
    Limit(("BatchNorm",), _batch_statistics, _STOPS, "train it with stored statistics"),
    Limit(_SLIDING, _axes, _STOPS, _ELSEWHERE),
    Limit(_SLIDING, _volume, _STOPS, "state kernel_size three times"),
    Limit(_SLIDING, _other_axis, _STOPS, _ELSEWHERE),
    Limit(
        ("Deconvolution",),
        _field("convolution_param", "dilation", lambda p: any(n != 1 for n in p.ints("dilation"))),
        _IGNORED,
        _ELSEWHERE,
    ),
    Limit(
        ("InnerProduct",),
        _field("inner_product_param", "transpose", lambda p: p.bool("transpose")),
        _IGNORED,
        "store the weight the other way round",
    ),
    Limit(("LRN",), _field("lrn_param", "k", _k), _IGNORED, _ELSEWHERE),
    Limit(("Log",), _field("log_param", "base", lambda p: p.float("base") != -1), _WRONG, _ELSEWHERE),
    Limit(
        ("MVN",), _field("mvn_param", "eps", lambda p: p.has("eps") and p.float("eps") != 1e-9), _IGNORED, _ELSEWHERE
    ),
    Limit(("Pooling",), _mask, "OpenCV counts its numbers otherwise", _ELSEWHERE),
    Limit(("Pooling",), _outside, "OpenCV gives other numbers there", "make the stride no larger than the kernel"),
    Limit(("Reshape",), _scalar, _STOPS, _ELSEWHERE),
    Limit(("Scale",), _biased_product, "OpenCV leaves the bias out", "add the bias behind it"),
    Limit(("Slice",), _alone, _STOPS, "leave the layer out"),
    Limit(("Swish",), _field("swish_param", "beta", lambda p: p.float("beta") != 1), _IGNORED, _ELSEWHERE),
)


def limits_of(layer: Layer, shapes: LayerShapes) -> list[tuple[str, Limit]]:
    """Return what the layer has that OpenCV does not do as Caffe does, with the limit."""
    own = ((limit.found(layer, shapes), limit) for limit in LIMITS if layer.type in limit.types)
    return [(found, limit) for found, limit in own if found is not None]


def _lrn(fields: Tree, layer: Layer, shapes: LayerShapes) -> Tree:
    """State every field: OpenCV's own defaults are others."""
    stated = fields_of(fields, "lrn_param")
    missing = []
    for name in ("local_size", "alpha", "beta", "norm_region", "k"):
        kind = kind_of("LRNParameter", name)
        default = default_of(kind) if kind else None
        if kind and default is not None and not named(stated, name):
            missing.append(Entry(name, spell(default, kind)))
    return with_block(fields, Entry("lrn_param", (*stated, *missing)))


def _sliding(fields: Tree, layer: Layer, shapes: LayerShapes) -> Tree:
    """State both paddings where one is: the other is 0."""
    stated = fields_of(fields, "convolution_param")
    alone = [name for name in ("pad_h", "pad_w") if not named(stated, name)]
    if len(alone) != 1:
        return fields
    return with_block(fields, Entry("convolution_param", (*stated, Entry(alone[0], "0"))))


def _concat(fields: Tree, layer: Layer, shapes: LayerShapes) -> Tree:
    return mapped(fields, "concat_param", lambda own: _renamed(own, "concat_dim"))


def _renamed(own: Tree, old: str) -> Tree:
    """Return a block with the field of old as `axis`, which means the same where it is not negative."""
    return tuple(Entry("axis", entry.value) if entry.name == old else entry for entry in own)


def _slice(fields: Tree, layer: Layer, shapes: LayerShapes) -> Tree:
    """State where to cut: OpenCV by itself cuts into as many parts as somebody reads."""
    own, shape = _renamed(fields_of(fields, "slice_param"), "slice_dim"), shapes.bottoms[0]
    if not named(own, "slice_point") and shape is not None and len(layer.tops) > 1:
        param = params(layer, "slice_param")
        size = shape[param.int("slice_dim") if param.has("slice_dim") else param.int("axis")] // len(layer.tops)
        own = (*own, *(Entry("slice_point", str(i * size)) for i in range(1, len(layer.tops))))
    return with_block(fields, Entry("slice_param", own))


def _scale(fields: Tree, layer: Layer, shapes: LayerShapes) -> Tree:
    """Count the axis from the front."""
    axis, shape = params(layer, "scale_param").int("axis"), shapes.bottoms[0]
    if axis >= 0 or shape is None:
        return fields
    front = Entry("axis", str(axis + len(shape)))
    return mapped(fields, "scale_param", lambda own: tuple(front if e.name == "axis" else e for e in own))


def _reshape(fields: Tree, layer: Layer, shapes: LayerShapes) -> Tree:
    """State the whole shape where the layer puts axes between others, or takes some away."""
    param, top = params(layer, "reshape_param"), shapes.tops[0]
    if top is None or (param.int("axis") >= 0 and param.int("num_axes") and param.message("shape").has("dim")):
        return fields
    dims = tuple(Entry("dim", str(size)) for size in top)
    return with_block(fields, Entry("reshape_param", (Entry("shape", dims),)))


Spelling = Callable[[Tree, Layer, LayerShapes], Tree]

SPELLINGS: Mapping[str, Spelling] = {
    "Concat": _concat,
    "Convolution": _sliding,
    "ConvolutionDepthwise": _sliding,
    "Deconvolution": _sliding,
    "LRN": _lrn,
    "Reshape": _reshape,
    "Scale": _scale,
    "Slice": _slice,
}


def respelt(fields: Tree, layer: Layer, shapes: LayerShapes) -> Tree:
    """Return a layer's fields as OpenCV reads them right; a layer that Caffe refuses stays as it is."""
    spelling = SPELLINGS.get(layer.type)
    return fields if spelling is None or shapes.is_invalid else spelling(fields, layer, shapes)
