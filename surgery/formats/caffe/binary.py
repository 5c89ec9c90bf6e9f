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
from surgery.formats.patching import Patch, patched
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
# Several times what the largest known networks need; they keep the time and the memory of an index bounded.
MAX_LAYERS = 20_000
MAX_PARTS = 500_000  # fields looked at
MAX_TEXT = 16_000_000  # bytes of names
MAX_AXES = 32  # Caffe's own limit

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
    return Caffemodel(path, buffer, tuple(_layers(_Source(buffer, path))))


@dataclass(eq=False)
class _Source:
    """The bytes being indexed, and how much more of them may be looked at."""

    buffer: mmap.mmap | bytes
    path: Path
    parts: int = MAX_PARTS
    text: int = MAX_TEXT

    def walk(self, start: int, end: int) -> Iterator[Record]:
        for record in walk(self.buffer, start, end, self.path):
            self.parts -= 1
            if self.parts < 0:
                raise self.error(record.start, f"more than {MAX_PARTS} fields beside the weights' numbers")
            yield record

    def varint(self, record: Record) -> int:
        return varint(self.buffer, record.value, record.end, self.path)[0]

    def string(self, record: Record) -> str:
        self.text -= record.end - record.value
        if self.text < 0:
            raise self.error(record.start, f"more than {MAX_TEXT} bytes of names")
        return self.buffer[record.value : record.end].decode("utf-8", "surrogateescape")

    def error(self, offset: int, message: str) -> ParseError:
        return ParseError(self.path, f"{message}; no network has that many", offset=offset)


def _layers(source: _Source) -> Iterator[LayerRecord]:
    count = 0
    for record in source.walk(0, len(source.buffer)):
        if record.wire != BYTES or record.number not in (NET_V1_LAYERS, NET_LAYER):
            continue
        count += 1
        if count > MAX_LAYERS:
            raise source.error(record.start, f"more than {MAX_LAYERS} layers")
        yield _layer(source, record, 2 if record.number == NET_LAYER else 1)


def _layer(source: _Source, record: Record, generation: int) -> LayerRecord:
    fields = V2_FIELDS if generation == 2 else V1_FIELDS
    name = kind = ""
    bottoms, tops, blobs, v0_layers = [], [], [], []
    for part in source.walk(record.value, record.end):
        if part.number == fields.type and part.wire == VARINT and generation == 1:
            number = source.varint(part)
            kind = V1_TYPES.get(V1_NUMBERS.get(number, ""), f"V1:{number}")
        elif part.wire != BYTES:
            continue
        elif part.number == fields.name:
            name = source.string(part)
        elif part.number == fields.type and generation == 2:
            kind = source.string(part)
        elif part.number == fields.bottom:
            bottoms.append(source.string(part))
        elif part.number == fields.top:
            tops.append(source.string(part))
        elif part.number == fields.blobs:
            blobs.append(_blob(source, part))
        elif part.number == V1_V0_LAYER and generation == 1:
            v0_layers.append(part)
    if v0_layers:  # Whatever else V1 names is not looked at then.
        generation = 0
        name, kind, blobs = _v0_layer(source, v0_layers)
    return LayerRecord(name, kind, tuple(bottoms), tuple(tops), generation, record.start, record.end, tuple(blobs))


def _v0_layer(source: _Source, records: Sequence[Record]) -> tuple[str, str, list[BlobRecord]]:
    """Return name, type and blobs of the V0 message in a V1 layer; protobuf merges one that comes in pieces."""
    name = kind = ""
    blobs = []
    for part in (part for record in records for part in source.walk(record.value, record.end)):
        if part.wire != BYTES:
            continue
        if part.number == V0_FIELDS.name:
            name = source.string(part)
        elif part.number == V0_FIELDS.type:
            kind = source.string(part)
        elif part.number == V0_FIELDS.blobs:
            blobs.append(_blob(source, part))
    return name, V0_TYPES.get(kind, kind), blobs


def _blob(source: _Source, record: Record) -> BlobRecord:
    shape: list[int] = []
    legacy: dict[int, int] = {}
    runs: dict[int, list[Run]] = {number: [] for number in _NUMBERS}
    raw = False
    position = record.value
    while position < record.end:
        part = next(source.walk(position, record.end))
        position = part.end
        if part.number in _NUMBERS:
            position = _numbers(source, part, record.end, runs[part.number])
        elif part.number == 7 and part.wire == BYTES:
            _add_dims(source, part, shape)
        elif part.number <= 4 and part.wire == VARINT:
            legacy[part.number] = (source.varint(part) + 2**31) % 2**32 - 2**31
        elif part.number == 12 and part.wire == BYTES:
            raw = True
    if legacy:
        shape = [legacy.get(number, 0) for number in (1, 2, 3, 4)]
    found = runs[DOUBLE_DATA] or runs[DATA]  # Caffe ignores `data` where `double_data` is not empty.
    return BlobRecord(tuple(shape), bool(legacy), bool(runs[DOUBLE_DATA]), raw and not found, tuple(found))


def _add_dims(source: _Source, record: Record, shape: list[int]) -> None:
    """Add the dims of a BlobShape, packed or not, to `shape`."""
    for part in source.walk(record.value, record.end):
        if part.number != 1 or part.wire not in (VARINT, BYTES):
            continue
        position = part.value
        while position < part.end:
            value, position = varint(source.buffer, position, part.end, source.path)
            shape.append(signed(value))
            if len(shape) > MAX_AXES:
                raise ParseError(source.path, f"a blob has more than {MAX_AXES} axes", offset=part.start)


