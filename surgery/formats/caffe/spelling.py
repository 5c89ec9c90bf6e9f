"""How a chain of operations is written as Caffe layers in place of one: names, connections, prototxt text.

Only spellings that every Caffe since rc2 and its forks read alike are used: square kernels in one field, all others
in the six `_h`/`_w` fields, never a repeated pair (readers disagree on its order).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from surgery.formats.caffe.network import Layer
from surgery.formats.caffe.schema import kind_of, quote
from surgery.formats.caffe.text import Field, Message

if TYPE_CHECKING:
    from surgery.ops import Chain, Conv2d, Op

_ENUMS = {"Convolution": "CONVOLUTION", "InnerProduct": "INNER_PRODUCT"}
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
    """Return names for `length` layers in place of `name`: name_1, name_2, or name_cut1, ... where one is taken."""
    for middle in ("_", "_cut", *(f"_cut{i}_" for i in range(2, 1000))):
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


def blocks(layer: Layer, chain: Chain, connections: Sequence[Link], newline: str, indent: str) -> str:
    """Return the text of the new layers, in the layer's own generation, to stand where the layer stood."""
    texts = []
    for i, (op, link) in enumerate(zip(chain.ops, connections, strict=True)):
        lines = _lines(layer, op, link, first=i == 0, last=i == len(chain.ops) - 1)
        opener = "layer {" if layer.generation == 2 else "layers {"
        texts.append(newline.join([opener, *(indent + "  " + line for line in lines), indent + "}"]))
    return (newline + indent).join(texts)


def _lines(layer: Layer, op: Op, link: Link, *, first: bool, last: bool) -> list[str]:
    message = layer.message
    kind = quote(layer.type) if layer.generation == 2 else _ENUMS[layer.type]
    lines = [f"name: {quote(link.name)}", f"type: {kind}"]
    lines += [f"bottom: {quote(b)}" for b in link.bottoms] + [f"top: {quote(t)}" for t in link.tops]
    lines += _copied(message, _FIRST_ONLY) if first else []
    lines += _copied(message, _LAST_ONLY) if last else []
    lines += _multipliers(layer, with_bias=last and op.bias is not None, stage=link.name.removeprefix(layer.name))
    lines += _copied(message, _EVERY)
    if layer.type == "InnerProduct":
        lines += _inner_product(message.message("inner_product_param"), op, first=first)
    else:
        lines += _convolution(message.message("convolution_param"), op)
    if last:  # Fields of forks stay with the layer that keeps the top.
        lines += _copied(message, [f.name for f in message.fields if kind_of(message.type, f.name) is None])
    return lines


def _copied(message: Message, names: Iterable[str]) -> list[str]:
    """Return the slices of some fields on one line each."""
    return [_flat(message, field) for name in dict.fromkeys(names) for field in message.named(name)]


def _flat(message: Message, field: Field) -> str:

    if field.children is None:
        return f"{field.name}: {message.document.text[field.value_start : field.value_end]}"
    return " ".join([field.name, "{", *(_flat(message, child) for child in field.children), "}"])


def _multipliers(layer: Layer, *, with_bias: bool, stage: str) -> list[str]:
    """Return learning-rate and decay multipliers: the weight's for every factor, the bias's where the bias went.

    A name under which the weight could be shared gets the factor's suffix: no other layer has that blob now.
    """
    count = 2 if with_bias else 1
    message = layer.message
    if layer.generation == 2:
        lines = []
        for param in message.messages("param")[:count]:
            inside = [f"name: {quote(param.str('name') + stage)}"] if param.has("name") else []
            inside += _copied(param, [f.name for f in param.fields if f.name != "name"])
            lines.append(" ".join(["param {", *inside, "}"]))
        return lines
    names = [f"param: {quote(text + stage)}" for text in message.strs("param")[:count]]
    raw = [
        f"{f.name}: {message.document.text[f.value_start : f.value_end]}"
        for name in ("blobs_lr", "weight_decay")
        for f in message.named(name)[:count]
    ]
    return names + raw


def _inner_product(param: Message, op: Op, *, first: bool) -> list[str]:
    lines = [f"num_output: {op.out_channels}"]
    if param.has("axis"):
        # Counted from the end, the first factor's output has one axis left to multiply.
        axis = param.int("axis")
        lines.append(f"axis: {axis if first or axis >= 0 else -1}")
    return _block("inner_product_param", lines + _bias(param, op))


def _convolution(param: Message, op: Op) -> list[str]:
    from surgery.ops import Conv2d

    assert isinstance(op, Conv2d)
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
