"""Layers of newer Caffes and of forks written as stock layers that compute the same; each only where it is allowed.

"The same" is equality of real numbers. Where a rewrite adds and takes away a constant, float32 rounds at that
constant's size: 6 - (6 - x) is off by up to 5e-7, half a unit in the last place of 6 twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from surgery.formats.caffe.network import Layer
from surgery.formats.caffe.schema import quote
from surgery.targets import floor_pooling
from surgery.targets.rewrite import UNSHAPED, Case, Rewrite
from surgery.targets.tree import Entry, block, fields_of, layer, spelt, with_block, without

Stage = tuple[str, tuple[Entry, ...]]  # type and parameters of a layer that works number by number


def _power(scale: float, shift: float) -> Stage:
    return "Power", (block("power_param", scale=scale, shift=shift),)


_RELU: Stage = ("ReLU", ())


def _clamp(low: float, high: float) -> list[Stage]:
    """Max(low, min(x, high)): high - relu((high - low) - relu(x - low))."""
    first = [] if low == 0 else [_power(1.0, -low)]
    return [*first, _RELU, _power(-1.0, high - low), _RELU, _power(-1.0, high)]


def _chained(case: Case, stages: Sequence[Stage]) -> list[Entry]:
    """Return layers one behind the other, all but the first in place on the layer's top."""
    (bottom,), (top,) = case.layer.bottoms, case.layer.tops
    made = zip(case.names(len(stages)), stages, strict=True)
    return [layer(name, kind, [bottom if i == 0 else top], [top], *own) for i, (name, (kind, own)) in enumerate(made)]


def _gated(case: Case, stages: Sequence[Stage]) -> list[Entry] | str:
    """Return layers that compute x g(x), where g is the stages; x and g(x) are blobs of their own."""
    (bottom,), (top,) = case.layer.bottoms, case.layer.tops
    if bottom == top:
        return "it works in place, and the rewritten layers read its bottom twice: give its top a name of its own"
    *names, last = case.names(len(stages) + 1)
    gate = names[-1]
    inner = [
        layer(name, kind, [bottom if i == 0 else gate], [gate], *own)
        for i, (name, (kind, own)) in enumerate(zip(names, stages, strict=True))
    ]
    product = Entry("eltwise_param", (Entry("operation", "PROD"),))
    return [*inner, layer(last, "Eltwise", [bottom, gate], [top], product)]


def _relu6(case: Case) -> Sequence[Entry] | str:
    param = case.param("relu6_param")
    if param.float("negative_slope"):
        return "it has a negative_slope, which the rewritten layers lack"
    return _clipped(case, 0.0, param.float("threshold"))


def _clip(case: Case) -> Sequence[Entry] | str:
    param = case.param("clip_param")
    low, high = param.float("min"), param.float("max")
    if not (param.has("min") and param.has("max") and low <= high):
        return "its clip_param states no range"
    return _clipped(case, low, high)


def _clipped(case: Case, low: float, high: float) -> Sequence[Entry]:
    """Return the layers that clamp, in the shortest spelling that the target knows."""
    links = case.layer.bottoms, case.layer.tops
    if "Clip" in case.target.types:
        return [layer(case.layer.name, "Clip", *links, block("clip_param", min=low, max=high))]
    if "ReLU6" in case.target.types and (low, high) == (0.0, 6.0):
        return [layer(case.layer.name, "ReLU6", *links)]
    return _chained(case, _clamp(low, high))


def _hard_sigmoid(case: Case) -> Sequence[Entry] | str:
    param = case.param("hardsigmoid_param")
    return _chained(case, [_power(param.float("alpha"), param.float("beta")), *_clamp(0.0, 1.0)])


def _hard_swish(case: Case) -> Sequence[Entry] | str:
    if case.layer.message.has("hardswish_param"):
        return "what its fork's hardswish_param says is not known"
    return _gated(case, [_power(1 / 6, 0.5), *_clamp(0.0, 1.0)])


def _swish(case: Case) -> Sequence[Entry] | str:
    beta = case.param("swish_param").float("beta")
    return _gated(case, [*([] if beta == 1 else [_power(beta, 0.0)]), ("Sigmoid", ())])


