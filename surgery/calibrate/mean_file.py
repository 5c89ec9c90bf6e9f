"""The mean of a training set, as Caffe's compute_image_mean (binaryproto) or NumPy (npy) saves it."""

from __future__ import annotations

from math import prod
from pathlib import Path

import numpy as np
import numpy.typing as npt

from surgery.calibrate.array_file import read_npy
from surgery.errors import DataError, ParseError
from surgery.formats.wire import BYTES, VARINT, Record, signed, varint, walk

MAX_AXES = 32  # as in Caffe

Float32Array = npt.NDArray[np.float32]

# Fields of caffe.BlobProto: the four sizes of before shapes, the numbers, and the shape with its dims.
_LEGACY, _DATA, _SHAPE, _DOUBLES, _DIM = (1, 2, 3, 4), 5, 7, 8, 1


def read_mean(path: Path) -> Float32Array:
    """Return the mean (channels, height, width), of a file with one number for each channel (channels, 1, 1).

    Raises DataError where it is not there or not such a file.
    """
    if not path.is_file():
        raise DataError(path, "no such mean file; give --preprocess with the mean's numbers instead")
    try:
        with np.errstate(over="ignore"):  # What float32 cannot hold is told below.
            mean = (read_npy if path.suffix.lower() == ".npy" else _binaryproto)(path).astype(np.float32)
    except ParseError as error:
        raise DataError(path, f"is no binaryproto of a mean: {error.message}") from error
    while mean.ndim > 3 and len(mean) == 1:
        mean = mean[0]
    shaped = mean.reshape(-1, 1, 1) if mean.ndim == 1 else mean
    if shaped.ndim != 3 or not shaped.size or not np.isfinite(shaped).all():
        raise DataError(path, f"holds a mean of shape {mean.shape}; expected channels, height, width of finite numbers")
    return shaped


def _binaryproto(path: Path) -> Float32Array:
    data = path.read_bytes()
    sizes: dict[int, int] = {}
    shape: list[int] = []
    numbers = bytearray()
    for record in walk(data, 0, len(data), path):
        if record.number in _LEGACY and record.wire == VARINT:
            sizes[record.number] = signed(varint(data, record.value, record.end, path)[0])
        elif record.number == _SHAPE and record.wire == BYTES:
            shape += _dims(data, record, path)
        elif record.number in (_DATA, _DOUBLES):
            numbers += _numbers(data, record, path).tobytes()
    found = np.frombuffer(numbers, np.float32)
    stated = shape or [sizes.get(number, 0) for number in _LEGACY]
    if not found.size or len(stated) > MAX_AXES or min(stated, default=0) < 1 or prod(stated) != found.size:
        raise ParseError(path, f"states the shape {str(stated)[:60]} and holds {found.size} numbers")
    return found.reshape(stated)


def _dims(data: bytes, outer: Record, path: Path) -> list[int]:
    dims = []
    for record in walk(data, outer.value, outer.end, path):
        if record.number != _DIM:
            continue
        position = record.value
        while position < record.end:
            value, position = varint(data, position, record.end, path)
            dims.append(signed(value))
    return dims


def _numbers(data: bytes, record: Record, path: Path) -> Float32Array:
    kind = "<f4" if record.number == _DATA else "<f8"
    raw = data[record.value : record.end]
    if record.wire == VARINT or len(raw) % np.dtype(kind).itemsize:
        raise ParseError(path, f"field {record.number} holds no numbers", offset=record.start)
    return np.frombuffer(raw, kind).astype(np.float32)
