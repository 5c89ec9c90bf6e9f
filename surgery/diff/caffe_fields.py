"""What a Caffe layer states beside its links, as field -> text in one spelling for V1 and V2."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator

import numpy as np

from surgery.diff.network import Fields
from surgery.formats.caffe.network import Layer
from surgery.formats.caffe.schema import Kind, kind_of, spell
from surgery.formats.caffe.text import Field, Message, default_of, read_scalar
from surgery.formats.caffe.upgrade_v1 import PARAM_FIELDS, TRANSFORM_FIELDS

MAX_TEXT = 200  # characters of a value; weights in a prototxt would be megabytes
_LINKS = frozenset({"name", "type", "bottom", "top"})
# Fields that no forward pass reads; which layers run is settled before any is compared.
_TRAINING = re.compile(
    r"(.*\.)?\w+_filler(\..*)?|param\[\d+\]\.(lr_mult|decay_mult)|loss_weight|propagate_down|(include|exclude)\[.*"
)
_WINDOWED = ("convolution_param", "pooling_param")
# Field for both directions, those for one, and what stands where none is given.
_WINDOWS = (
    ("kernel_size", "kernel_h", "kernel_w", ""),
    ("pad", "pad_h", "pad_w", "0"),
    ("stride", "stride_h", "stride_w", "1"),
    ("dilation", "", "", "1"),
)
_DATA = ("data_param", "image_data_param", "window_data_param")


def split_fields(layer: Layer) -> tuple[Fields, Fields]:
    """Return what a layer states, sorted: what it computes by, and what only training or its rules read.

    What equals Caffe's default is left out; sizes of windows come as HxW.
    """
    found: dict[str, list[str]] = {}
    for name, text in _stated(layer.message, "", _LINKS):
        found.setdefault(_present(layer, name), []).append(text)
    _spread_lists(layer, found)
    for block in _WINDOWED:
        _join_windows(found, block)
    stated = [(name, ", ".join(texts)) for name, texts in sorted(found.items())]
    if layer.type == "BatchNorm":  # Caffe sets its multipliers to 0 whatever they are.
        stated = [pair for pair in stated if not re.fullmatch(r"param\[\d+\]\.(lr|decay)_mult", pair[0])]
    training = tuple(pair for pair in stated if _TRAINING.fullmatch(pair[0]))
    return tuple(pair for pair in stated if pair not in training), training


def message_fields(message: Message, without: Collection[str]) -> Fields:
    """Return what a message states but for some of its fields, sorted."""
    found: dict[str, list[str]] = {}
    for name, text in _stated(message, "", without):
        found.setdefault(name, []).append(text)
    return tuple((name, ", ".join(texts)) for name, texts in sorted(found.items()))


def _stated(message: Message, path: str, without: Collection[str] = ()) -> Iterator[tuple[str, str]]:
    """Yield the path and the text of every value in a message."""
    count: dict[str, int] = {}
    for field in (field for field in message.fields if field.name not in without):
        kind = kind_of(message.type, field.name)
        number = count[field.name] = count.get(field.name, -1) + 1
        name = f"{path}{field.name}"
        if kind is None or (field.children is not None) != kind.is_message or kind.type == "BlobProto":
            yield name, _raw(message, field)
        elif kind.is_message:
            inner = Message(message.document, field.children or (), kind.type, field.value_start)
            yield from _stated(inner, f"{name}[{number}]." if kind.repeated else f"{name}.")
        elif (text := _value(message, field, kind)) is not None:
            yield name, text


def _value(message: Message, field: Field, kind: Kind) -> str | None:
    """Return a value's text, None for the default of a field that cannot repeat."""
    value = read_scalar(message.document, field, kind)
    if not kind.repeated and value == default_of(kind):
        return None
    if isinstance(value, float) and kind.type == "float":
        with np.errstate(over="ignore"):  # What is beyond float32 is infinite for Caffe too.
            return str(np.float32(value)).removesuffix(".0")
    return str(value) if kind.type in ("string", "bytes") else spell(value, kind)


def _raw(message: Message, field: Field) -> str:
    """Return what stands in the file, without comments and line ends; of much only what tells it from other."""
    text = message.document.text[field.value_start : field.value_end]
    plain = re.sub(r"\s+", " ", re.sub(r'("[^"\n]*")|#[^\n]*', lambda match: match[1] or " ", text)).strip()
    if len(plain) <= MAX_TEXT:
        return plain
    return f"{len(plain)} characters, SHA-256 {hashlib.sha256(plain.encode('utf-8', 'surrogateescape')).hexdigest()}"


def _present(layer: Layer, name: str) -> str:
    """Return the path at which V2 has a field of a V1 data layer."""
    block, _, rest = name.partition(".")
    is_moved = layer.generation == 1 and block in _DATA and rest in TRANSFORM_FIELDS
    return f"transform_param.{rest}" if is_moved else name


def _spread_lists(layer: Layer, found: dict[str, list[str]]) -> None:
    """Put the entries of V1's parallel lists where V2 has them, and leave out multipliers of 1."""
    for old, new in PARAM_FIELDS.items() if layer.generation == 1 else ():
        for i, text in enumerate(found.pop(old, ())):
            if not (new.endswith("_mult") and float(text) == 1):
                found[f"param[{i}].{new}"] = [text]


def _join_windows(found: dict[str, list[str]], block: str) -> None:
    for both, vertical, horizontal, default in _WINDOWS:
        values = found.pop(f"{block}.{both}", [])
        ends = [found.pop(f"{block}.{name}", []) for name in (vertical, horizontal)]
        if any(ends):
            values = [end[-1] if end else default or "0" for end in ends]
        elif len(values) == 1:
            values *= 2
        if values and set(values) != {default}:
            found[f"{block}.{both}"] = ["x".join(values)]
