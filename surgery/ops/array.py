"""Array types, and float64 arithmetic on weights too large or too unaligned to be handed to BLAS whole."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating]
Float64Array = npt.NDArray[np.float64]
Size = tuple[int, int]  # (height, width) in pixels

SHARE = 8  # A tile takes no more than this part of the columns of a product: few matrices are large beside a block.
BLOCK_BYTES = 4 * 2**20  # Large enough for BLAS to run at full speed, small beside any layer worth blocking.


def blocks(length: int, item_bytes: int) -> Iterator[slice]:
    """Yield slices that cover `range(length)` in order, each of at most `BLOCK_BYTES` (and at least one item)."""
    step = max(1, BLOCK_BYTES // max(1, item_bytes))
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))


def product(left: FloatArray, right: FloatArray, dtype: npt.DTypeLike = np.float64) -> FloatArray:
    """Return `left @ right` of shape (m, n), summed in float64 and rounded once to `dtype`.

    The operands, (m, k) and (k, n), are converted tile by tile: given an unaligned or float32 array whole,
    BLAS would first copy all of it.
    """
    (rows, inner), columns = left.shape, right.shape[1]
    result: FloatArray = np.empty((rows, columns), dtype=dtype)
    for i in blocks(rows, 8 * inner):
        tile = np.require(left[i], np.float64, "A")
        for j in blocks(columns, max(8 * max(inner, tile.shape[0]), SHARE * BLOCK_BYTES // columns)):
            result[i, j] = tile @ right[:, j].astype(np.float64)
        del tile  # The next one has its place.
    return result


def read_only(array: FloatArray) -> FloatArray:
    """Return a view of `array` that cannot be written through; nothing is copied."""
    view = array.view()
    view.flags.writeable = False
    return view


def check_weight(kind: str, weight: FloatArray, axes: str) -> None:
    """Raise ValueError unless `weight` is a float array with one non-empty axis for each name in `axes`."""
    if weight.dtype.kind != "f":
        raise ValueError(f"{kind}: weight holds {weight.dtype}, expected floating point numbers")
    if weight.ndim != axes.count(",") + 1 or 0 in weight.shape:
        raise ValueError(f"{kind}: weight has shape {weight.shape}, expected {axes} with no empty axis")


def check_bias(kind: str, bias: FloatArray | None, outputs: int) -> None:
    """Raise ValueError unless `bias` is None or a float vector of `outputs` numbers."""
    if bias is not None and (bias.dtype.kind != "f" or bias.shape != (outputs,)):
        raise ValueError(f"{kind}: bias is {bias.dtype} of shape {bias.shape}, expected floats of shape ({outputs},)")
