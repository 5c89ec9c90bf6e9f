r"""A file for layers whose weights are -1, 0 and 1, at 2 bits each, beside the stock files that hold them as float32.

Every number is little-endian, and everything is in one piece, in this order:

    offset  bytes  what
    0       8      magic: 53 47 59 54 45 52 4E 00 ("SGYTERN" and a zero byte)
    8       4      format, unsigned: 1
    12      4      H, unsigned: bytes of the header
    16      32     SHA-256 of all bytes from offset 48 to the end of the file
    48      H      header: JSON (UTF-8), spaces behind it so that 48 + H is a multiple of 16
    48 + H         layers, in the order of the header

The header is {"metadata": {...}, "layers": [...]}; metadata is the writer's own. A layer is

    {"name": "fc1_1", "shape": [500, 800], "groups": 1, "scale": "output", "offset": 0}

and its bytes begin at 48 + H + offset, a multiple of 4. First come the values, in C order of "shape" (out, in / groups,
kernel height, kernel width; or out, in), four to a byte from its lowest bits up: 00 is 0, 01 is 1, 11 is -1 (two's
complement), 10 never occurs. Zero bits fill up to a multiple of 4 bytes. Then come float32 scales: none for "scale":
"none"; one for each output, shape[0] of them, for "output"; one for each input, groups * shape[1], for "input". The
next layer follows at once. The weight of output o, input i of its group g = o / (shape[0] / groups) and kernel tap t is

    size_t n = ((size_t)o * shape[1] + i) * taps + t;
    int code = values[n >> 2] >> (2 * (n & 3)) & 3;
    float w = (code == 3 ? -1 : code) * (output ? scale[o] : input ? scale[g * shape[1] + i] : 1);
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from surgery.errors import ModelError, ParseError
from surgery.ops import Chain, Conv2d, Op, Scale
from surgery.ops.arithmetic import input_scales
from surgery.output import staged_file

FORMAT = 1
MAGIC = b"SGYTERN\0"
_PREFIX = struct.Struct("<8sII32s")
_ALIGNMENT = 16
MAX_HEADER = 2**22  # Bytes: the names of 30 000 layers, and parsed in 100 MB at most.
MAX_SIDE = 2**31 - 1
_FIELDS = {"name": str, "shape": list, "groups": int, "scale": str, "offset": int}


@dataclass(frozen=True, eq=False, slots=True)
class TernaryLayer:
    """A weight as -1, 0, 1 times a scale for each output or input.

    Attributes:
        values: int8, (out, in) or (out, in / groups, kh, kw).
        scale: float32; none where `along` is "none", else one for each output or each input of the layer.
        along: "none", "output" or "input".
        groups: as of a convolution.

    Raises:
        ModelError: the values are others, or the shapes do not fit.
    """

    values: npt.NDArray[np.int8]
    scale: npt.NDArray[np.float32]
    along: str = "none"
    groups: int = 1

    def __post_init__(self) -> None:
        shape = self.values.shape
        if len(shape) not in (2, 4) or 0 in shape or self.groups < 1 or shape[0] % self.groups:
            raise ModelError(f"a ternary layer has shape {shape} in {self.groups} groups; expected (out, in, ...)")
        if self.scale.shape != (_scales(self.along, shape, self.groups),) or not np.isfinite(self.scale).all():
            raise ModelError(f"a ternary layer of shape {shape} has scales of shape {self.scale.shape}, or not finite")
        if self.values.min() < -1 or self.values.max() > 1:
            raise ModelError("a ternary layer holds other numbers than -1, 0 and 1")

    @property
    def weight(self) -> npt.NDArray[np.float32]:
        """The weight as stock files hold it, bit for bit but for the sign of zeros."""
        shape = self.values.shape
        weight = self.values.reshape(self.groups, shape[0] // self.groups, shape[1], -1).astype(np.float32)
        if self.along != "none":
            weight *= self.scale.reshape(self.groups, *((-1, 1, 1) if self.along == "output" else (1, -1, 1)))
        return weight.reshape(shape)


def ternary_layers(chain: Chain, names: Sequence[str]) -> dict[str, TernaryLayer]:
    """Return the ternary layers of a chain under the names of its stages; a scale goes to the layer before it.

    A layer with a scale folded in, -d, 0, d for each input, is one too; others are left out.
    """
    found: dict[str, TernaryLayer] = {}
    for index, (name, op) in enumerate(zip(names, chain.ops, strict=True)):
        layer = None if isinstance(op, Scale) else _of_op(op)
        if layer is None:
            continue
        after = chain.ops[index + 1] if index + 1 < len(chain.ops) else None
        if isinstance(after, Scale) and layer.along == "none":
            scale = np.broadcast_to(after.factor, (op.out_channels,)).astype(np.float32)
            layer = TernaryLayer(layer.values, scale, "output", layer.groups)
        found[name] = layer
    return found


def _of_op(op: Op) -> TernaryLayer | None:
    """Return the layer if its weights for each input are 0 and plus or minus one number."""
    scales = input_scales(op)
    if scales is None:
        return None
    groups = op.groups if isinstance(op, Conv2d) else 1
    values = np.sign(op.weight).astype(np.int8)
    if np.isin(scales, (0, 1)).all():
        return TernaryLayer(values, np.empty(0, np.float32), groups=groups)
    return TernaryLayer(values, scales.astype(np.float32), "input", groups)


def restored(layers: Mapping[str, TernaryLayer]) -> dict[str, npt.NDArray[np.float32]]:
    """Return each layer's float32 weight, scales multiplied in."""
    return {name: layer.weight for name, layer in layers.items()}