DATA, DIFF, DOUBLE_DATA, DOUBLE_DIFF = 5, 6, 8, 9
# Field -> bytes of a number, wire type of one that stands alone, and many of those, each behind its tag.
_NUMBERS = {
    DATA: (4, FIXED32, re.compile(rb"(?:\x2d.{4})*+", re.S)),
    DIFF: (4, FIXED32, re.compile(rb"(?:\x35.{4})*+", re.S)),
    DOUBLE_DATA: (8, FIXED64, re.compile(rb"(?:\x41.{8})*+", re.S)),
    DOUBLE_DIFF: (8, FIXED64, re.compile(rb"(?:\x49.{8})*+", re.S)),
}


def _numbers(source: _Source, part: Record, end: int, runs: list[Run]) -> int:
    """Add the numbers of field `part` to `runs`; return the offset behind what was taken.

    Unpacked numbers stand one by one, each behind its tag: all that follow each other make one run.
    """
    size, single, unpacked = _NUMBERS[part.number]
    if part.wire == BYTES:
        if (part.end - part.value) % size:
            found = f"{part.end - part.value} bytes of numbers of {size} bytes each"
            raise ParseError(source.path, f"a blob holds {found}; the file is damaged", offset=part.start)
        if part.end > part.value:
            runs.append(Run(part.value, (part.end - part.value) // size, size))
    elif part.wire == single:
        match = unpacked.match(source.buffer, part.start, end)
        if match and match.end() > part.start:
            stride = size + part.value - part.start
            runs.append(Run(part.value, (match.end() - part.start) // stride, stride))
            return match.end()
        runs.append(Run(part.value, 1, size))  # A tag in more bytes than it needs: legal, never seen.
    return part.end


def encode_shape(array: NDArray[np.floating], *, legacy: bool) -> bytes:
    """Return a blob up to its numbers, which follow as packed float32.

    With `legacy`, num/channels/height/width are written beside the shape: the oldest Caffes read nothing else.
    """
    dims = b"".join(encode_varint(n) for n in array.shape)
    header = b""
    if legacy and array.ndim <= 4:
        padded = (1,) * (4 - array.ndim) + array.shape
        header = b"".join(encode_tag(i, VARINT) + encode_varint(n) for i, n in enumerate(padded, 1))
    header += encode_bytes(7, encode_bytes(1, dims))
    return header + encode_tag(DATA, BYTES) + encode_varint(4 * array.size)


@dataclass(frozen=True, eq=False)
class NewLayer:
    """A layer to be written: `head` holds every field but the blobs, which become float32 on disk."""

    name: str
    head: bytes
    generation: int
    blobs: tuple[NDArray[np.floating], ...]
    legacy: bool = False

    def encode(self) -> list[bytes | NDArray[np.floating]]:
        """Return the layer's field in pieces; the numbers stay as they are until they are written."""
        number, fields = (NET_LAYER, V2_FIELDS) if self.generation == 2 else (NET_V1_LAYERS, V1_FIELDS)
        pieces: list[bytes | NDArray[np.floating]] = [self.head]
        for blob in self.blobs:
            header = encode_shape(blob, legacy=self.legacy)
            length = encode_varint(len(header) + _size(blob))
            pieces += [encode_tag(fields.blobs, BYTES) + length + header, blob]
        size = sum(_size(piece) for piece in pieces)
        return [encode_tag(number, BYTES) + encode_varint(size), *pieces]


def head(name: str, type_name: str, bottoms: Sequence[str], tops: Sequence[str], generation: int) -> bytes:
    """Return the fields that name and connect a layer, in the spelling of `generation` 1 or 2."""
    fields = V2_FIELDS if generation == 2 else V1_FIELDS
    if generation == 2:
        kind = encode_bytes(fields.type, _utf8(type_name))
    else:
        # A type that V1 has no number for, as Scale, goes unsaid: Caffe finds weights by the layer's name alone.
        enums = [number for number, spelling in V1_NUMBERS.items() if V1_TYPES.get(spelling) == type_name]
        kind = b"".join(encode_tag(fields.type, VARINT) + encode_varint(enum) for enum in enums)
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


def overwritten(model: Caffemodel, numbers: Sequence[tuple[BlobRecord, NDArray[np.floating]]]) -> Caffemodel:
    """Return the model with other numbers where its file has those of these blobs."""
    patches = []
    for blob, array in numbers:
        flat = array.astype("<f8" if blob.double else "<f4").reshape(-1)
        start = 0
        for run in blob.runs:
            patches.append(Patch(run.offset, run.stride, flat[start : start + run.count]))
            start += run.count
    return Caffemodel(model.path, patched(model.buffer, patches), model.layers)


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _size(piece: bytes | NDArray[np.floating]) -> int:
    """Return what a piece takes in the file."""
    return len(piece) if isinstance(piece, bytes) else 4 * piece.size


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
                _write_piece(part, file)
            position = replacement.end
        _copy(model, position, model.size, file)


def _copy(model: Caffemodel, start: int, end: int, file: IO[bytes], block: int = 1 << 22) -> None:
    for position in range(start, end, block):
        file.write(model.buffer[position : min(end, position + block)])


def _write_piece(piece: bytes | NDArray[np.floating], file: IO[bytes], block: int = 1 << 22) -> None:
    """Write bytes, or numbers as float32, converted a block of rows at a time."""
    if isinstance(piece, bytes):
        file.write(piece)
        return
    rows = piece.reshape(1) if piece.ndim == 0 else piece
    step = max(1, block * len(rows) // max(1, piece.nbytes))
    for start in range(0, len(rows), step):
        file.write(rows[start : start + step].astype("<f4", order="C", copy=False).data)
