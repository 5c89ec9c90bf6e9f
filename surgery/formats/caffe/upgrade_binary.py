"""Old caffemodels brought up to date: everything but the blobs goes through text and the same upgrade as a prototxt."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import IO

from surgery.errors import ModelError
from surgery.formats.caffe.binary import NET_LAYER, V2_FIELDS, Caffemodel, LayerRecord
from surgery.formats.caffe.network import is_mixed
from surgery.formats.caffe.schema import Kind, kind_of, quote, spell_float
from surgery.formats.caffe.schema_table import ENUMS, MESSAGES
from surgery.formats.caffe.text import Field, Message, parse
from surgery.formats.caffe.upgrade import upgrade
from surgery.formats.wire import (
    BYTES,
    FIXED32,
    FIXED64,
    VARINT,
    Buffer,
    Record,
    encode_bytes,
    encode_tag,
    encode_varint,
    signed,
    varint,
    walk,
)

OWN_NUMBERS = 10000  # From here on the schema's numbers stand for fork fields in text only.
_BY_NUMBER = {
    message: {row[0]: (name, Kind(*row)) for name, row in fields.items() if row[0] < OWN_NUMBERS}
    for message, fields in MESSAGES.items()
}
_UNPACKED = {"float": (FIXED32, "<f"), "double": (FIXED64, "<d")}


def write_upgraded(model: Caffemodel, file: IO[bytes]) -> None:
    """Write the caffemodel as V2. Blobs keep their bytes; layers that the upgrade removes (padding) go with theirs.

    Raises ModelError where Caffe cannot upgrade it: unknown types, V1 beside V2 layers.
    """
    document = parse("\n".join(_net_text(model)), model.path)
    if is_mixed(document):
        raise ModelError(f"{model.path}: has both V1 and V2 layers, which Caffe refuses")
    net = upgrade(document).message("NetParameter")
    blobs = _blobs_by_name(model)
    for field, kind in _known(net):
        if field.name == "layer":
            continue
        file.write(_encoded(net, field, kind))
    for layer in net.messages("layer"):
        parts = blobs.get(layer.str("name"), [])
        heads = [encode_tag(V2_FIELDS.blobs, BYTES) + encode_varint(end - start) for start, end in parts]
        body = _message_bytes(layer)
        size = len(body) + sum(len(head) + end - start for head, (start, end) in zip(heads, parts, strict=True))
        file.write(encode_tag(NET_LAYER, BYTES) + encode_varint(size) + body)
        for head, (start, end) in zip(heads, parts, strict=True):
            file.write(head)
            file.write(model.buffer[start:end])


def _net_text(model: Caffemodel) -> Iterator[str]:
    """Yield the net as text without blobs; input names without a shape are dropped, as Caffe drops them."""
    lines = list(_texts(model.buffer, 0, len(model.buffer), "NetParameter", model))
    shaped = any(line.startswith(("input_dim:", "input_shape ")) for line in lines)
    return (line for line in lines if shaped or not line.startswith("input:"))


def _texts(buffer: Buffer, start: int, end: int, message: str, model: Caffemodel) -> Iterator[str]:
    for record in walk(buffer, start, end, model.path):
        known = _BY_NUMBER[message].get(record.number)
        if known is None or known[0] == "blobs":
            continue
        name, kind = known
        if kind.is_message:
            inside = " ".join(_texts(buffer, record.value, record.end, kind.type, model))
            yield f"{name} {{ {inside} }}"
        else:
            yield from (f"{name}: {value}" for value in _scalars(model, record, kind))


def _scalars(model: Caffemodel, record: Record, kind: Kind) -> Iterator[str]:
    """Yield the spellings of a scalar field's values; there are several in a packed one."""
    buffer, (start, end) = model.buffer, (record.value, record.end)
    if kind.type in ("string", "bytes"):
        yield quote(bytes(buffer[start:end]).decode("utf-8", "surrogateescape"))
    elif kind.type in _UNPACKED:
        form = _UNPACKED[kind.type][1]
        step = struct.calcsize(form)
        yield from (spell_float(struct.unpack_from(form, buffer, i)[0]) for i in range(start, end - step + 1, step))
    else:
        position = start
        while position < end:
            value, position = varint(buffer, position, end, model.path)
            yield _spelt(value, kind)


def _spelt(value: int, kind: Kind) -> str:
    if kind.type == "bool":
        return "true" if value else "false"
    if kind.is_enum:
        return next((name for name, number in ENUMS[kind.type].items() if number == value), str(value))
    return str(signed(value) if kind.type.startswith("int") else value)


def _blobs_by_name(model: Caffemodel) -> dict[str, list[tuple[int, int]]]:
    """Return where the bytes of each layer's blobs lie, by layer name; of layers of one name the last counts."""
    return {layer.name: list(_blob_spans(model, layer)) for layer in model.layers}


def _blob_spans(model: Caffemodel, layer: LayerRecord) -> Iterator[tuple[int, int]]:
    outer = next(walk(model.buffer, layer.start, layer.end, model.path))
    inner = list(walk(model.buffer, outer.value, outer.end, model.path))
    number = {0: 50, 1: 6, 2: 7}[layer.generation]
    if layer.generation == 0:
        inner = [r for part in inner if part.number == 1 for r in walk(model.buffer, part.value, part.end, model.path)]
    return ((record.value, record.end) for record in inner if record.number == number and record.wire == BYTES)


def _known(message: Message) -> Iterator[tuple[Field, Kind]]:
    for field in message.fields:
        kind = kind_of(message.type, field.name)
        if kind is not None and kind.number < OWN_NUMBERS:
            yield field, kind


def _message_bytes(message: Message) -> bytes:
    return b"".join(_encoded(message, field, kind) for field, kind in _known(message))


def _encoded(message: Message, field: Field, kind: Kind) -> bytes:
    """Return one field's bytes."""
    if kind.is_message:
        inner = Message(message.document, field.children or (), kind.type, field.value_start)
        return encode_bytes(kind.number, _message_bytes(inner))
    value = message.value(field)
    if kind.type in ("string", "bytes"):
        return encode_bytes(kind.number, str(value).encode("utf-8", "surrogateescape"))
    if kind.type in _UNPACKED:
        wire, form = _UNPACKED[kind.type]
        return encode_tag(kind.number, wire) + struct.pack(form, value)
    number = ENUMS[kind.type].get(str(value), 0) if kind.is_enum else int(value)
    return encode_tag(kind.number, VARINT) + encode_varint(number & (1 << 64) - 1)
