"""The table of runtimes agrees, both ways, with their schemas and with the runtimes themselves."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

from surgery.errors import EngineError
from surgery.formats.caffe.network import V1_TYPES
from surgery.formats.caffe.schema_table import ENUMS, MESSAGES
from surgery.formats.caffe.targets import CAFFES, REQUIRED, TARGETS, Target
from surgery.formats.wire import varint
from surgery.runtime.engine import Job
from tests.engines import require_caffe, require_opencv
from tests.shared import shared

SCHEMAS = {
    "caffe-1.0": "bvlc10tag",
    "caffe-master": "bvlc",
    "caffe-ssd": "ssd",
    "caffe-android-lib": "sh1r0",
}
Names = Mapping[str, set[str]]


def rows(path: str) -> list[dict[str, str]]:
    with shared(path).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def grouped(found: list[dict[str, str]], group: str, name: str) -> Names:
    names: dict[str, set[str]] = {}
    for row in found:
        names.setdefault(row[group].removeprefix("caffe."), set()).add(row[name])
    return names


def check_fields(target: Target, fields: Names) -> None:
    everything = {
        (owner, name)
        for table in (MESSAGES, fields, target.lacks, target.adds)
        for owner, names in table.items()
        for name in names
    }
    told = {(owner, name) for owner, name in everything if target.knows_field(owner, name)}
    true = {(owner, name) for owner, names in fields.items() for name in names}
    assert told == true


def check_values(target: Target, enums: Names) -> None:
    for enum, values in enums.items():
        assert {value for value in ENUMS[enum] if target.knows_value(enum, value)} == values, enum
    assert all(set(values) <= set(ENUMS[enum]) for enum, values in target.lacks_values.items())


@pytest.mark.parametrize("target", CAFFES, ids=lambda target: target.name)
def test_fields_and_values_are_those_of_the_schema(target: Target) -> None:
    schema = SCHEMAS[target.name]
    fields = rows(f"caffe/schema_{schema}.tsv")
    check_fields(target, grouped(fields, "message", "field"))
    enums = grouped(rows(f"caffe/schema_{schema}_enums.tsv"), "enum", "value")
    check_values(target, enums)
    required = {(row["message"].removeprefix("caffe."), row["field"]) for row in fields if row["label"] == "required"}
    table = {(owner, name) for owner, names in REQUIRED.items() for name in names if target.knows_field(owner, name)}
    assert table == required


def opencv_schema() -> descriptor_pb2.FileDescriptorProto:
    """OpenCV's own schema, which its library carries as bytes."""
    require_opencv()
    import cv2

    library = next(Path(cv2.__file__).parent.glob("cv2*.so"), None)
    data = library.read_bytes() if library else b""
    start = data.find(b"\n\x12opencv-caffe.proto\x12")
    if start < 0:
        pytest.skip("this OpenCV's library holds no readable schema")
    end = start
    # Name, package, messages, enums: all of them lengths and bytes. What follows begins with the syntax or with zeros.
    while data[end] in (0x0A, 0x12, 0x22, 0x2A):
        size, value = varint(data, end + 1, len(data), "opencv")
        end = value + size
    return descriptor_pb2.FileDescriptorProto.FromString(data[start:end])


def test_opencv_has_the_fields_and_values_of_its_own_schema() -> None:
    fields: dict[str, set[str]] = {}
    enums: dict[str, set[str]] = {}
    required = set()

    def enter(message: descriptor_pb2.DescriptorProto, prefix: str) -> None:
        name = prefix + message.name
        fields[name] = {field.name for field in message.field}
        required.update((name, field.name) for field in message.field if field.label == field.LABEL_REQUIRED)
        enums.update({f"{name}.{enum.name}": {value.name for value in enum.value} for enum in message.enum_type})
        for inner in message.nested_type:
            enter(inner, f"{name}.")

    schema = opencv_schema()
    for message in schema.message_type:
        enter(message, "")
    enums.update({enum.name: {value.name for value in enum.value} for enum in schema.enum_type})
    fields["NormalizeParameter"] = fields.pop("NormalizeBBoxParameter")  # OpenCV's name for SSD's message.
    check_fields(TARGETS["opencv"], fields)
    check_values(TARGETS["opencv"], enums)
    assert required == {(owner, name) for owner in REQUIRED if owner in fields for name in REQUIRED[owner]}


def one_layer(kind: str) -> str:
    """A net of one input and one layer; Input alone has no bottom."""
    net = 'layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 1 dim: 2 dim: 4 dim: 4 } } }\n'
    return f'{net}layer {{ name: "a" type: "{kind}" bottom: "x" top: "y" }}\n'


def test_opencv_makes_exactly_the_layer_types_of_the_table() -> None:
    require_opencv()
    import cv2

    known = set().union(*(target.types for target in TARGETS.values()))
    made = set()
    for kind in known:
        try:
            cv2.dnn.readNetFromCaffe(bytearray(one_layer(kind).encode())).getLayer("a")
        except cv2.error as error:
            if "Can't create layer" in str(error):
                continue
        made.add(kind)
    # OpenCV has layers of these names, which are not Caffe's.
    assert made - {"LSTM", "Tile"} == TARGETS["opencv"].types


def test_caffe_has_the_layer_types_of_the_table(tmp_path: Path) -> None:
    caffe = require_caffe()
    optional = {"Data", "HDF5Data", "HDF5Output", "ImageData", "Python", "WindowData"}  # As the build has it.
    kinds = [*sorted(TARGETS["caffe-1.0"].types - optional), "Dence"]
    jobs = []
    for kind in kinds:
        path = tmp_path / f"{kind}.prototxt"
        path.write_text(one_layer(kind))
        jobs.append(Job([path], [{}]))
    results = caffe.blob_shapes_of(jobs)
    missing = [
        kind
        for kind, result in zip(kinds, results, strict=True)
        if isinstance(result, EngineError) and "Unknown layer type" in result.message
    ]
    assert missing == ["Dence"]


@pytest.mark.parametrize("target", CAFFES, ids=lambda target: target.name)
def test_every_type_of_v1_is_one_of_the_runtimes(target: Target) -> None:
    left_out = {"HDF5Data", "HDF5Output"} if "hdf5" in target.without else set()
    assert set(V1_TYPES.values()) - {""} - target.types == left_out
