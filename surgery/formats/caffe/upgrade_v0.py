"""V0 networks, `layers { layer { kernelsize: 3 } }`, written as V1 (BVLC upgrade_proto.cpp, UpgradeV0Net)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from surgery.errors import ModelError
from surgery.formats.caffe.edit import appended, cut, flat, gathered, margin, newline, noted, removals
from surgery.formats.caffe.network import V0_TYPES, V1_TYPES, Layer, layers
from surgery.formats.caffe.schema import kind_of
from surgery.formats.caffe.text import Document, Field, Splice, replacement

_WEIGHTED = {"conv": "convolution_param", "innerproduct": "inner_product_param"}
_WINDOWED = {"conv": "convolution_param", "pool": "pooling_param"}
_CONV, _POOL = {"conv": "convolution_param"}, {"pool": "pooling_param"}
_LRN, _DROPOUT, _CONCAT = {"lrn": "lrn_param"}, {"dropout": "dropout_param"}, {"concat": "concat_param"}
_IMAGES, _WINDOWS = {"images": "image_data_param"}, {"window_data": "window_data_param"}
_BATCHED = {"data": "data_param", "hdf5_data": "hdf5_data_param", **_IMAGES, **_WINDOWS}
_TRANSFORM = dict.fromkeys(V0_TYPES, "transform_param")

# V0 field -> its V1 name, and the block it moves to by the layer's type. On another type Caffe drops it.
MOVES: dict[str, tuple[str, Mapping[str, str]]] = {
    "num_output": ("num_output", _WEIGHTED),
    "biasterm": ("bias_term", _WEIGHTED),
    "weight_filler": ("weight_filler", _WEIGHTED),
    "bias_filler": ("bias_filler", _WEIGHTED),
    "pad": ("pad", _WINDOWED),
    "kernelsize": ("kernel_size", _WINDOWED),
    "group": ("group", _CONV),
    "stride": ("stride", _WINDOWED),
    "pool": ("pool", _POOL),
    "dropout_ratio": ("dropout_ratio", _DROPOUT),
    "local_size": ("local_size", _LRN),
    "alpha": ("alpha", _LRN),
    "beta": ("beta", _LRN),
    "k": ("k", _LRN),
    "source": ("source", {**_BATCHED, "infogain_loss": "infogain_loss_param"}),
    "scale": ("scale", _TRANSFORM),
    "meanfile": ("mean_file", _TRANSFORM),
    "batchsize": ("batch_size", _BATCHED),
    "cropsize": ("crop_size", _TRANSFORM),
    "mirror": ("mirror", _TRANSFORM),
    "rand_skip": ("rand_skip", {"data": "data_param", **_IMAGES}),
    "shuffle_images": ("shuffle", _IMAGES),
    "new_height": ("new_height", _IMAGES),
    "new_width": ("new_width", _IMAGES),
    "concat_dim": ("concat_dim", _CONCAT),
    "det_fg_threshold": ("fg_threshold", _WINDOWS),
    "det_bg_threshold": ("bg_threshold", _WINDOWS),
    "det_fg_fraction": ("fg_fraction", _WINDOWS),
    "det_context_pad": ("context_pad", _WINDOWS),
    "det_crop_mode": ("crop_mode", _WINDOWS),
    "new_num": ("new_num", {}),
    "new_channels": ("new_channels", {}),
}
_STAYING = {"name", "type", "blobs", "blobs_lr", "weight_decay"}
_OUTER = {"layer", "bottom", "top"}
_NET_FIELDS_LOST = ("state", "input_shape", "debug_info")
_V1_NAMES = {v2: v1 for v1, v2 in V1_TYPES.items()}


def to_v1(document: Document) -> Document:
    """Return a V0 network as V1; its lists must be spelt out (`edit.without_lists`).

    A field that Caffe drops becomes a comment above its layer; one that the schema does not know stays. Raises
    ModelError where Caffe aborts: unknown types, padding with a wrong consumer; and for V1 layers among V0 ones, of
    which Caffe keeps only the connections.
    """
    _check(document)
    return _unwrapped(_regrouped(_without_padding(document)))


def _check(document: Document) -> None:
    found = layers(document)
    foreign = [layer.name for layer in found if layer.generation != 0]
    if foreign:
        raise ModelError(
            f"{document.path}: V0 layers (`layers {{ layer {{ }} }}`) and layers of another generation are mixed "
            f"('{foreign[0]}'); Caffe would lose the latter"
        )
    unknown = [layer for layer in found if layer.message.str("type") not in (*V0_TYPES, "padding", "")]
    if unknown:
        names = ", ".join(f"'{layer.name}' ({layer.type})" for layer in unknown)
        raise ModelError(
            f"{document.path}: no V0 layer of Caffe's has the type of {names}; expected {', '.join(V0_TYPES)}"
        )


class _Padding(NamedTuple):
    """A padding layer: what it adds and the blob it pads, as spelt in the file."""

    pad: str
    bottom: str


def _without_padding(document: Document) -> Document:
    """Return the network with padding layers merged into the layers they feed."""
    splices: list[Splice] = []
    makers: dict[str, Layer | None] = dict.fromkeys(document.message("NetParameter").strs("input"))
    found = layers(document)
    for layer in found:
        for bottom in layer.bottoms:
            if bottom not in makers:
                raise ModelError(
                    f"{document.path}: layer '{layer.name}': bottom '{bottom}' is made by no layer before it"
                )
            maker = makers[bottom]
            if maker is not None and maker.type == "padding":
                splices += _padded(document, layer, _padding(document, layer, maker))
        makers.update(dict.fromkeys(layer.tops, layer))
    splices += removals(document, [layer.field for layer in found if layer.type == "padding"])
    return document.edited(splices) if splices else document


def _padding(document: Document, consumer: Layer, padding: Layer) -> _Padding:
    if consumer.type not in ("Convolution", "Pooling") or len(consumer.bottoms) != 1:
        raise ModelError(
            f"{document.path}: padding layer '{padding.name}' feeds '{consumer.name}' ({consumer.type}); "
            "expected a conv or pool layer with one bottom"
        )
    if len(padding.bottoms) != 1 or len(padding.tops) != 1:
        raise ModelError(f"{document.path}: padding layer '{padding.name}' must have one bottom and one top")
    pads = padding.message.named("pad")
    bottom = _children(padding.field, "bottom")[0]
    pad = document.text[pads[-1].value_start : pads[-1].value_end] if pads else "0"
    return _Padding(pad, document.text[bottom.value_start : bottom.value_end])


def _padded(document: Document, consumer: Layer, padding: _Padding) -> list[Splice]:
    bottom = replacement(_children(consumer.field, "bottom")[0], padding.bottom)
    pads = consumer.message.named("pad")
    if pads:
        return [bottom, replacement(pads[-1], padding.pad)]
    sizes = consumer.message.named("kernelsize")
    if sizes and margin(document, sizes[-1].start) is not None:
        line = f"pad: {padding.pad}{newline(document)}{margin(document, sizes[-1].start)}"
        return [bottom, Splice(sizes[-1].start, sizes[-1].start, line)]
    return [bottom, appended(document, _children(consumer.field, "layer")[-1], f"pad: {padding.pad}")]


def _regrouped(document: Document) -> Document:
    """Return the network with V0's flat fields in V1's blocks and V1's type names."""
    net = document.message("NetParameter")
    lost = [field for name in _NET_FIELDS_LOST for field in net.named(name)]
    splices = [*removals(document, lost), *noted(document, document.fields[0], _dropped(document, lost, "the network"))]
    for layer in layers(document):
        kind = layer.message.str("type")
        splices += [replacement(f, _V1_NAMES[V0_TYPES[kind]]) for f in layer.message.named("type") if kind]
        blocks: dict[str, list[tuple[Field, str]]] = {}
        lost = [f for f in layer.field.children or () if f.name not in _OUTER and kind_of("V1LayerParameter", f.name)]
        for field in layer.message.fields:
            name, targets = MOVES.get(field.name, ("", {}))
            if kind in targets:
                blocks.setdefault(targets[kind], []).append((field, name))
            elif _is_lost(field.name, kind):
                lost.append(field)
        for block, fields in blocks.items():
            splices += gathered(document, block, fields)
        splices += removals(document, lost)
        splices += noted(document, layer.field, _dropped(document, lost, kind))
    return document.edited(splices)


