"""What a layer reads at some positions of its output: the unfolded patches, never all of them at a time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from surgery.calibrate.twin import Site
from surgery.errors import ModelError
from surgery.ops import Conv2d, FloatArray, Linear, Op

MOST_POSITIONS = 1 << 62  # which integers count

Float32Array = npt.NDArray[np.float32]
Places = npt.NDArray[np.intp]


def positions(site: Site, x: FloatArray, images: int, count: int, rng: np.random.Generator) -> Places:
    """Return at most `count` output positions (images, count) of each image, drawn without repeats, in random order.

    A position counts through the rows and columns of the output, or the rows of a fully connected layer's input, and
    through the image's own samples where the batch axis of `x` has several for each (proposals, time steps).

    Raises ModelError where the layer cannot read `x`: it never runs itself, so no runtime tells.
    """
    _check(site, x)
    each = _samples(site, x) // images
    if each <= count:
        return np.stack([rng.permutation(each) for _ in range(images)])
    return np.stack([rng.choice(each, count, replace=False) for _ in range(images)])


def patches(site: Site, x: FloatArray, places: Places) -> Float32Array:
    """Return the inputs (images, count, groups, n) at the positions, in the order of `weight.reshape(out, -1)`."""
    images, count = places.shape
    flat = (places + np.arange(images)[:, None] * (_samples(site, x) // images)).reshape(-1)
    if isinstance(site.op, Linear):
        rows: Float32Array = x.reshape(-1, site.op.in_channels)[flat].astype(np.float32, copy=False)
        return rows.reshape(images, count, 1, -1)
    found = _windows(site, site.op, x, flat)
    return found.reshape(images, count, site.op.groups, -1)


def responses(op: Op, x: Float32Array) -> Float32Array:
    """Return the layer's outputs (..., out) for inputs (..., groups, n)."""
    groups = x.shape[-2]
    weight = op.weight.reshape(groups, len(op.weight) // groups, -1).astype(np.float32, copy=False)
    made = np.concatenate([x[..., g, :] @ weight[g].T for g in range(groups)], axis=-1)
    result: Float32Array = made if op.bias is None else made + op.bias.astype(np.float32)
    return result


def _windows(site: Site, op: Conv2d, x: FloatArray, flat: Places) -> Float32Array:
    """Return the windows (positions, in, kh, kw) of a convolution's input (batch, in, height, width)."""
    height, width = _output_size(site, op, x)
    sample, place = np.divmod(flat, height * width)
    row, rows_in = _taps(site, op, x, place // width, 0)
    column, columns_in = _taps(site, op, x, place % width, 1)
    found = x[sample[:, None, None], :, row[:, :, None], column[:, None, :]]  # (positions, kh, kw, in)
    inside = (rows_in[:, :, None] & columns_in[:, None, :])[..., None]
    return np.where(inside, found, 0).astype(np.float32, copy=False).transpose(0, 3, 1, 2)


def _taps(site: Site, op: Conv2d, x: FloatArray, place: Places, axis: int) -> tuple[Places, npt.NDArray[np.bool_]]:
    """Return where a window's taps lie on one axis (positions, taps), kept inside, and which of them lay inside."""
    begin = place * op.stride[axis] - site.pads[axis][0]
    taps = begin[:, None] + np.arange(op.kernel[axis]) * op.dilation[axis]
    last = x.shape[2 + axis] - 1
    return np.clip(taps, 0, last), (taps >= 0) & (taps <= last)


def _check(site: Site, x: FloatArray) -> None:
    wanted = site.op.in_channels
    fits = x.size % wanted == 0 if isinstance(site.op, Linear) else x.shape[1] == wanted
    if not fits or not 0 < _samples(site, x) <= MOST_POSITIONS:
        raise ModelError(
            f"{site.key}: reads maps of {'x'.join(map(str, x.shape))}, which its weight or pads do not fit"
        )


def _samples(site: Site, x: FloatArray) -> int:
    """Return the output positions of all images together."""
    if isinstance(site.op, Linear):
        return x.size // site.op.in_channels
    height, width = _output_size(site, site.op, x)
    return len(x) * height * width


def _output_size(site: Site, op: Conv2d, x: FloatArray) -> tuple[int, int]:
    height, width = (
        (size + sum(ends) - dilation * (kernel - 1) - 1) // stride + 1
        for size, ends, kernel, stride, dilation in zip(
            x.shape[2:], site.pads, op.kernel, op.stride, op.dilation, strict=True
        )
    )
    return height, width
