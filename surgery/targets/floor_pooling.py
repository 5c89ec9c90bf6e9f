"""Pooling that rounds its size down, for targets that only round up: what is too much is cut off behind it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from surgery.formats.caffe.layers.pooling import BOOL, pooled, window
from surgery.formats.caffe.network import Shape
from surgery.formats.caffe.text import Message, read_scalar
from surgery.targets.rewrite import UNSHAPED, Case
from surgery.targets.tree import Entry, block, fields_of, layer, with_block, without

ROUNDINGS = ("round_mode", "ceil_mode")
_DOWN = (("round_mode", "FLOOR"), ("ceil_mode", "false"))


def rewritten(case: Case) -> Sequence[Entry] | str:
    """Return the pooling in the target's own word for rounding down; else without one, cut where that is larger."""
    param, shape = case.param("pooling_param"), case.shapes.bottoms[0]
    if _rounds_up(param):
        return [_pooling(case)]
    for word in _DOWN:
        if case.target.knows_field("PoolingParameter", word[0]):
            return [_pooling(case, Entry(*word))]
    if shape is None:
        return UNSHAPED
    down, up = (pooled(shape[2:], *window(param, shape[2:]), rounds_up=is_up) for is_up in (False, True))
    if down == up:
        return [_pooling(case)]
    if len(case.layer.tops) > 1:
        return "its mask would count another row"
    return list(_cut(case, down, up))


def _rounds_up(param: Message) -> bool:
    if param.has("ceil_mode"):
        return bool(read_scalar(param.document, param.named("ceil_mode")[-1], BOOL))
    return param.str("round_mode") != "FLOOR"


def _pooling(case: Case, *words: Entry) -> Entry:
    kept = without(fields_of(case.fields, "pooling_param"), *ROUNDINGS)
    return Entry("layer", with_block(case.fields, Entry("pooling_param", (*kept, *words))))


def _cut(case: Case, down: Shape, up: Shape) -> Iterator[Entry]:
    """Yield the pooling that rounds up, a Slice for each axis that is too long, and a Silence for what it cuts off.

    The windows are the same up to the last: Caffe begins with the first at the front padding either way.
    """
    axes = [axis for axis in (0, 1) if down[axis] != up[axis]]
    first, *names = case.names(len(axes) + 2)
    blobs = [first, *names[: len(axes) - 1], case.layer.tops[0]]
    kept = without(fields_of(case.fields, "pooling_param"), *ROUNDINGS)
    yield layer(first, "Pooling", case.layer.bottoms, [first], Entry("pooling_param", kept))
    rests = [f"{name}_rest" for name in names[: len(axes)]]
    for axis, name, bottom, top, rest in zip(axes, names, blobs, blobs[1:], rests, strict=False):
        point = block("slice_param", axis=axis + 2, slice_point=down[axis])
        yield layer(name, "Slice", [bottom], [top, rest], point)
    yield layer(names[-1], "Silence", rests, [])
