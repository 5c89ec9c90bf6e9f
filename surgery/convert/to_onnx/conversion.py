"""A Caffe network as an ONNX model: what is where, and the file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from surgery.convert import records
from surgery.convert.to_onnx.graph import Operator
from surgery.convert.to_onnx.site import Array, Origin
from surgery.convert.to_onnx.values import Stage
from surgery.formats.caffe.network import Layer
from surgery.formats.onnx import encode
from surgery.formats.wire import BYTES, encode_bytes, encode_tag, encode_varint
from surgery.version import __version__

STAGES = "surgery_stages"  # metadata: blobs that had several values, and the tensor of each
MAX_MODEL = 2**31 - 1  # bytes that protobuf reads in one message
ALIGNMENT = 4096  # of each tensor in a data file, so that runtimes can map it
CHUNK = 1 << 20  # bytes
INLINE = 1024  # bytes up to which a tensor stays in the model beside external data
PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")

# IR version that came with an opset: onnx/docs/Versioning.md.
IR_VERSIONS = {13: 7, 14: 7, 15: 8, 16: 8, 17: 8, 18: 8, 19: 9, 20: 9, 21: 10, 22: 10}


@dataclass(frozen=True, eq=False)
class TensorType:
    """An input, an output or a blob: its tensor and its shape, a symbol where the batch is dynamic."""

    name: str
    shape: tuple[encode.Dim, ...] | None


@dataclass(frozen=True, eq=False)
class Composite:
    """A layer that nothing could recognise in the operators, those of the model in `places`, that it became."""

    layer: Layer
    bottoms: Sequence[TensorType]
    tops: Sequence[str]
    places: range


@dataclass(frozen=True, eq=False)
class Conversion:
    """The ONNX model made of a Caffe network.

    Attributes:
        tensors: Caffe blob -> the tensor that holds its final value.
        weights: initializer -> the blob of which layer it holds, and how that was rearranged.
        stages: every value that a blob had, for blobs written in place.
        composites: layers of which the file keeps a record, so that ONNX -> Caffe can put them back.
    """

    name: str
    opset: int
    operators: Sequence[Operator]
    initializers: Mapping[str, Array]
    inputs: Sequence[TensorType]
    outputs: Sequence[TensorType]
    inner: Sequence[TensorType]
    tensors: Mapping[str, str]
    weights: Mapping[str, Origin]
    stages: Mapping[str, Sequence[Stage]]
    composites: Sequence[Composite]

    def save(self, path: Path, *, limit: int = MAX_MODEL) -> tuple[Path, ...]:
        """Write the model; where it would be larger than `limit` bytes its weights go to `<path>.data`.

        Weights are written from where they lie, one after the other.
        """
        named = zip(self.operators, _node_names(self.operators), strict=True)
        nodes = [encode.node(op.type, op.inputs, op.outputs, name, op.attributes) for op, name in named]
        rest, metadata = b"".join(self._types()), b"".join(self._metadata(nodes))
        heads = {name: encode.tensor_head(name, a.shape, _type(a)) for name, a in self.initializers.items()}
        size = sum(map(_field_size, nodes)) + len(rest) + len(metadata)
        size += sum(_field_size(head, _nested(self.initializers[name].nbytes)) for name, head in heads.items())
        data = path.with_name(path.name + ".data") if size + 4096 > limit else None
        fields: list[tuple[bytes, Array | None]] = []
        offset = 0
        for name, array in self.initializers.items():
            if data is not None and array.nbytes > INLINE:
                offset += -offset % ALIGNMENT
                place = (data.name, offset, array.nbytes)
                fields.append((encode.external_tensor(name, array.shape, _type(array), *place), None))
                offset += array.nbytes
            else:
                fields.append((heads[name], array))
        with path.open("wb") as file:
            self._write(file, nodes, fields, rest)
            file.write(metadata)
        if data is None:
            return (path,)
        with data.open("wb") as file:
            for array in self.initializers.values():
                if array.nbytes > INLINE:
                    file.write(bytes(-file.tell() % ALIGNMENT))
                    file.writelines(_bytes(array))
        return path, data

    def _write(
        self, file: BinaryIO, nodes: Sequence[bytes], fields: Sequence[tuple[bytes, Array | None]], rest: bytes
    ) -> None:
        name = encode.text(2, self.name)
        length = sum(map(_field_size, nodes)) + len(name) + len(rest)
        length += sum(_field_size(head, 0 if a is None else _nested(a.nbytes)) for head, a in fields)
        file.write(encode.varint(1, IR_VERSIONS[self.opset]))
        file.write(encode.text(2, "surgery") + encode.text(3, __version__))
        file.write(encode_tag(7, BYTES) + encode_varint(length))
        for node in nodes:
            file.write(encode_bytes(1, node))
        file.write(name)
        for head, array in fields:
            nested = 0 if array is None else _nested(array.nbytes)
            file.write(encode_tag(5, BYTES) + encode_varint(len(head) + nested) + head)
            if array is not None:
                file.write(encode_tag(9, BYTES) + encode_varint(array.nbytes))
                file.writelines(_bytes(array))
        file.write(rest)
        file.write(encode_bytes(8, encode.opset(self.opset)))

    def _metadata(self, nodes: Sequence[bytes]) -> Iterator[bytes]:
        changed = {blob: [[s.layer, s.value] for s in stages] for blob, stages in self.stages.items()}
        if changed:
            yield encode_bytes(14, encode.entry(STAGES, json.dumps(changed)))
        if self.composites:
            found = (self._record(composite, nodes) for composite in self.composites)
            yield encode_bytes(14, encode.entry(records.KEY, records.dump(found)))

    def _record(self, composite: Composite, nodes: Sequence[bytes]) -> records.Record:
        own, names = composite.places, [bottom.name for bottom in composite.bottoms]
        read = records.constants([self.operators[place] for place in own], names)
        return records.Record(
            layer=records.spelled(composite.layer, names, composite.tops),
            shapes=tuple(bottom.shape or () for bottom in composite.bottoms),
            nodes=len(own),
            sha256=records.digest((nodes[place] for place in own), ((n, self.initializers[n]) for n in read)),
        )

    def _types(self) -> Iterator[bytes]:
        for number, types in ((11, self.inputs), (12, self.outputs), (13, self.inner)):
            for each in types:
                yield encode_bytes(number, encode.value_info(each.name, encode.FLOAT, each.shape))


def _node_names(operators: Sequence[Operator]) -> list[str]:
    """Return each node's name: its layer's, if it is all that the layer became or its one product with weights.

    Else the layer's with the operator behind it.
    """
    sizes, products, seen = Counter(op.layer for op in operators), Counter[str](), Counter[str]()
    products.update(op.layer for op in operators if op.type in PRODUCTS)
    names = []
    for op in operators:
        is_main = sizes[op.layer] == 1 or (op.type in PRODUCTS and products[op.layer] == 1)
        name = op.layer if is_main else f"{op.layer}/{op.type}"
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return names


def _type(array: Array) -> int:
    return encode.DATA_TYPES[array.dtype.name]


def _nested(size: int) -> int:
    """Return the bytes of a raw_data field of `size` bytes."""
    return 1 + len(encode_varint(size)) + size


def _field_size(payload: bytes, more: int = 0) -> int:
    """Return the bytes of a field of the graph whose payload is these bytes and `more`."""
    size = len(payload) + more
    return 1 + len(encode_varint(size)) + size


def _bytes(array: Array) -> Iterator[memoryview]:
    """Yield the array's bytes in little-endian order, without a copy where they lie so already."""
    if array.nbytes > CHUNK and not any(array.strides):  # One number, repeated.
        piece = np.full(CHUNK // array.itemsize, array.reshape(-1)[0])
        for start in range(0, array.size, piece.size):
            yield from _bytes(piece[: array.size - start])
        return
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    yield little.reshape(-1).view(np.uint8).data
