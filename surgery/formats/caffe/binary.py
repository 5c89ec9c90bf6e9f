"""A caffemodel as an index: where every layer and every blob lies in the file, nothing decoded, nothing copied.

Of a layer only its name, type, bottoms, tops and blobs are read: forks give the other field numbers different meanings.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from surgery.errors import ModelError, ParseError
from surgery.formats.caffe.network import V0_TYPES, V1_NUMBERS, V1_TYPES, Shape
from surgery.formats.wire import (
    BYTES,
    FIXED32,
    FIXED64,
    VARINT,
    Record,
    encode_bytes,
    encode_tag,
    encode_varint,
    signed,
    varint,
    walk,
)

if TYPE_CHECKING:  # NumPy is imported where weights are touched: an index needs none.
    import numpy as np
    from numpy.typing import NDArray

MAX_BYTES = 2**31 - 1  # protobuf's limit for one message
MAX_LAYERS = 200_000  # a hundred times the largest known network; keeps the index's memory bounded
MAX_AXES = 32  # Caffe's own limit
MAX_RUNS = 100_000  # pieces of one blob
_UNPACKED_FLOATS = re.compile(rb"(?:\x2d.{4})*+", re.S)
_UNPACKED_DOUBLES = re.compile(rb"(?:\x41.{8})*+", re.S)

NET_V1_LAYERS, NET_LAYER = 2, 100


@dataclass(frozen=True, slots=True)
class _LayerFields:
    """Field numbers of one generation of layer messages."""

    name: int
    type: int
    bottom: int
    top: int
    blobs: int


V2_FIELDS = _LayerFields(name=1, type=2, bottom=3, top=4, blobs=7)
V1_FIELDS = _LayerFields(name=4, type=5, bottom=2, top=3, blobs=6)
V0_FIELDS = _LayerFields(name=1, type=2, bottom=-1, top=-1, blobs=50)
V1_V0_LAYER = 1


@dataclass(frozen=True, slots=True)
class Run:
    """`count` numbers from byte `offset` on, `stride` bytes apart (an unpacked field has a tag before each)."""

    offset: int
    count: int
    stride: int


@dataclass(frozen=True, slots=True)
class BlobRecord:
    """One blob: its shape as Caffe sees it, and where its numbers are.

    `legacy` when the shape comes from num/channels/height/width, which win over `shape` wherever one is set.
    `double` when the numbers are float64. `raw` when they are stored in NVCaffe's raw_data, which is not read.
    """

    shape: Shape
    legacy: bool
    double: bool
    raw: bool
    runs: tuple[Run, ...]

    @property
    def count(self) -> int:
        """Numbers stored."""
        return sum(run.count for run in self.runs)


@dataclass(frozen=True, slots=True)
class LayerRecord:
    """One layer of a caffemodel; `start:end` is its whole field, tag and length included."""

    name: str
    type: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    generation: int
    start: int
    end: int
    blobs: tuple[BlobRecord, ...]

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """Shapes of the blobs."""
        return tuple(blob.shape for blob in self.blobs)


@dataclass(frozen=True, eq=False)
class Caffemodel:
    """A mapped caffemodel and its index."""

    path: Path
    buffer: mmap.mmap | bytes
    layers: tuple[LayerRecord, ...]

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return len(self.buffer)

    def array(self, blob: BlobRecord) -> NDArray[np.floating]:
        """Return a blob's numbers in its shape: a read-only view of the file, or a copy where they are scattered.

        A view is as a rule not aligned, and any BLAS call on it copies it whole: convert it in blocks.
        """
        import numpy as np

        kind = np.dtype("<f8" if blob.double else "<f4")
        parts = []
        for run in blob.runs:
            if run.stride == kind.itemsize:
                parts.append(np.frombuffer(self.buffer, kind, run.count, run.offset))
            else:
                field = np.dtype({"names": ["x"], "formats": [kind], "itemsize": run.stride})
                whole = np.frombuffer(self.buffer, np.uint8, (run.count - 1) * run.stride + kind.itemsize, run.offset)
                padded = np.concatenate([whole, np.zeros(run.stride - kind.itemsize, np.uint8)])
                parts.append(padded.view(field)["x"])
        flat = parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, kind), *parts])
        return flat.reshape(blob.shape)


def read(path: Path) -> Caffemodel:
    """Map and index a caffemodel; raises ParseError with the offset where the file is damaged."""
    with path.open("rb") as file:
        return mapped(file, path)


def mapped(file: IO[bytes], path: Path) -> Caffemodel:
    """Map and index an open file; `path` is what messages call it."""
    file.seek(0, 2)
    # An empty file cannot be mapped; to Caffe it is a model without layers.
    buffer: mmap.mmap | bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if file.tell() else b""
    return Caffemodel(path, buffer, tuple(_layers(buffer, path)))


def _layers(buffer: mmap.mmap | bytes, path: Path) -> Iterator[LayerRecord]:
    count = 0
    for record in walk(buffer, 0, len(buffer), path):
        if record.wire != BYTES or record.number not in (NET_V1_LAYERS, NET_LAYER):
            continue
        count += 1
        if count > MAX_LAYERS:
            raise ParseError(path, f"more than {MAX_LAYERS} layers; no network has that many", offset=record.start)
        generation = 2 if record.number == NET_LAYER else 1
        yield _layer(buffer, record, generation, path)


def _layer(buffer: mmap.mmap | bytes, record: Record, generation: int, path: Path) -> LayerRecord:
    fields = (V0_FIELDS, V1_FIELDS, V2_FIELDS)[generation]
    name = kind = ""
    bottoms, tops, blobs = [], [], []
    for part in walk(buffer, record.value, record.end, path):
        if part.number == fields.type and part.wire == VARINT and generation == 1:
            number = varint(buffer, part.value, part.end, path)[0]
            kind = V1_TYPES.get(V1_NUMBERS.get(number, ""), f"V1:{number}")
        elif part.wire != BYTES:
            continue
        elif part.number == fields.name:
            name = _text(buffer, part)
        elif part.number == fields.type:
            kind = _text(buffer, part)
        elif part.number == fields.bottom:
            bottoms.append(_text(buffer, part))
        elif part.number == fields.top:
            tops.append(_text(buffer, part))
        elif part.number == fields.blobs:
            blobs.append(_blob(buffer, part, path))
        elif part.number == V1_V0_LAYER and generation == 1:
            inner = _layer(buffer, part, 0, path)
            name, kind, blobs, generation = inner.name, V0_TYPES.get(inner.type, inner.type), list(inner.blobs), 0
            fields = V1_FIELDS  # The connections stand outside the V0 message.
    return LayerRecord(name, kind, tuple(bottoms), tuple(tops), generation, record.start, record.end, tuple(blobs))


def _text(buffer: mmap.mmap | bytes, record: Record) -> str:
    return bytes(buffer[record.value : record.end]).decode("utf-8", "surrogateescape")


def _blob(buffer: mmap.mmap | bytes, record: Record, path: Path) -> BlobRecord:
    shape: list[int] = []
    legacy: dict[int, int] = {}
    floats: list[Run] = []
    doubles: list[Run] = []
    raw = False
    position = record.value
    while position < record.end:
        part = next(walk(buffer, position, record.end, path))
        position = part.end
        if part.number == 7 and part.wire == BYTES:
            shape += _dims(buffer, part, path)
        elif part.number <= 4 and part.wire == VARINT:
            legacy[part.number] = signed(varint(buffer, part.value, part.end, path)[0])
        elif part.number in (5, 8):
            runs = doubles if part.number == 8 else floats
            position = _numbers(buffer, part, record.end, runs, path)
        elif part.number == 12 and part.wire == BYTES:
            raw = True
    if legacy:
        shape = [legacy.get(number, 0) for number in (1, 2, 3, 4)]
    found = doubles or floats  # Caffe ignores `data` where `double_data` is not empty.
    return BlobRecord(tuple(shape), bool(legacy), bool(doubles), raw and not found, tuple(found))


def _dims(buffer: mmap.mmap | bytes, record: Record, path: Path) -> list[int]:
    dims: list[int] = []
    for part in walk(buffer, record.value, record.end, path):
        if part.number != 1:
            continue
        position = part.value
        while position < part.end:
            value, position = varint(buffer, position, part.end, path)
            dims.append(signed(value))
            if len(dims) > MAX_AXES:
                raise ParseError(path, f"a blob has more than {MAX_AXES} axes", offset=part.start)
    return dims


def _numbers(buffer: mmap.mmap | bytes, part: Record, end: int, runs: list[Run], path: Path) -> int:
    """Add the `data` or `double_data` field `part` to `runs`; return the offset behind what was taken.

    Unpacked numbers stand one by one, each behind its tag: all that follow each other make one run.
    """
    size, single, unpacked = (8, FIXED64, _UNPACKED_DOUBLES) if part.number == 8 else (4, FIXED32, _UNPACKED_FLOATS)
    if len(runs) >= MAX_RUNS:
        raise ParseError(path, f"a blob is in more than {MAX_RUNS} pieces", offset=part.start)
    if part.wire == BYTES:
        if (part.end - part.value) % size:
            found = f"{part.end - part.value} bytes of numbers of {size} bytes each"
            raise ParseError(path, f"a blob holds {found}; the file is damaged", offset=part.start)
        if part.end > part.value:
            runs.append(Run(part.value, (part.end - part.value) // size, size))
    elif part.wire == single:
        match = unpacked.match(buffer, part.start, end)
        if match and match.end() > part.start:
            stride = size + part.value - part.start
            runs.append(Run(part.value, (match.end() - part.start) // stride, stride))
            return match.end()
        runs.append(Run(part.value, 1, size))  # A tag in more bytes than it needs: legal, never seen.
    return part.end


def encode_blob(array: NDArray[np.floating], *, legacy: bool) -> tuple[bytes, NDArray[np.float32]]:
    """Return a blob's header (everything before the numbers) and its numbers as packed float32.

    With `legacy`, num/channels/height/width are written beside the shape: the oldest Caffes read nothing else.
    """
    import numpy as np

    numbers = np.ascontiguousarray(array, "<f4")
    dims = b"".join(encode_varint(n) for n in array.shape)
    header = b""
    if legacy and array.ndim <= 4:
        padded = (1,) * (4 - array.ndim) + array.shape
        header = b"".join(encode_tag(i, VARINT) + encode_varint(n) for i, n in enumerate(padded, 1))
    header += encode_bytes(7, encode_bytes(1, dims))
    return header + encode_tag(5, BYTES) + encode_varint(numbers.nbytes), numbers


@dataclass(frozen=True, eq=False)
class NewLayer:
    """A layer to be written: `head` holds every field but the blobs, which become float32 on disk."""

    name: str
    head: bytes
    generation: int
    blobs: tuple[NDArray[np.floating], ...]
    legacy: bool = False

    def encode(self) -> list[bytes | NDArray[np.float32]]:
        """Return the layer's field in pieces; the numbers stay arrays until they are written."""
        number, fields = (NET_LAYER, V2_FIELDS) if self.generation == 2 else (NET_V1_LAYERS, V1_FIELDS)
        pieces: list[bytes | NDArray[np.float32]] = [self.head]
        for blob in self.blobs:
            header, numbers = encode_blob(blob, legacy=self.legacy)
            length = encode_varint(len(header) + numbers.nbytes)
            pieces += [encode_tag(fields.blobs, BYTES) + length + header, numbers]
        size = sum(_size(piece) for piece in pieces)
        return [encode_tag(number, BYTES) + encode_varint(size), *pieces]


