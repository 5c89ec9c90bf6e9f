"""Pooling and SPP in ONNX: Caffe's own count of windows, and its divisors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from surgery.errors import ConversionError
from tests.convert.to_onnx.nets import Net, Results, compare, converted, inputs, layer, operators, run, single

# Kernel, stride and pad, and the plane; each with MAX, with its mask, and with AVE.
WINDOWS = {
    "rounds up": ("kernel_size: 3 stride: 2", 8, 7),
    "even": ("kernel_size: 2 stride: 2", 6, 8),
    "padded": ("kernel_size: 3 stride: 1 pad: 1", 5, 6),
    "padded and beyond": ("kernel_size: 3 stride: 2 pad: 1", 6, 8),
    "beyond on one axis": ("kernel_size: 3 stride: 2 pad: 1", 6, 7),
    "padded on one axis": ("kernel_h: 3 kernel_w: 2 stride_h: 2 stride_w: 2 pad_h: 1 pad_w: 0", 6, 7),
    "drops the last window": ("kernel_size: 2 stride: 2 pad: 1", 5, 7),
    "drops it on one axis": ("kernel_size: 2 stride: 3 pad: 1", 5, 7),
    "far beyond": ("kernel_size: 5 stride: 4 pad: 1", 8, 9),
    "gaps": ("kernel_size: 2 stride: 3", 8, 9),
    "touching the end": ("kernel_size: 1 stride: 2", 6, 4),
    "touching it on one axis": ("kernel_size: 1 stride: 2", 6, 5),
    "off the end": ("kernel_size: 1 stride: 3", 5, 5),
    "off the end and touching it": ("kernel_size: 1 stride: 3", 5, 6),
    "touching it and whole": ("kernel_size: 1 stride: 3", 6, 7),
    "larger than the plane": ("kernel_size: 5 stride: 2", 4, 4),
    "larger than the padded plane": ("kernel_size: 7 stride: 4 pad: 1", 4, 3),
    "the whole plane": ("global_pooling: true", 4, 3),
    "one number": ("kernel_size: 1", 1, 1),
}
METHODS = {"MAX": ("MAX", 1), "MAX and mask": ("MAX", 2), "AVE": ("AVE", 1)}
PYRAMIDS = {
    f"{method}, {height} levels over {h}x{w}": single(
        "SPP", f"spp_param {{ pool: {method} pyramid_height: {height} }}", (2, 3, h, w)
    )
    for method in ("MAX", "AVE")
    for height, h, w in ((1, 5, 4), (2, 7, 5), (3, 10, 13), (3, 8, 8))
}


def pool(method: str, window: str, h: int, w: int) -> Net:
    kind, tops = METHODS[method]
    return single("Pooling", f"pooling_param {{ pool: {kind} {window} }}", (2, 3, h, w), tops=tops)


NETS = {f"{method}, {name}": pool(method, *row) for name, row in WINDOWS.items() for method in METHODS} | PYRAMIDS


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return compare(NETS, tmp_path_factory.mktemp("nets"))


@pytest.mark.parametrize("name", [key for name in NETS for key in (name, f"{name} (dynamic)")])
def test_a_pooled_net_computes_what_caffe_computes(results: Results, name: str) -> None:
    assert results[name].error <= 1e-6


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("MAX, padded and beyond", ["MaxPool"]),
        ("AVE, rounds up", ["AveragePool"]),
        ("AVE, padded", ["Pad", "AveragePool"]),
        ("AVE, padded and beyond", ["Pad", "AveragePool"]),
        ("MAX, the whole plane", ["GlobalMaxPool"]),
        ("AVE, the whole plane", ["GlobalAveragePool"]),
        ("MAX and mask, padded", ["MaxPool", "Mod", "Cast"]),
        ("MAX, touching the end", ["MaxPool", "Pad"]),
    ],
)
def test_it_takes_no_more_operators_than_it_must(name: str, expected: list[str], tmp_path: Path) -> None:
    assert operators(NETS[name], tmp_path) == expected


@pytest.mark.parametrize("spelling", ["round_mode: FLOOR", "ceil_mode: false"])
@pytest.mark.parametrize("size", [(8, 8), (7, 8), (6, 5)])
def test_the_forks_fields_round_down(spelling: str, size: tuple[int, int], tmp_path: Path) -> None:
    net = pool("MAX", f"kernel_size: 3 stride: 2 {spelling}", *size)
    windows = np.lib.stride_tricks.sliding_window_view(inputs(net)["x0"], (3, 3), axis=(2, 3))[:, :, ::2, ::2]
    np.testing.assert_array_equal(run(net, tmp_path)["y0"], windows.max(axis=(4, 5)))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (layer("Pooling", "x0", "y0", "pooling_param { pool: STOCHASTIC kernel_size: 2 }"), "picks at random"),
        (layer("SPP", "x0", "y0", "spp_param { pool: STOCHASTIC pyramid_height: 2 }"), "picks at random"),
        (layer("Pooling", "x0", "x0", "pooling_param { kernel_size: 1 }"), "in place it overwrites"),
        (layer("Pooling", "x0", "y0", "pooling_param { kernel_size: 2 dilation: 2 }"), "fork's field dilation"),
    ],
)
def test_what_has_no_equivalent_is_refused(text: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=f"'layer'.*{reason}"):
        converted(Net(text, [(2, 3, 4, 5)]), tmp_path)
