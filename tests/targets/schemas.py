"""A runtime's own schema as Google's library reads it, made of the reference tables in a pool of its own."""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from google.protobuf.message import Message

FieldProto = descriptor_pb2.FieldDescriptorProto

_LABELS = {
    "optional": FieldProto.LABEL_OPTIONAL,
    "required": FieldProto.LABEL_REQUIRED,
    "repeated": FieldProto.LABEL_REPEATED,
}


def parse_net(text: str, schema: Path) -> Message:
    """Read a network under the schema in `<schema>.tsv` and `<schema>_enums.tsv`; protobuf's ParseError at any word
    that it does not have."""
    message = _net_class(schema)()
    text_format.Parse(text, message)
    return message


@cache
def _net_class(schema: Path) -> type[Message]:
    file = descriptor_pb2.FileDescriptorProto(name="target.proto", package="caffe", syntax="proto2")
    messages: dict[str, descriptor_pb2.DescriptorProto] = {}
    enums: dict[str, descriptor_pb2.EnumDescriptorProto] = {}
    fields = _rows(schema.with_suffix(".tsv"))
    for row in fields:
        name = row["message"].removeprefix("caffe.")
        if name not in messages:
            messages[name] = file.message_type.add(name=name)
    for row in _rows(schema.with_name(f"{schema.name}_enums.tsv")):
        owner, _, name = row["enum"].removeprefix("caffe.").rpartition(".")
        if row["enum"] not in enums:
            holder = messages[owner] if owner else file
            enums[row["enum"]] = holder.enum_type.add(name=name)
        enums[row["enum"]].value.add(name=row["value"], number=int(row["number"]))
    for row in fields:
        field = messages[row["message"].removeprefix("caffe.")].field.add(name=row["field"], number=int(row["number"]))
        field.label = _LABELS[row["label"]]
        if not row["type"].startswith("caffe."):
            field.type = FieldProto.Type.Value(f"TYPE_{row['type'].upper()}")
            continue
        field.type_name = f".{row['type']}"
        field.type = FieldProto.TYPE_ENUM if row["type"] in enums else FieldProto.TYPE_MESSAGE
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("caffe.NetParameter"))


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))