def head(name: str, type_name: str, bottoms: Sequence[str], tops: Sequence[str], generation: int) -> bytes:
    """Return the fields that name and connect a layer, in the spelling of `generation` 1 or 2."""
    fields = V2_FIELDS if generation == 2 else V1_FIELDS
    if generation == 2:
        kind = encode_bytes(fields.type, _utf8(type_name))
    else:
        enum = next(number for number, spelling in V1_NUMBERS.items() if V1_TYPES.get(spelling) == type_name)
        kind = encode_tag(fields.type, VARINT) + encode_varint(enum)
    texts = [(fields.bottom, text) for text in bottoms] + [(fields.top, text) for text in tops]
    links = b"".join(encode_bytes(number, _utf8(text)) for number, text in texts)
    return encode_bytes(fields.name, _utf8(name)) + kind + links


def reweighed(model: Caffemodel, record: LayerRecord, blobs: Sequence[NDArray[np.floating]]) -> NewLayer:
    """Return `record` with other numbers in its blobs and every other field as it was."""
    fields = V2_FIELDS if record.generation == 2 else V1_FIELDS
    outer = next(walk(model.buffer, record.start, record.end, model.path))
    parts = walk(model.buffer, outer.value, outer.end, model.path)
    kept = b"".join(bytes(model.buffer[p.start : p.end]) for p in parts if p.number != fields.blobs)
    return NewLayer(record.name, kept, record.generation, tuple(blobs), any(b.legacy for b in record.blobs))


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _size(piece: bytes | NDArray[np.float32]) -> int:
    return len(piece) if isinstance(piece, bytes) else piece.nbytes


