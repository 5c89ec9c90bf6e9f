"""ROIPooling and PSROIPooling against Fast R-CNN's and R-FCN's rules in NumPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from surgery.convert.to_onnx import to_onnx
from surgery.errors import ConversionError
from surgery.model import Shape
from surgery.runtime import Array, Job
from tests.convert.to_onnx.nets import converted, distance, inputs, single, write
from tests.engines import require_onnxruntime

IMAGES = 3


def regions(rng: np.random.Generator, shape: Shape) -> Array:
    """Image, left, top, right, bottom; some end outside, some are turned inside out, many lie on halves."""
    corners = np.round(rng.uniform(-40, 200, (shape[0], 2, 2)) * 2) / 2
    corners[1:] = np.sort(corners[1:], 1)
    image = rng.integers(0, IMAGES, (shape[0], 1))
    return np.concatenate([image, corners.reshape(-1, 4)], 1).reshape(shape).astype(np.float32)


def half_away(values: Array) -> Array:
    return np.copysign(np.floor(np.abs(values) + np.float32(0.5)), values)


def clipped(low: Array, high: Array, side: int) -> slice:
    return slice(int(np.clip(low, 0, side)), int(np.clip(high, 0, side)))


def fast_rcnn(features: Array, rois: Array, grid: tuple[int, int], scale: float) -> Array:
    result = np.zeros((len(rois), features.shape[1], *grid), np.float32)
    for index, (image, *corners) in enumerate(rois.reshape(-1, 5)):
        left, top, right, bottom = half_away(np.asarray(corners, np.float32) * np.float32(scale))
        height, width = max(bottom - top + 1, 1), max(right - left + 1, 1)
        bin_h, bin_w = np.float32(height) / np.float32(grid[0]), np.float32(width) / np.float32(grid[1])
        for p, q in np.ndindex(*grid):
            rows = clipped(np.floor(p * bin_h) + top, np.ceil((p + 1) * bin_h) + top, features.shape[2])
            columns = clipped(np.floor(q * bin_w) + left, np.ceil((q + 1) * bin_w) + left, features.shape[3])
            window = features[int(image), :, rows, columns]
            if window.size:
                result[index, :, p, q] = window.max((1, 2))
    return result


def r_fcn(features: Array, rois: Array, outputs: int, group: int, scale: float) -> Array:
    result = np.zeros((len(rois), outputs, group, group), np.float32)
    for index, (image, *corners) in enumerate(rois.reshape(-1, 5)):
        whole = half_away(np.asarray(corners, np.float32))
        begin, end = whole[:2] * np.float32(scale), (whole[2:] + 1) * np.float32(scale)
        size = np.maximum(end - begin, np.float32(0.1)) / np.float32(group)
        for p, q in np.ndindex(group, group):
            low = np.floor(np.asarray([q, p], np.float32) * size + begin)
            high = np.ceil(np.asarray([q + 1, p + 1], np.float32) * size + begin)
            rows = clipped(low[1], high[1], features.shape[2])
            columns = clipped(low[0], high[0], features.shape[3])
            own = [(output * group + p) * group + q for output in range(outputs)]
            window = features[int(image)][own][:, rows, columns]
            if window.size:
                result[index, :, p, q] = window.mean((1, 2), dtype=np.float64)
    return result


@pytest.mark.parametrize("opset", [13, 21])
@pytest.mark.parametrize("rois", [(40, 5), (40, 5, 1, 1)])
@pytest.mark.parametrize(("grid", "scale"), [((7, 7), 0.0625), ((6, 2), 0.125), ((1, 1), 0.1), ((14, 14), 1.0)])
def test_region_pooling_is_fast_rcnns(
    grid: tuple[int, int], scale: float, rois: Shape, opset: int, tmp_path: Path
) -> None:
    param = f"roi_pooling_param {{ pooled_h: {grid[0]} pooled_w: {grid[1]} spatial_scale: {scale} }}"
    net = single("ROIPooling", param, (IMAGES, 4, 9, 12), rois, values={"x1": regions})
    one, values = converted(net, tmp_path, opset=opset), inputs(net)
    (found,) = require_onnxruntime().run(Job([one.path], [values]))
    np.testing.assert_array_equal(found["y0"], fast_rcnn(*values.values(), grid, scale))


@pytest.mark.parametrize("opset", [13, 22])
@pytest.mark.parametrize("images", [1, IMAGES])
@pytest.mark.parametrize(("outputs", "group", "scale"), [(3, 7, 0.0625), (5, 2, 0.125), (2, 3, 0.1), (4, 1, 1.0)])
def test_position_sensitive_pooling_is_r_fcns(
    outputs: int, group: int, scale: float, images: int, opset: int, tmp_path: Path
) -> None:
    def own(rng: np.random.Generator, shape: Shape) -> Array:
        found = regions(rng, shape)
        found[:, 0] %= images
        return found

    param = f"psroi_pooling_param {{ output_dim: {outputs} group_size: {group} spatial_scale: {scale} }}"
    net = single("PSROIPooling", param, (images, outputs * group**2, 9, 12), (40, 5), values={"x1": own})
    one, values = converted(net, tmp_path, opset=opset), inputs(net)
    (found,) = require_onnxruntime().run(Job([one.path], [values]))
    assert distance(found["y0"], r_fcn(*values.values(), outputs, group, scale)) < 1e-6


def test_regions_of_the_tests_leave_bins_empty() -> None:
    """Else the comparisons above would not see what an empty bin becomes."""
    rng = np.random.default_rng(1)
    features = rng.standard_normal((IMAGES, 4, 9, 12), np.float32)
    assert (fast_rcnn(features, regions(rng, (40, 5)), (7, 7), 0.125) == 0).any()


@pytest.mark.parametrize(
    ("kind", "param", "reason"),
    [
        ("ROIPooling", "roi_pooling_param { pooled_h: 1 pooled_w: 1 pooled_size: 3 }", "pooled_size"),
        ("PSROIPooling", "psroi_pooling_param { output_dim: 1 group_size: 1 }", "spatial_scale"),
        ("ROIAlign", "roi_align_param { pooled_h: 1 pooled_w: 1 }", "differ"),
    ],
)
def test_what_is_not_known_is_refused(kind: str, param: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=rf"'layer' \({kind}\): .*{reason}"):
        to_onnx(write(single(kind, param, (1, 1, 5, 5), (2, 5)), tmp_path))


def test_an_opset_whose_region_pooling_no_runtime_has_is_refused(tmp_path: Path) -> None:
    net = single("ROIPooling", "roi_pooling_param { pooled_h: 1 pooled_w: 1 }", (1, 1, 5, 5), (2, 5))
    with pytest.raises(ConversionError, match="opset 21"):
        to_onnx(write(net, tmp_path), opset=22)