def _is_lost(name: str, kind: str) -> bool:
    """Return whether Caffe drops a field of a layer of that V0 type; what the schema does not know stays."""
    if name == "hdf5_output_param":
        return kind != "hdf5_output"
    return name not in _STAYING and kind_of("V0LayerParameter", name) is not None


def _dropped(document: Document, fields: list[Field], owner: str) -> Iterator[str]:
    for field in fields:
        yield f"was: {flat(document, field)} (dropped by Caffe's upgrade: {owner} has no such field)"


def _unwrapped(document: Document) -> Document:
    """Return the network with the fields of every inner `layer {}` one level further out."""
    splices: list[Splice] = []
    for outer in document.fields:
        for inner in _children(outer, "layer") if outer.name == "layers" else ():
            close = inner.value_end - 1
            splices += [
                cut(document, inner.start, inner.value_start + 1),
                cut(document, close, inner.end),
                *_dedented(document, inner),
            ]
    return document.edited(splices)


def _dedented(document: Document, inner: Field) -> Iterator[Splice]:
    """Yield the splices that move the lines inside a block as far left as the block itself stands."""
    outer = margin(document, inner.start)
    first = margin(document, inner.children[0].start) if inner.children else None
    if outer is None or first is None or not first.startswith(outer):
        return
    surplus = first[len(outer) :]
    place = document.text.find("\n", inner.value_start) + 1
    while 0 < place < inner.value_end - 1:
        if surplus and document.text.startswith(outer + surplus, place):
            yield Splice(place, place + len(surplus), "")
        place = document.text.find("\n", place) + 1


def _children(field: Field, name: str) -> list[Field]:
    return [child for child in field.children or () if child.name == name]