def write(path: Path, layers: Mapping[str, TernaryLayer], metadata: Mapping[str, Any]) -> int:
    """Write a file whole or not at all, and return its size in bytes. `metadata` is anything that JSON can hold."""
    rows, parts, offset = [], [], 0
    for name, layer in layers.items():
        part = _packed(layer)
        row = {"name": name, "shape": list(layer.values.shape), "groups": layer.groups, "scale": layer.along}
        rows.append(row | {"offset": offset})
        parts.append(part)
        offset += len(part)
    header = json.dumps({"metadata": dict(metadata), "layers": rows}, allow_nan=False).encode()
    header += b" " * (-(_PREFIX.size + len(header)) % _ALIGNMENT)
    if len(header) > MAX_HEADER:
        raise ModelError(f"{path}: its header would take {len(header)} bytes; expected at most {MAX_HEADER}")
    digest = hashlib.sha256()
    for part in (header, *parts):
        digest.update(part)
    with staged_file(path, ()) as staging, staging.open("wb") as file:
        file.write(_PREFIX.pack(MAGIC, FORMAT, len(header), digest.digest()))
        file.writelines((header, *parts))
    return _PREFIX.size + len(header) + offset


def read(path: Path) -> tuple[dict[str, TernaryLayer], dict[str, Any]]:
    """Return the layers and the metadata of a file that `write` wrote.

    What is taken in memory is bounded by the file's own size (a byte for each weight, and as much again while a layer
    is unpacked), whatever the file says of itself.

    Raises:
        ParseError: the file is not of this format, or damaged.
    """
    data = memoryview(path.read_bytes())
    header, payload = _split(path, data)
    layers: dict[str, TernaryLayer] = {}
    offset = 0
    for row in header["layers"]:
        name, along, groups, shape = _checked(path, row, offset)
        if name in layers:
            raise ParseError(path, f"layer {name[:200]!r} is there twice; expected every name once")
        end = offset + _value_bytes(shape) + 4 * _scales(along, shape, groups)
        if end > len(payload):
            raise ParseError(
                path, f"layer {name[:200]!r} of shape {shape} ends {end - len(payload)} bytes behind the file"
            )
        layers[name] = _unpacked(path, name, payload[offset:end], shape, along, groups)
        offset = end
    if offset != len(payload):
        raise ParseError(path, f"{len(payload) - offset} bytes follow the last layer; expected none")
    return layers, header["metadata"]


