"""Layers that move, join, cut and repeat data in ONNX, and those that feed constants."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from surgery import formats
from surgery.convert.to_onnx import to_onnx
from surgery.errors import ConversionError
from surgery.model import Shape
from surgery.runtime import Array, Job
from tests.convert.to_onnx.nets import (
    Net,
    Results,
    check,
    compare,
    converted,
    distance,
    indices,
    inputs,
    layer,
    operators,
    single,
)
from tests.engines import require_onnxruntime
from tests.nets import write_net

PLANE = (2, 3, 4, 5)


def choices(rng: np.random.Generator, shape: Shape) -> Array:
    """0 for some, and several other numbers, the first of them below 0."""
    values = rng.integers(0, 3, shape).astype(np.float32)
    values.reshape(-1)[0] = -0.5
    return values


def reshape(dims: str, rest: str = "") -> str:
    sizes = " ".join(f"dim: {size}" for size in dims.split())
    return f"reshape_param {{ shape {{ {sizes} }} {rest} }}"


# name -> (type, parameters, shapes of the bottoms, number of tops)
LAYERS: dict[str, tuple[str, str, tuple[Shape, ...], int]] = {
    "Concat": ("Concat", "", (PLANE, (2, 1, 4, 5), (2, 2, 4, 5)), 1),
    "Concat, axis 2": ("Concat", "concat_param { axis: 2 }", (PLANE, (2, 3, 1, 5)), 1),
    "Concat, from the end": ("Concat", "concat_param { axis: -1 }", (PLANE, (2, 3, 4, 1)), 1),
    "Concat, old name": ("Concat", "concat_param { concat_dim: 3 }", (PLANE, (2, 3, 4, 2)), 1),
    "Concat, one": ("Concat", "", (PLANE,), 1),
    "Concat, vectors": ("Concat", "", ((2, 3), (2, 2)), 1),
    "Concat, 6 axes": ("Concat", "concat_param { axis: 4 }", ((2, 1, 3, 2, 2, 3), (2, 1, 3, 2, 1, 3)), 1),
    "Slice": ("Slice", "", ((2, 6, 3),), 3),
    "Slice, points": ("Slice", "slice_param { slice_point: 1 slice_point: 4 }", ((2, 6, 3),), 3),
    "Slice, from the end": ("Slice", "slice_param { axis: -1 slice_point: 3 }", (PLANE,), 2),
    "Slice, old name": ("Slice", "slice_param { slice_dim: 2 }", (PLANE,), 2),
    "Slice, one": ("Slice", "", (PLANE,), 1),
    "Split": ("Split", "", (PLANE,), 3),
    "Flatten": ("Flatten", "", (PLANE,), 1),
    "Flatten, middle": ("Flatten", "flatten_param { axis: 1 end_axis: 2 }", (PLANE,), 1),
    "Flatten, from the end": ("Flatten", "flatten_param { axis: -3 end_axis: -2 }", (PLANE,), 1),
    "Flatten, all": ("Flatten", "flatten_param { axis: 0 }", (PLANE,), 1),
    "Flatten, with the batch": ("Flatten", "flatten_param { axis: 0 end_axis: 1 }", (PLANE,), 1),
    "Flatten, nothing": ("Flatten", "", ((2, 3),), 1),
    "Flatten, vector": ("Flatten", "flatten_param { axis: 0 }", ((4,),), 1),
    "Reshape, copied and left": ("Reshape", reshape("0 -1 5"), (PLANE,), 1),
    "Reshape, batch left": ("Reshape", reshape("-1 6 10"), (PLANE,), 1),
    "Reshape, batch behind": ("Reshape", reshape("3 -1 4 5"), (PLANE,), 1),
    "Reshape, copied from its own place": ("Reshape", reshape("0 0 -1"), ((2, 3, 4, 5, 2),), 1),
    "Reshape, from axis 1": ("Reshape", reshape("2 -1", "axis: 1"), (PLANE,), 1),
    "Reshape, one axis into two": ("Reshape", reshape("2 2", "axis: 2 num_axes: 1"), (PLANE,), 1),
    "Reshape, axis from the end": ("Reshape", reshape("-1 5", "axis: -2"), (PLANE,), 1),
    "Reshape, behind the end": ("Reshape", reshape("1 1", "axis: -1"), ((2, 3),), 1),
    "Reshape, inserted": ("Reshape", reshape("1", "axis: 0 num_axes: 0"), ((2, 3),), 1),
    "Reshape, 0 from an axis": ("Reshape", reshape("0 -1", "axis: 2"), (PLANE,), 1),
    "Reshape, dropped": ("Reshape", reshape("", "axis: 2"), ((2, 3, 1, 1),), 1),
    "Reshape, nothing": ("Reshape", "", ((1, 1, 1),), 1),
    "Tile": ("Tile", "tile_param { tiles: 3 }", (PLANE,), 1),
    "Tile, once": ("Tile", "tile_param { tiles: 1 }", (PLANE,), 1),
    "Tile, the batch": ("Tile", "tile_param { axis: 0 tiles: 2 }", (PLANE,), 1),
    "Tile, from the end": ("Tile", "tile_param { axis: -2 tiles: 2 }", (PLANE,), 1),
    "Filter": ("Filter", "", ((6, 2, 3), (6,)), 1),
    "Filter, several": ("Filter", "", ((6, 2), (6, 3, 2), (6,), (6, 1, 1, 1)), 3),
    "BatchReindex": ("BatchReindex", "", ((4, 2, 3), (7,)), 1),
}
FIXED = ("Reshape, inserted", "Reshape, nothing")  # The shape that they state holds for one batch.
NETS = {
    name: single(
        kind,
        param,
        *shapes,
        tops=tops,
        values={f"x{len(shapes) - 1}": {"Filter": choices, "BatchReindex": indices(4)}.get(kind, choices)},
        batch=name not in FIXED,
    )
    for name, (kind, param, shapes, tops) in LAYERS.items()
} | {
    "Slice, the batch": single("Slice", "slice_param { axis: 0 }", (4, 3), tops=2, batch=False),
    "Slice, the batch at a point": single(
        "Slice", "slice_param { axis: 0 slice_point: 1 }", (4, 3), tops=2, batch=False
    ),
    "Silence": Net(layer("ReLU", "x0", "y") + layer("Silence", "y", "", name="s") + layer("TanH", "x0", "z"), [PLANE]),
    "behind a Filter": Net(
        layer("Filter", "x0 x2 x1", "a s", name="filter")
        + layer("ReLU", "a", "a", name="relu")
        + layer("Flatten", "a", "b", name="flatten")
        + layer("InnerProduct", "b", "c", "inner_product_param { num_output: 3 }", "ip")
        + layer("Softmax", "c", "d", name="softmax")
        + layer("Filter", "d s", "e", name="again"),
        [(6, 2, 3), (6,), (6,)],
        {"x1": choices, "x2": choices},
        batch=False,
    ),
    "constants": Net(
        layer(
            "DummyData",
            "",
            "a b",
            "dummy_data_param { shape { dim: 3 } shape { dim: 2 dim: 3 }"
            ' data_filler { value: 2.5 } data_filler { type: "constant" value: -1 } }',
            "constants",
        )
        + layer("Parameter", "", "w", "parameter_param { shape { dim: 2 dim: 3 } }", "parameter")
        + layer("ReLU", "b", "b", name="relu")
        + layer("Eltwise", "x0 b w", "y", name="sum"),
        [(2, 3)],
        batch=False,
    ),
    "constants of the old form": Net(
        layer("DummyData", "", "a", "dummy_data_param { num: 1 channels: 2 height: 3 width: 1 }", "constants")
        + layer("Eltwise", "x0 a", "y", name="sum"),
        [(1, 2, 3, 1)],
        batch=False,
    ),
    "an input that nothing reads": Net(layer("ReLU", "x0", "y"), [(2, 3), (4,)]),
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return compare(NETS, tmp_path_factory.mktemp("nets"))


@pytest.mark.parametrize("name", NETS)
def test_data_come_out_where_caffe_puts_them(results: Results, name: str) -> None:
    assert results[name].error <= 1e-6
    assert not NETS[name].batch or results[f"{name} (dynamic)"].error <= 1e-6


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Concat, one", ["Identity"]),
        ("Split", ["Identity"] * 3),
        ("Slice", ["Split"]),
        ("Flatten, nothing", ["Identity"]),
        ("Flatten", ["Reshape"]),
        ("Tile, once", ["Identity"]),
        ("Filter", ["Cast", "Compress"]),
        ("BatchReindex", ["Cast", "Gather"]),
    ],
)
def test_it_takes_no_more_operators_than_it_must(name: str, expected: list[str], tmp_path: Path) -> None:
    assert operators(NETS[name], tmp_path) == expected


def test_what_a_filter_keeps_is_a_symbol_in_every_shape_behind_it(tmp_path: Path) -> None:
    shapes = {value.name: value.shape for value in converted(NETS["behind a Filter"], tmp_path).conversion.inner}
    assert shapes == {
        "a": ("filter_items", 2, 3),
        "b": ("filter_items", 6),
        "c": ("filter_items", 3),
        "d": ("filter_items", 3),
        "s": ("filter_items",),
    }


def test_a_filter_that_keeps_nothing_gives_nothing(tmp_path: Path) -> None:
    one = converted(NETS["Filter"], tmp_path)
    values = {**inputs(NETS["Filter"]), "x1": np.zeros(6, np.float32)}
    (found,) = require_onnxruntime().run(Job([one.path], [values]))
    assert found["y0"].shape == (0, 2, 3)


def test_v1_layers_read_their_old_fields(tmp_path: Path) -> None:
    text = """
        input: "x0" input_dim: 2 input_dim: 6 input_dim: 1 input_dim: 2
        layers { name: "s" type: SLICE bottom: "x0" top: "a" top: "b" slice_param { slice_dim: 1 slice_point: 2 } }
        layers { name: "f" type: FLATTEN bottom: "a" top: "c" }
        layers { name: "j" type: CONCAT bottom: "b" bottom: "b" top: "d" concat_param { concat_dim: 3 } }
        layers { name: "e" type: ELTWISE bottom: "d" bottom: "d" top: "e" eltwise_param { operation: PROD } }
        layers { name: "p" type: POWER bottom: "e" top: "p" power_param { power: 0.5 } }
    """
    path = tmp_path / "net.onnx"
    conversion = to_onnx(formats.load(write_net(tmp_path, text, {})))
    conversion.save(path)
    check(path)
    x = np.random.default_rng(0).standard_normal((2, 6, 1, 2), dtype=np.float32)
    (found,) = require_onnxruntime().run(Job([path], [{"x0": x}]))
    assert distance(found["c"], x[:, :2].reshape(2, 4)) == 0
    assert distance(found["p"], np.abs(np.concatenate([x[:, 2:]] * 2, axis=3))) <= 1e-6


@pytest.mark.parametrize(
    ("net", "reason"),
    [
        (NETS["Slice, the batch"], "one batch size only"),
        (NETS["Slice, the batch at a point"], "no multiple of that of the batch; convert with a fixed batch"),
        (single("Reshape", reshape("2 12 5"), PLANE), "one batch size only"),
    ],
)
def test_what_holds_for_one_batch_is_refused_for_others(net: Net, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=reason):
        converted(net, tmp_path, dynamic=True)


def test_a_layer_that_needs_the_number_that_a_filter_keeps_is_refused(tmp_path: Path) -> None:
    text = layer("Filter", "x0 x1", "a", name="filter") + layer(
        "Slice", "a", "b c", "slice_param { axis: 0 slice_point: 1 }", "slice"
    )
    with pytest.raises(ConversionError, match=r"'slice' .*'filter_items', which only the data tell"):
        converted(Net(text, [(6, 2), (6,)]), tmp_path)


def test_a_layer_behind_one_that_holds_for_one_batch_is_not_named(tmp_path: Path) -> None:
    text = layer("Slice", "x0", "a b", "slice_param { axis: 0 slice_point: 1 }", "slice")
    text += layer("Concat", "a b", "c", "concat_param { axis: 0 }", "join") + layer("ReLU", "b", "d", name="relu")
    with pytest.raises(ConversionError, match="1 layer cannot be converted: 'slice'"):
        converted(Net(text, [(4, 2)]), tmp_path, dynamic=True)


def test_random_constants_are_refused(tmp_path: Path) -> None:
    text = layer(
        "DummyData", "", "a", 'dummy_data_param { shape { dim: 3 } data_filler { type: "gaussian" } }', "noise"
    )
    with pytest.raises(
        ConversionError, match=r"'noise' .DummyData.: its filler 'gaussian' is random; make it an Input"
    ):
        converted(Net(text + layer("Eltwise", "x0 a", "y"), [(3,)]), tmp_path)
