"""Upsample and Resize: whole factors as Deconvolution, anything else that is linear as two matrices."""

from __future__ import annotations

import math

import numpy as np

from surgery.convert.to_caffe.call import Call
from surgery.convert.to_caffe.dense import product
from surgery.convert.to_caffe.layers import Builder, Param, permuted
from surgery.convert.to_caffe.values import Array, InexpressibleError, Operand, Value

MAX_MATRIX = 2048  # sizes above make matrices that no network needs


def resize(call: Call, out: Builder) -> list[Operand]:
    """Lower a Resize or an Upsample of rows and columns."""
    value = out.plain(call.operand(0))
    scales, sizes = _target(call, value)
    if len(value.shape) != 4 or sizes[:2] != list(value.shape[:2]):
        raise InexpressibleError(f"it resizes {value.shape} to {tuple(sizes)}; only rows and columns are expressible")
    matrices = [_matrix(call, value.shape[axis], sizes[axis], scales[axis]) for axis in (2, 3)]
    factors = [new // old for new, old in zip(sizes[2:], value.shape[2:], strict=True)]
    if all(_repeats(matrix, factor) for matrix, factor in zip(matrices, factors, strict=True)):
        return [_repeated(out, value, factors)]
    return [_by_matrices(out, value, matrices)]


def _by_matrices(out: Builder, value: Value, matrices: list[Array]) -> Value:
    rows, columns = matrices
    if not _is_identity(columns):
        value = product(out, value, columns)
    if not _is_identity(rows):
        value = permuted(product(out, permuted(value, (0, 1, 3, 2)), rows), (0, 1, 3, 2))
    return value


def _is_identity(matrix: Array) -> bool:
    return matrix.shape[0] == matrix.shape[1] and bool(np.array_equal(matrix, np.eye(len(matrix))))


def _repeats(matrix: Array, factor: int) -> bool:
    """Say whether a matrix repeats each number `factor` times."""
    if factor < 1 or matrix.shape[0] != factor * matrix.shape[1]:
        return False
    return bool(np.array_equal(matrix, np.repeat(np.eye(matrix.shape[1]), factor, 0)))


def _repeated(out: Builder, value: Value, factors: list[int]) -> Value:
    """Add a Deconvolution that puts each number down as a block of ones."""
    if factors == [1, 1]:
        return value
    batch, channels, rows, columns = value.shape
    params: dict[str, Param] = {"num_output": channels}
    if factors[0] == factors[1]:
        params |= {"kernel_size": factors[0], "stride": factors[0]}
    else:
        names = ("kernel_h", "kernel_w", "stride_h", "stride_w")
        params |= dict(zip(names, (*factors, *factors), strict=True))
    params |= {"group": channels, "bias_term": False}
    weight = np.ones((channels, 1, *factors), np.float32)
    shape = (batch, channels, rows * factors[0], columns * factors[1])
    return out.add("Deconvolution", [value], shape, params, [weight])


def _target(call: Call, value: Value) -> tuple[list[float], list[int]]:
    """Return scales and sizes for all axes."""
    if call.has("axes"):
        raise InexpressibleError("it names axes; expected scales or sizes for all")
    stated: Array | None
    if call.type == "Upsample":
        stated = call.needed(1, "scales") if call.opset >= 9 else np.asarray(call.numbers("scales"))
    else:
        stated = call.array(1 if call.opset < 11 else 2, "scales")
    if stated is not None and stated.size:
        scales = [float(n) for n in stated.reshape(-1)]
        if len(scales) != len(value.shape) or not all(0 < scale < MAX_MATRIX for scale in scales):
            raise InexpressibleError(f"its scales are {scales} for {len(value.shape)} axes")
        return scales, [math.floor(n * s) for n, s in zip(value.shape, scales, strict=True)]
    sizes = call.needed(3, "sizes").reshape(-1)
    if len(sizes) != len(value.shape) or call.text("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise InexpressibleError(f"it resizes {value.shape} to {list(sizes)} by a rule of its own")
    return [int(n) / old for n, old in zip(sizes, value.shape, strict=True)], [int(n) for n in sizes]


def _matrix(call: Call, old: int, new: int, scale: float) -> Array:
    """Return the matrix (new, old) that resizes one axis."""
    if max(old, new) > MAX_MATRIX or new < 1:
        raise InexpressibleError(f"it resizes {old} numbers to {new}; expected 1 to {MAX_MATRIX}")
    mode = call.text("mode", "nearest")
    places = _places(call, old, new, scale)
    if mode == "nearest":
        near = np.clip(_rounded(call, places), 0, old - 1)
        chosen: Array = np.eye(old, dtype=np.float32)[near.astype(int)]
        return chosen
    if mode != "linear" or call.integer("antialias", 0):
        raise InexpressibleError(f"its mode is '{mode}'; expected nearest or linear without antialias")
    places = np.clip(places, 0, old - 1)
    low = np.minimum(np.floor(places), max(0, old - 2)).astype(int)
    share = (places - low)[:, None]
    eye = np.eye(old)
    high = eye[np.minimum(low + 1, old - 1)]
    matrix: Array = ((1 - share) * eye[low] + share * high).astype(np.float32)
    return matrix


def _places(call: Call, old: int, new: int, scale: float) -> Array:
    """Return where in the input each output number lies."""
    default = "half_pixel" if call.type == "Resize" and call.opset >= 11 else "asymmetric"
    mode = call.text("coordinate_transformation_mode", default)
    index = np.arange(new, dtype=np.float64)
    if mode == "asymmetric":
        return index / scale
    if mode == "align_corners":
        return index * (old - 1) / (new - 1) if new > 1 else np.zeros(1)
    if mode == "half_pixel" or (mode == "pytorch_half_pixel" and new > 1):
        return (index + 0.5) / scale - 0.5
    if mode == "pytorch_half_pixel":
        return np.zeros(1)
    raise InexpressibleError(f"its coordinate_transformation_mode is '{mode}', which is not known here")


def _rounded(call: Call, places: Array) -> Array:
    default = "round_prefer_floor" if call.type == "Resize" and call.opset >= 11 else "floor"
    mode = call.text("nearest_mode", default)
    if mode == "floor":
        return np.floor(places)
    if mode == "ceil":
        return np.ceil(places)
    return np.ceil(places - 0.5) if mode == "round_prefer_floor" else np.floor(places + 0.5)