@dataclass(frozen=True, eq=False)
class Replacement:
    """Put `layers` in place of the bytes `start:end` of a caffemodel."""

    start: int
    end: int
    layers: Sequence[NewLayer]


def write(model: Caffemodel, replacements: Sequence[Replacement], path: Path) -> None:
    """Stream the caffemodel with `replacements` applied to `path`; every other byte is copied from the mapping.

    Raises ModelError, before the file is opened, when the result would be over protobuf's 2 GiB - 1.
    """
    ordered = sorted(replacements, key=lambda r: r.start)
    pieces = [[piece for layer in r.layers for piece in layer.encode()] for r in ordered]
    size = model.size - sum(r.end - r.start for r in ordered) + sum(_size(p) for ps in pieces for p in ps)
    if size > MAX_BYTES:
        raise ModelError(
            f"{model.path.name}: the cut model would take {size} bytes; one caffemodel holds at most {MAX_BYTES} "
            "(protobuf's limit): choose smaller ranks, or HDF5 weights"
        )
    position = 0
    with path.open("wb") as file:
        for replacement, parts in zip(ordered, pieces, strict=True):
            _copy(model, position, replacement.start, file)
            for part in parts:
                file.write(part if isinstance(part, bytes) else part.data)
            position = replacement.end
        _copy(model, position, model.size, file)


def _copy(model: Caffemodel, start: int, end: int, file: IO[bytes], block: int = 1 << 22) -> None:
    for position in range(start, end, block):
        file.write(model.buffer[position : min(end, position + block)])
