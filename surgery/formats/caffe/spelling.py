"""How a chain of operations is written as Caffe layers in place of one: names, connections, prototxt text.

Only spellings that every Caffe since rc2 and its forks read alike are used: square kernels in one field, all others
in the six `_h`/`_w` fields, never a repeated pair (readers disagree on its order).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from surgery.formats.caffe.network import Layer
from surgery.formats.caffe.schema import kind_of, quote
from surgery.formats.caffe.text import Field, Message
from surgery.formats.cuts import Cut
from surgery.ops import Conv2d, FloatArray, Op, Scale, Stage

_ENUMS = {"Convolution": "CONVOLUTION", "InnerProduct": "INNER_PRODUCT"}
_BLOCKS = {"Convolution": "convolution_param", "InnerProduct": "inner_product_param"}
_FIRST_ONLY = ("propagate_down",)
_LAST_ONLY = ("loss_weight",)
_EVERY = ("include", "exclude", "phase")


@dataclass(frozen=True)
class Link:
    """One of the new layers: its name and what it connects."""

    name: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]


def stems(name: str, taken: Callable[[str], bool], length: int) -> list[str]:
    """Return names for `length` layers in place of `name`: name_1, name_2, or name_cut1, ... where one is taken.

    One layer alone keeps the name.
    """
    if length == 1:
        return [name]
    return _numbered(name, ("_", "_cut", *(f"_cut{i}_" for i in range(2, 1000))), taken, length)


def shared_stems(name: str, taken: Callable[[str], bool], length: int) -> list[str]:
    """Return names for `length` layers whose result `name` and others share: name_shared1, name_shared2, ..."""
    return _numbered(name, ("_shared", *(f"_shared{i}_" for i in range(2, 1000))), taken, length)


def _numbered(name: str, middles: Iterable[str], taken: Callable[[str], bool], length: int) -> list[str]:
    for middle in middles:
        names = [f"{name}{middle}{i}" for i in range(1, length + 1)]
        if not any(taken(candidate) for candidate in names):
            return names
    raise AssertionError("a thousand layers of one name")


def links(layer: Layer, names: Sequence[str]) -> list[Link]:
    """Return the new layers' connections: the first has the layer's bottoms, the last its tops."""
    several = len(layer.tops) > 1
    result, bottoms = [], layer.bottoms
    for name in names[:-1]:
        tops = tuple(f"{name}_{i}" for i in range(1, len(layer.tops) + 1)) if several else (name,)
        result.append(Link(name, bottoms, tops))
        bottoms = tops
    return [*result, Link(names[-1], bottoms, layer.tops)]


def type_of(layer: Layer, stage: Stage) -> str:
    """Return the type of the new layer that is a stage of what `layer` became."""
    return "Scale" if isinstance(stage, Scale) else layer.type


def states(layer: Layer) -> list[str]:
    """Return what a layer says of the phases, levels and stages in which it runs."""
    return _copied(layer.message, _EVERY)


def blobs(stage: Stage) -> tuple[FloatArray, ...]:
    """Return the blobs of the new layer that is a stage."""
    if isinstance(stage, Scale):
        return (np.broadcast_to(stage.factor, stage.channels),)
    return (stage.weight,) if stage.bias is None else (stage.weight, stage.bias)


def blocks(layer: Layer, cut: Cut, newline: str, indent: str) -> str:
    """Return the text of the new layers, in the layer's own generation, to stand where the layer stood."""
    made = list(zip(cut.stages, links(layer, cut.names), strict=True))
    texts = []
    for i, (stage, link) in enumerate(made[cut.shared :], cut.shared):
        lines = _lines(layer, stage, link, first=i == 0, last=i == len(made) - 1)
        texts.append(_braced(layer, lines, newline, indent))
    return (newline + indent).join(texts)