def _depthwise(case: Case) -> Sequence[Entry] | str:
    """Return the layer as a Convolution of one group per channel: the weights are laid out alike."""
    shape, param = case.shapes.bottoms[0], case.param("convolution_param")
    outputs = param.int("num_output")
    if case.layer.type == "CuDNNGroupedConvolutionForward":
        groups = param.int("group")
    elif shape is not None:
        groups = shape[1]
        outputs = outputs or groups  # ConvolutionDepthwise makes as many as it reads, and need not say so.
    elif case.layer.type == "ConvolutionDepthwise" and outputs:
        groups = outputs
    else:
        return UNSHAPED
    own = with_block(case.fields, Entry("type", quote("Convolution")))
    kept = without(fields_of(own, "convolution_param"), "num_output", "group")
    counts = (Entry("num_output", spelt(outputs)), *kept, Entry("group", spelt(groups)))
    return [Entry("layer", with_block(own, Entry("convolution_param", counts)))]


def _axpy(case: Case) -> Sequence[Entry] | str:
    """Return a x + y as a Scale of x by `a` along the first two axes, and a sum."""
    (factor, x, y), (top,) = case.layer.bottoms, case.layer.tops
    shape = case.shapes.bottoms[0]
    if top in (factor, x, y):
        return "it works in place: give its top a name of its own"
    if shape is None:
        return UNSHAPED
    flat, scaled, name = case.names(3)
    return [
        layer(flat, "Flatten", [factor], [flat]),
        layer(scaled, "Scale", [x, flat], [scaled], block("scale_param", axis=0)),
        layer(name, "Eltwise", [scaled, y], [top]),
    ]


def _upsample(case: Case) -> Sequence[Entry] | str:
    """Return each pixel repeated as a Deconvolution with ones, which a filler makes: no weights are needed."""
    param, shape = case.param("upsample_param"), case.shapes.bottoms[0]
    factor = param.float("scale")
    if len(case.layer.bottoms) != 1:
        return "it puts numbers where a mask says, which no stock layer does"
    if [field.name for field in param.fields] != ["scale"] or factor != int(factor) or factor < 1:
        return "forks differ in what it does without a whole scale as its only parameter"
    if not case.profile.fills:
        return f"{case.profile.name} makes no weights from fillers"
    if shape is None:
        return UNSHAPED
    size, channels = int(factor), shape[1]
    counts = block("", num_output=channels, group=channels, bias_term=False, kernel_size=size, stride=size)
    ones = Entry("weight_filler", (Entry("type", quote("constant")), Entry("value", "1")))
    filled = Entry("convolution_param", (*counts.value, ones))
    # An entry of the old name in the weights would have no blobs, and Caffe stops at another number of them.
    name, _ = case.names(2)
    return [layer(name, "Deconvolution", case.layer.bottoms, case.layer.tops, filled)]


_DEPTHWISE_TYPES = ("ConvolutionDepthwise", "CuDNNGroupedConvolutionForward", "DepthwiseConvolution")

_ALL = (
    Rewrite("axpy", ("Axpy",), "Axpy as Flatten, Scale and Eltwise", _axpy),
    Rewrite("clip", ("Clip",), "Clip as ReLU and Power", _clip),
    Rewrite("depthwise", _DEPTHWISE_TYPES, "depthwise convolutions as Convolution with group", _depthwise),
    Rewrite(
        "floor-pooling",
        ("Pooling",),
        "Pooling that rounds down in the target's word for it, else as Pooling, Slice and Silence",
        floor_pooling.rewritten,
        fields=floor_pooling.ROUNDINGS,
    ),
    Rewrite("hard-sigmoid", ("HardSigmoid",), "HardSigmoid as Power and ReLU", _hard_sigmoid),
    Rewrite("hard-swish", ("HardSwish",), "HardSwish as Power, ReLU and Eltwise", _hard_swish),
    Rewrite("relu6", ("ReLU6",), "ReLU6 as ReLU and Power", _relu6),
    Rewrite("swish", ("Swish",), "Swish as Sigmoid and Eltwise", _swish),
    Rewrite("upsample", ("Upsample",), "Upsample by a whole factor as Deconvolution with ones", _upsample),
)

REWRITES: Mapping[str, Rewrite] = {rewrite.name: rewrite for rewrite in _ALL}


def rewrite_for(found: Layer) -> Rewrite | None:
    """Return the rewrite for a layer; there is one at most."""
    stated = {field.name for block in found.message.fields for field in block.children or ()}
    fitting = (rewrite for rewrite in _ALL if found.type in rewrite.types)
    return next((rewrite for rewrite in fitting if not rewrite.fields or stated & {*rewrite.fields}), None)
