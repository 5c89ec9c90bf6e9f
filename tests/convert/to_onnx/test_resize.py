"""Interp and SegNet's Upsample against their rules in NumPy; the other forms of Upsample are in test_forks.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from surgery.model import Shape
from surgery.runtime import Array, Job
from tests.convert.to_onnx.nets import Net, converted, distance, inputs, layer, single
from tests.engines import require_onnxruntime


def interpolated(image: Array, height: int, width: int) -> Array:
    """Bilinear interpolation where corners stay corners; one row or column is the first."""

    def along(values: Array, axis: int, size: int) -> Array:
        old = values.shape[axis]
        at = np.arange(size) * ((old - 1) / (size - 1) if size > 1 else 0.0)
        low = np.minimum(at.astype(int), old - 1)
        high = np.minimum(low + 1, old - 1)
        part = (at - low).reshape(-1, *(1,) * (values.ndim - 1 - axis))
        return values.take(low, axis) * (1 - part) + values.take(high, axis) * part

    return along(along(image.astype(np.float64), 2, height), 3, width)


@pytest.mark.parametrize(
    ("fields", "shape", "crop", "size"),
    [
        ("zoom_factor: 8", (2, 3, 6, 5), 0, (41, 33)),
        ("shrink_factor: 3", (2, 3, 13, 11), 0, (5, 4)),
        ("height: 7 width: 16", (2, 3, 13, 11), 0, (7, 16)),
        ("height: 1 width: 1", (2, 3, 13, 11), 0, (1, 1)),
        ("height: 13 width: 11", (2, 3, 13, 11), 0, (13, 11)),
        ("height: 4 width: 9", (2, 3, 1, 1), 0, (4, 9)),
        ("shrink_factor: 2 zoom_factor: 3", (2, 3, 9, 8), 0, (13, 10)),
        # A lone factor goes before the size, the size before both factors.
        ("zoom_factor: 2 height: 4 width: 5", (2, 3, 9, 8), 0, (17, 15)),
        ("shrink_factor: 2 zoom_factor: 3 height: 4 width: 5", (2, 3, 9, 8), 0, (4, 5)),
        ("zoom_factor: 2 pad_beg: -2 pad_end: -1", (2, 3, 9, 8), 3, (11, 9)),
        ("height: 6 width: 5 pad_beg: -2 pad_end: -1", (2, 3, 9, 8), 3, (6, 5)),
    ],
)
def test_interp_keeps_corners(fields: str, shape: Shape, crop: int, size: tuple[int, int], tmp_path: Path) -> None:
    net = single("Interp", f"interp_param {{ {fields} }}", shape)
    runs = [(13, False), (13, True), (22, True)]
    files = [converted(net, tmp_path / str(i), opset=opset, dynamic=dynamic) for i, (opset, dynamic) in enumerate(runs)]
    images = [inputs(net, more=int(dynamic)) for _, dynamic in runs]
    jobs = [Job([one.path], [values]) for one, values in zip(files, images, strict=True)]
    for result, values in zip(require_onnxruntime().run_jobs(jobs), images, strict=True):
        assert isinstance(result, list), result
        inner = values["x0"][:, :, 2:-1, 2:-1] if crop else values["x0"]
        # Positions are float32 too.
        assert distance(result[0]["y0"], interpolated(inner, *size).astype(np.float32)) < 2e-6


def test_interp_takes_the_size_of_a_second_bottom(tmp_path: Path) -> None:
    found, (image, _) = run(single("Interp", "", (1, 3, 9, 8), (1, 7, 4, 15)), tmp_path)
    assert distance(found, interpolated(image, 4, 15).astype(np.float32)) < 2e-6


# Sizes where a factor in single precision falls short of the ratio of the sizes.
@pytest.mark.parametrize(("old", "new"), [(3, 10), (7, 45), (41, 47), (55, 56), (97, 473), (61, 1)])
def test_a_dynamic_batch_gives_the_size_that_caffe_gives(old: int, new: int, tmp_path: Path) -> None:
    net = single("Interp", f"interp_param {{ height: {new} width: {new} }}", (2, 1, old, old))
    found, (image,) = run(net, tmp_path, dynamic=True)
    # Positions are float32, so the further from the origin the coarser: at 97 pixels 97 * 2^-24.
    assert distance(found, interpolated(image, new, new).astype(np.float32)) < 6e-6


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ("scale: 2", (10, 14)),
        ("scale: 2 pad_out_h: true pad_out_w: true", (9, 13)),
        ("scale_h: 2 scale_w: 3", (10, 21)),
        ("upsample_h: 11 upsample_w: 20", (11, 20)),
    ],
)
def test_unpooling_puts_numbers_where_the_mask_says(
    fields: str, size: tuple[int, int], dynamic: bool, tmp_path: Path
) -> None:
    def places(rng: np.random.Generator, shape: Shape) -> Array:
        planes = [rng.permutation(size[0] * size[1])[: shape[2] * shape[3]] for _ in range(shape[0] * shape[1])]
        return np.asarray(planes, np.float32).reshape(shape)

    net = single("Upsample", f"upsample_param {{ {fields} }}", (2, 3, 5, 7), (2, 3, 5, 7), values={"x1": places})
    found, (image, mask) = run(net, tmp_path, dynamic=dynamic)
    expected = np.zeros((*image.shape[:2], size[0] * size[1]), np.float32)
    np.put_along_axis(expected, mask.astype(int).reshape(*mask.shape[:2], -1), image.reshape(*mask.shape[:2], -1), 2)
    np.testing.assert_array_equal(found, expected.reshape(*image.shape[:2], *size))


def test_unpooling_undoes_a_pooling_with_a_mask(tmp_path: Path) -> None:
    """As SegNet wires it: the maxima return to their places, the rest is zero."""
    text = layer("Pooling", "x0", "pool mask", "pooling_param { pool: MAX kernel_size: 2 stride: 2 }", "pool")
    text += layer("Upsample", "pool mask", "y0", "upsample_param { scale: 2 pad_out_h: true }", "up")
    found, (image,) = run(Net(text, [(2, 3, 7, 8)]), tmp_path)
    padded = np.pad(image, ((0, 0), (0, 0), (0, 1), (0, 0)), constant_values=-np.inf)
    blocks = padded.reshape(2, 3, 4, 2, 4, 2)
    is_largest = (blocks == blocks.max((3, 5), keepdims=True)).reshape(2, 3, 8, 8)[:, :, :7]
    np.testing.assert_array_equal(found, np.where(is_largest, image, 0))


def run(net: Net, folder: Path, *, opset: int = 13, dynamic: bool = False) -> tuple[Array, list[Array]]:
    one = converted(net, folder, opset=opset, dynamic=dynamic)
    values = inputs(net, more=int(dynamic))
    (found,) = require_onnxruntime().run(Job([one.path], [values]))
    return found["y0"], list(values.values())