def merged(front: Layer, back: Layer, op: Op, name: str, newline: str, indent: str) -> str:
    """Return the text of the layer that stands for `front` to `back` and all between, to stand where `front` stood.

    Of what both say, the weight's is the first's and the bias's is the last's, as a cut hands them out.
    """
    link = Link(name, front.bottoms, back.tops)
    params = [layer.message.message(_BLOCKS[layer.type]) for layer in (front, back)]
    lines = _head(front, front.type, link)
    lines += _copied(front.message, _FIRST_ONLY) + _copied(back.message, _LAST_ONLY)
    lines += _merged_multipliers(front, back, link.name, has_bias=op.bias is not None)
    lines += _copied(front.message, _EVERY)
    if isinstance(op, Conv2d):
        lines += _convolution(params[1], op)
    else:
        lines += _inner_product(params[0], params[1], op, first=True)
    return _braced(front, lines + _of_forks(back), newline, indent)


def _braced(layer: Layer, lines: Sequence[str], newline: str, indent: str) -> str:
    opener = "layer {" if layer.generation == 2 else "layers {"
    return newline.join([opener, *(indent + "  " + line for line in lines), indent + "}"])


def _head(layer: Layer, type_name: str, link: Link) -> list[str]:
    kind = quote(type_name) if layer.generation == 2 else _ENUMS[type_name]
    blobs = [f"bottom: {quote(bottom)}" for bottom in link.bottoms] + [f"top: {quote(top)}" for top in link.tops]
    return [f"name: {quote(link.name)}", f"type: {kind}", *blobs]


def _lines(layer: Layer, stage: Stage, link: Link, *, first: bool, last: bool) -> list[str]:
    message = layer.message
    lines = _head(layer, type_of(layer, stage), link)
    lines += _copied(message, _FIRST_ONLY) if first else []
    lines += _copied(message, _LAST_ONLY) if last else []
    lines += _multipliers(layer, count=len(blobs(stage)), stage=link.name.removeprefix(layer.name))
    lines += _copied(message, _EVERY)
    param = message.message(_BLOCKS[layer.type])
    if isinstance(stage, Scale):
        lines += _scale(layer, param)
    elif isinstance(stage, Conv2d):
        lines += _convolution(param, stage)
    else:
        lines += _inner_product(param, param, stage, first=first)
    return lines + (_of_forks(layer) if last else [])


def _of_forks(layer: Layer) -> list[str]:
    """Return the fields that only forks have: they stay with the layer that keeps the top."""
    message = layer.message
    return _copied(message, [field.name for field in message.fields if kind_of(message.type, field.name) is None])


def _copied(message: Message, names: Iterable[str]) -> list[str]:
    """Return the slices of some fields on one line each."""
    return [_flat(message, field) for name in dict.fromkeys(names) for field in message.named(name)]


def _flat(message: Message, field: Field) -> str:
    if field.children is None:
        return f"{field.name}: {message.document.text[field.value_start : field.value_end]}"
    return _braced_line(field.name, [_flat(message, child) for child in field.children])


def _scale(layer: Layer, param: Message) -> list[str]:
    """Return a Scale's parameters: it works along the axis on which the layer puts its channels."""
    axis = param.int("axis") if layer.type == "InnerProduct" else 1
    along = [] if axis == 1 else [f"axis: {max(axis, -1)}"]  # The product itself has one axis there.
    return _block("scale_param", [*along, "bias_term: false"])


def _multipliers(layer: Layer, *, count: int, stage: str) -> list[str]:
    """Return the multipliers of learning rate and decay for `count` blobs: each factor's are those of the weight.

    A bias where there was none learns as the weight does, without decay. A name under which the weight could be shared
    gets the factor's suffix: no other layer has that blob now.
    """
    message = layer.message
    lists = [lines[:count] for lines in _stated_multipliers(layer, "", stage)]
    if count == 1 or message.message(_BLOCKS[layer.type]).bool("bias_term"):
        return [line for lines in lists for line in lines]
    if layer.generation == 2:
        rate = [line for param in message.messages("param") for line in _copied(param, ["lr_mult"])]
        return [*lists[0], *([_braced_line("param", [*rate, "decay_mult: 0"])] if lists[0] else [])]
    names, rates, decays = lists
    return [*names, *rates, *rates, *decays, *(["weight_decay: 0"] if decays else [])]