def _split(path: Path, data: memoryview) -> tuple[dict[str, Any], memoryview]:
    """Return header and layers of a file that is whole, the header's own fields checked."""
    if len(data) < _PREFIX.size or data[: len(MAGIC)] != MAGIC:
        raise ParseError(path, "is no file of ternary layers: it does not begin as one", offset=0)
    _, form, length, digest = _PREFIX.unpack_from(data)
    if form != FORMAT:
        raise ParseError(path, f"is of format {form}; expected {FORMAT}", offset=len(MAGIC))
    rest = data[_PREFIX.size :]
    if length > min(len(rest), MAX_HEADER):
        raise ParseError(path, f"its header of {length} bytes is longer than the file, or than {MAX_HEADER}", offset=12)
    if hashlib.sha256(rest).digest() != digest:
        raise ParseError(path, "its SHA-256 is another: the file is damaged or incomplete; get it again", offset=16)
    try:
        header = json.loads(bytes(rest[:length]))
    except (ValueError, RecursionError) as error:
        raise ParseError(path, f"its header is not JSON: {error}", offset=_PREFIX.size) from error
    kinds = {"metadata": dict, "layers": list}
    if not isinstance(header, dict) or any(not isinstance(header.get(name), kind) for name, kind in kinds.items()):
        raise ParseError(path, 'its header has no "metadata" and "layers" as `write` makes them', offset=_PREFIX.size)
    return header, rest[length:]


def _checked(path: Path, row: Any, offset: int) -> tuple[str, str, int, tuple[int, ...]]:
    """Return name, along, groups and shape of a layer that is to begin at `offset`."""
    if not isinstance(row, dict) or any(type(row.get(name)) is not kind for name, kind in _FIELDS.items()):
        raise ParseError(path, f"a layer in its header is incomplete; expected {', '.join(_FIELDS)}")
    shape, groups, along = tuple(row["shape"]), row["groups"], row["scale"]
    where = f"layer {row['name'][:200]!r}"
    if len(shape) not in (2, 4) or any(type(side) is not int or not 1 <= side <= MAX_SIDE for side in shape):
        raise ParseError(path, f"{where} has another shape than 2 or 4 numbers from 1 to {MAX_SIDE}")
    if not 1 <= groups <= shape[0] or shape[0] % groups or along not in _SCALES:
        raise ParseError(path, f"{where} has {str(groups)[:200]} groups of {shape[0]} outputs, scales '{along[:200]}'")
    if row["offset"] != offset:
        raise ParseError(
            path, f"{where} begins at {str(row['offset'])[:200]}; expected {offset}, behind the one before"
        )
    return row["name"], along, groups, shape


_SCALES = ("none", "output", "input")


def _scales(along: str, shape: Sequence[int], groups: int) -> int:
    """Return how many scales a layer has."""
    return {"none": 0, "output": shape[0], "input": groups * shape[1]}[along]


def _value_bytes(shape: Sequence[int]) -> int:
    """Return the bytes of the packed values, filled up."""
    return -(-prod(shape) // 16) * 4


def _packed(layer: TernaryLayer) -> bytes:
    codes = np.zeros((_value_bytes(layer.values.shape), 4), np.uint8)
    codes.reshape(-1)[: layer.values.size] = layer.values.reshape(-1).view(np.uint8) & 3
    codes <<= np.array([0, 2, 4, 6], np.uint8)
    packed: bytes = np.bitwise_or.reduce(codes, axis=1).tobytes()
    return packed + layer.scale.astype("<f4").tobytes()


def _unpacked(path: Path, name: str, data: memoryview, shape: tuple[int, ...], along: str, groups: int) -> TernaryLayer:
    size, length = prod(shape), _value_bytes(shape)
    codes = (np.frombuffer(data[:length], np.uint8)[:, np.newaxis] >> np.array([0, 2, 4, 6], np.uint8)) & 3
    values = _VALUES[codes].reshape(-1)
    if values.min() < -1 or values[size:].any():
        raise ParseError(path, f"layer {name[:200]!r} holds codes that stand for no number; expected 00, 01 and 11")
    scale = np.frombuffer(data[length:], "<f4").astype(np.float32)
    if not np.isfinite(scale).all():
        raise ParseError(path, f"layer {name[:200]!r} has scales that are not finite")
    return TernaryLayer(values[:size].reshape(shape), scale, along, groups)


_VALUES = np.array([0, 1, -2, -1], np.int8)  # -2 stands for the code that never occurs.
