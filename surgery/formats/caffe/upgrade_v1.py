"""V1 networks, `layers { type: CONVOLUTION }`, written as V2 (BVLC upgrade_proto.cpp, UpgradeV1Net)."""

from __future__ import annotations

from collections.abc import Iterator

from surgery.errors import ModelError
from surgery.formats.caffe.edit import appended, flat, removals, renamed
from surgery.formats.caffe.network import Layer, layers
from surgery.formats.caffe.schema import quote
from surgery.formats.caffe.text import Document, Field, Message, Splice, replacement

# Fields that were the data layers' own before transform_param, and the block they were in.
TRANSFORM_FIELDS = ("scale", "mean_file", "crop_size", "mirror")
_DATA_BLOCKS = {"Data": "data_param", "ImageData": "image_data_param", "WindowData": "window_data_param"}

# V1's parallel lists -> the field of V2's `param {}` that the i-th entry becomes.
PARAM_FIELDS = {"param": "name", "blob_share_mode": "share_mode", "blobs_lr": "lr_mult", "weight_decay": "decay_mult"}


def has_old_transforms(document: Document) -> bool:
    """Return whether a V1 data layer states scale, mean, crop or mirror outside transform_param."""
    return any(True for layer in layers(document) for _ in _old_transforms(layer))


def with_transform_param(document: Document) -> Document:
    """Return a V1 network with its data layers' scale, mean_file, crop_size and mirror in `transform_param`."""
    splices: list[Splice] = []
    for layer in layers(document):
        old = list(_old_transforms(layer))
        if old:
            splices += _moved(document, layer, old)
    return document.edited(splices) if splices else document


def _old_transforms(layer: Layer) -> Iterator[Field]:
    block = _DATA_BLOCKS.get(layer.type)
    if layer.generation == 1 and block:
        yield from (field for field in layer.message.message(block).fields if field.name in TRANSFORM_FIELDS)


def _moved(document: Document, layer: Layer, old: list[Field]) -> list[Splice]:
    blocks = layer.message.named("transform_param")
    if not blocks:
        inner = " ".join(flat(document, field) for field in old)
        return [*removals(document, old), appended(document, layer.field, f"transform_param {{ {inner} }}")]
    splices = removals(document, old)
    for field in old:
        stated = [child for child in blocks[-1].children or () if child.name == field.name]
        if stated:
            splices.append(replacement(stated[-1], document.text[field.value_start : field.value_end]))
        else:
            splices.append(appended(document, blocks[-1], flat(document, field)))
    return splices


def to_v2(document: Document) -> Document:
    """Return a V1 network as V2; its lists must be spelt out (`edit.without_lists`).

    Raises ModelError naming every layer whose type is none of V1's: a custom layer, which has no V2 name.
    """
    found = layers(document)
    unknown = [layer for layer in found if layer.type.startswith("V1:")]
    if unknown:
        names = ", ".join(f"'{layer.name}' ({layer.type.removeprefix('V1:')})" for layer in unknown)
        raise ModelError(
            f"{document.path}: V1 layers of a type that Caffe does not know: {names}; "
            'write them by hand as `layer { type: "..." }`, with the names your Caffe registers them under'
        )
    return document.edited([splice for layer in found for splice in _as_v2(document, layer)])


def _as_v2(document: Document, layer: Layer) -> Iterator[Splice]:
    start = layer.field.start
    yield Splice(start, start + len("layers"), "layer")
    for field in layer.message.named("type"):
        yield replacement(field, quote(layer.type))
    yield from _params(document, layer.message)


def _params(document: Document, layer: Message) -> list[Splice]:
    """Return the splices that write V1's parallel lists as `param {}` blocks, in place of the longest list."""
    lists = {name: layer.named(name) for name in PARAM_FIELDS}
    longest = max(lists.values(), key=len)
    splices = removals(document, [f for fields in lists.values() if fields is not longest for f in fields])
    for index, place in enumerate(longest):
        inner = [
            renamed(document, fields[index], PARAM_FIELDS[name])
            for name, fields in lists.items()
            if index < len(fields)
        ]
        splices.append(Splice(place.start, place.end, f"param {{ {' '.join(inner)} }}"))
    return splices