def _stated_multipliers(layer: Layer, ending: str, new: str) -> list[list[str]]:
    """Return the lines for each blob that say its name and multipliers: one list in V2, three parallel ones in V1.

    Names get the ending `new` in place of `ending`.
    """
    message = layer.message
    if layer.generation == 2:
        return [[_param(param, param.str("name").removesuffix(ending) + new) for param in message.messages("param")]]
    names = [f"param: {quote(text.removesuffix(ending) + new)}" for text in message.strs("param")]
    return [names, _copied(message, ["blobs_lr"]), _copied(message, ["weight_decay"])]


def _param(param: Message, name: str) -> str:
    inside = [f"name: {quote(name)}"] if param.has("name") else []
    return _braced_line(
        "param", inside + _copied(param, [field.name for field in param.fields if field.name != "name"])
    )


def _braced_line(name: str, lines: Sequence[str]) -> str:
    return " ".join([name, "{", *lines, "}"])


def _merged_multipliers(front: Layer, back: Layer, name: str, *, has_bias: bool) -> list[str]:
    """Return the multipliers of the weight, the first layer's, and of the bias, the last's; names lose the suffix."""
    weight, bias = (_stated_multipliers(layer, layer.name.removeprefix(name), "") for layer in (front, back))
    pairs = zip(weight, bias, strict=True)
    return [line for one, other in pairs for line in (one[:1] or other[:1]) + (other[1:2] if has_bias else [])]


def _inner_product(front: Message, back: Message, op: Op, *, first: bool) -> list[str]:
    """Return the parameters: the axis is that of `front`, the fillers are those of `back`."""
    lines = [f"num_output: {op.out_channels}"]
    if front.has("axis"):
        # Counted from the end, the first factor's output has one axis left to multiply.
        axis = front.int("axis")
        lines.append(f"axis: {axis if first or axis >= 0 else -1}")
    return _block("inner_product_param", lines + _bias(back, op))


def _convolution(param: Message, op: Conv2d) -> list[str]:
    lines = [f"num_output: {op.out_channels}", *geometry(op)]
    lines += [f"group: {op.groups}"] if op.groups > 1 else []
    return _block("convolution_param", lines + _bias(param, op))


def geometry(op: Conv2d) -> list[str]:
    """Return the lines that state kernel, stride, padding and dilation."""
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = op.kernel, op.stride, op.padding, op.dilation
    if (kh, sh, ph) == (kw, sw, pw):
        lines = [f"kernel_size: {kh}"]
        lines += [f"stride: {sh}"] if sh != 1 else []
        lines += [f"pad: {ph}"] if ph else []
    else:
        sizes = {"kernel_h": kh, "kernel_w": kw, "stride_h": sh, "stride_w": sw, "pad_h": ph, "pad_w": pw}
        lines = [f"{name}: {value}" for name, value in sizes.items()]
    # Along an axis of one tap dilation means nothing: the other axis's value serves both.
    dh, dw = (dh if kh > 1 else dw), (dw if kw > 1 else dh)
    if kh == kw == 1:
        return lines
    if dh == dw:
        return lines + ([f"dilation: {dh}"] if dh != 1 else [])
    return [*lines, f"dilation: {dh}", f"dilation: {dw}"]


def _bias(param: Message, op: Op) -> list[str]:
    if op.bias is None:
        return ["bias_term: false", *_fillers(param, "weight_filler")]
    return _fillers(param, "weight_filler", "bias_filler")


def _fillers(param: Message, *names: str) -> list[str]:
    """Return the fillers' text; a bilinear filler fits square kernels of interpolation only."""
    return [line for name in names if param.message(name).str("type") != "bilinear" for line in _copied(param, [name])]


def _block(name: str, lines: Sequence[str]) -> list[str]:
    return [f"{name} {{", *("  " + line for line in lines), "}"]
