"""Shapes against those that real Caffe reported, operations and memory against hand computations."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from surgery.errors import SurgeryError
from surgery.formats.caffe import netstate, network, shapes, text
from surgery.formats.caffe.layers import LAYERS
from surgery.formats.caffe.network import Layer, Shape
from surgery.formats.caffe.shapes import LayerShapes
from surgery.formats.caffe.upgrade import upgrade_v0
from tests.shared import shared

RANKS: tuple[Shape, ...] = ((), (0,), (5,), (2, 3), (2, 8, 3), (2, 4, 6, 6), (1, 2, 0, 4), (1, 4, 6, 6, 6))

WRITTEN = [
    *(("layer", f'"{type_}"') for type_ in LAYERS),
    *(("layers", enum) for enum, type_ in network.V1_TYPES.items() if type_),
]


def infer_text(source: str, **inputs: Shape | None) -> dict[str, LayerShapes]:
    """Results by layer name of a net whose input blobs are `inputs`."""
    layers = network.layers(text.parse(source))
    return dict(zip((layer.name for layer in layers), shapes.infer(layers, inputs), strict=True))


def one(type_: str, param: str = "", *bottoms: Shape, tops: int = 1) -> LayerShapes:
    """The result of a lone layer over bottoms of these shapes."""
    names = [f"b{index}" for index in range(len(bottoms))]
    wires = "".join(f'bottom: "{n}" ' for n in names) + "".join(f'top: "t{index}" ' for index in range(tops))
    layers = network.layers(text.parse(f'layer {{ name: "x" type: "{type_}" {wires} {param} }}'))
    return shapes.infer(layers, dict(zip(names, bottoms, strict=True)))[0]


def infer_file(
    path: Path, stages: tuple[str, ...] = ()
) -> tuple[tuple[Layer, ...], tuple[LayerShapes, ...], dict[str, Shape | None]]:
    document = upgrade_v0(text.read(path))
    layers = netstate.active(network.layers(document), netstate.state_of(document, stages=stages))
    blobs = network.inputs(document)
    results = shapes.infer(layers, blobs)
    for layer, found in zip(layers, results, strict=True):
        blobs |= dict(zip(layer.tops, found.tops, strict=True))
    return layers, results, blobs


def weight_shapes(layers: tuple[Layer, ...], results: tuple[LayerShapes, ...]) -> dict[str, list[list[int]]]:
    return {
        layer.name: [list(blob) for blob in found.blobs]
        for layer, found in zip(layers, results, strict=True)
        if found.blobs
    }


def zoo_differences(path: Path) -> Iterator[str]:
    """What differs between our shapes and those in one file of real Caffe's."""
    expected = json.loads(path.read_text(encoding="utf-8"))
    layers, results, blobs = infer_file(path.parents[1] / "prototxt" / f"{path.stem}.prototxt")
    for name, shape in expected["blobs"].items():
        if "_split_" not in name and blobs.get(name) != tuple(shape):
            yield f"{path.stem}: blob '{name}' is {blobs.get(name)}, in Caffe {shape}"
    found = weight_shapes(layers, results)
    for name in found.keys() | expected["params"].keys():
        if found.get(name) != expected["params"].get(name):
            yield f"{path.stem}: weights of '{name}' are {found.get(name)}, in Caffe {expected['params'].get(name)}"
    yield from (f"{path.stem}: {found.reason}" for found in results if found.is_invalid)


def test_every_blob_and_weight_of_the_zoo_has_the_shape_that_caffe_reported() -> None:
    differences = [line for path in sorted(shared("zoo/shapes").glob("*.json")) for line in zoo_differences(path)]
    assert differences == []


def test_every_golden_output_has_the_shape_that_caffe_gave() -> None:
    folder = shared("golden")
    differences = []
    for case in json.loads((folder / "index.json").read_text(encoding="utf-8"))["cases"]:
        _, results, blobs = infer_file(folder / case["case"] / "net.prototxt", tuple(case["stages"]))
        with np.load(folder / case["case"] / "io.npz") as arrays:
            expected = {key[4:]: arrays[key].shape for key in arrays if key.startswith("out:")}
        if "Filter" in case["types"]:
            expected = dict.fromkeys(expected)  # Only the data tell.
        differences += [
            f"{case['case']}: '{name}' is {blobs.get(name)}, in Caffe {shape}"
            for name, shape in expected.items()
            if blobs.get(name, "absent") != shape
        ]
        differences += [f"{case['case']}: {found.reason}" for found in results if found.is_invalid]
    assert differences == []


def test_no_network_of_the_zoo_stops_the_inference() -> None:
    for path in sorted(shared("zoo/prototxt").glob("*.prototxt")):
        try:
            document = upgrade_v0(text.read(path))
            layers = network.layers(document)
            blobs = network.inputs(document)
        except SurgeryError:
            continue  # Refused before there is anything to infer.
        for found in shapes.infer(layers, blobs):
            assert (None in found.tops or found.blobs is None) <= (found.reason is not None)


@pytest.mark.parametrize(("field", "written"), WRITTEN)
def test_any_bottoms_give_shapes_or_a_reason(field: str, written: str) -> None:
    for rank in RANKS:
        for count in range(6):
            for tops in range(4):
                wires = 'bottom: "b" ' * count + "".join(f'top: "t{index}" ' for index in range(tops))
                layers = network.layers(text.parse(f"{field} {{ type: {written} {wires} }}"))
                (found,) = shapes.infer(layers, {"b": rank})
                assert len(found.tops) == tops
                assert (None in found.tops or found.blobs is None) == (found.reason is not None)


CONVOLUTION = "convolution_param { num_output: 4 kernel_size: 3 %s }"


@pytest.mark.parametrize(
    ("type_", "param", "bottoms", "tops", "message"),
    [
        ("Convolution", "convolution_param { num_output: 4 }", [(1, 2, 8, 8)], 1, "kernel_size is given not at all"),
        ("Convolution", "convolution_param { kernel_size: 3 }", [(1, 2, 8, 8)], 1, "num_output is 0"),
        ("Convolution", "convolution_param { num_output: 4 kernel_h: 3 }", [(1, 2, 8, 8)], 1, "the kernel is 3x0"),
        ("Convolution", CONVOLUTION % "stride_h: 2", [(1, 2, 8, 8)], 1, "the stride is 2x0"),
        ("Convolution", CONVOLUTION % "pad: 1 pad_h: 1", [(1, 2, 8, 8)], 1, "both pad and pad_h/pad_w"),
        ("Convolution", CONVOLUTION % "kernel_size: 3 kernel_size: 3", [(1, 2, 8, 8)], 1, "given 3 times"),
        ("Convolution", CONVOLUTION % "pad_h: 1", [(1, 2, 8)], 1, "2 spatial axes, the input has 1"),
        ("Convolution", CONVOLUTION % "group: 4", [(1, 2, 8, 8)], 1, "expected a divisor of 2"),
        ("Convolution", CONVOLUTION % "", [(1, 2, 1, 8)], 1, "the output would be -1x6"),
        ("Convolution", CONVOLUTION % "axis: 4", [(1, 2, 8, 8)], 1, "axis 4 is outside the input 1x2x8x8"),
        ("Convolution", CONVOLUTION % "", [(1, 2, 8, 8), (1, 2, 8, 9)], 2, "bottom 1 is 1x2x8x9"),
        ("Convolution", CONVOLUTION % "", [(1, 2, 8, 8)], 2, "1 bottoms but 2 tops"),
        ("Pooling", "", [(1, 2, 8, 8)], 1, "no kernel"),
        ("Pooling", "pooling_param { kernel_size: 2 pad: 2 }", [(1, 2, 8, 8)], 1, "a pad smaller than the kernel"),
        ("Pooling", "pooling_param { kernel_size: 2 }", [(1, 2, 8)], 1, "expected 4 (N, C, H, W)"),
        ("Pooling", "pooling_param { kernel_h: 2 }", [(1, 2, 8, 8)], 1, "only one of kernel_h and kernel_w"),
        ("Pooling", "pooling_param { kernel_size: 2 pool: AVE }", [(1, 2, 8, 8)], 2, "only MAX has a second top"),
        ("SPP", "spp_param { pyramid_height: 3 }", [(1, 2, 5, 7)], 1, "choose a smaller pyramid_height"),
        ("InnerProduct", "", [(1, 2)], 1, "num_output is 0"),
        ("Eltwise", "", [(1, 2)], 1, "1 bottom; expected at least 2"),
        ("Eltwise", "", [(1, 2), (1, 1)], 1, "bottom 1 is 1x1; expected 1x2"),
        ("Concat", "", [(1, 2, 3), (1, 2, 4)], 1, "may differ in axis 1 only"),
        ("Concat", "concat_param { axis: 1 concat_dim: 1 }", [(1, 2)], 1, "both axis and concat_dim"),
        ("Slice", "", [(1, 5)], 2, "does not divide into 2 equal parts"),
        ("Slice", "slice_param { slice_point: 3 slice_point: 3 }", [(1, 5)], 3, "increasing numbers"),
        ("Reshape", "reshape_param { shape { dim: 3 } }", [(1, 5)], 1, "has 3 elements"),
        ("Reshape", "reshape_param { shape { dim: -1 dim: 2 } }", [(1, 5)], 1, "do not divide by 2"),
        ("Crop", "", [(1, 1, 4, 4), (1, 1, 4, 5)], 1, "axis 3: 5 from offset 0 on reach beyond"),
        ("LRN", "lrn_param { local_size: 4 }", [(1, 2, 4, 4)], 1, "an odd number"),
        ("Tile", "", [(1, 2)], 1, "tiles is 0"),
        ("Scale", "scale_param { num_axes: 3 }", [(1, 2, 3)], 1, "num_axes is 3; expected -1 to 2"),
        ("LSTM", "recurrent_param { num_output: 4 }", [(3, 2, 5), (3, 1)], 1, "bottom 1 is 3x1; expected 3x2"),
        ("ArgMax", "argmax_param { top_k: 4 }", [(2, 3)], 1, "top_k is 4; expected 1 to 3"),
        ("SoftmaxWithLoss", "", [(2, 3, 4), (2,)], 1, "2 labels for 2x3x4; expected 8"),
    ],
)  # fmt: skip
def test_what_caffe_refuses_is_refused_with_what_was_expected(
    type_: str, param: str, bottoms: list[Shape], tops: int, message: str
) -> None:
    found = one(type_, param, *bottoms, tops=tops)
    assert found.is_invalid
    assert found.tops == (None,) * tops
    assert found.reason is not None
    assert message in found.reason


def test_an_input_shorter_than_the_window_by_less_than_a_stride_gives_one_position() -> None:
    # C++: (2 - 3) / 2 is 0, not -1; 0 + 1 = 1. Pooling: ceil(-1 / 2) + 1 = 1.
    assert one("Convolution", CONVOLUTION % "stride: 2", (1, 2, 2, 2)).tops == ((1, 4, 1, 1),)
    assert one("Pooling", "pooling_param { kernel_size: 3 stride: 2 }", (1, 2, 2, 2)).tops == ((1, 2, 1, 1),)


def test_a_fork_that_says_ceil_mode_false_pools_like_its_neighbours() -> None:
    # floor((112 - 3) / 2) + 1 = 55, against Caffe's ceil = 56.
    param = "pooling_param { kernel_size: 3 stride: 2 %s }"
    assert one("Pooling", param % "ceil_mode: false", (1, 1, 112, 112)).tops == ((1, 1, 55, 55),)
    assert one("Pooling", param % "ceil_mode: true", (1, 1, 112, 112)).tops == ((1, 1, 56, 56),)


@pytest.mark.parametrize(
    ("type_", "param", "field"),
    [
        ("Pooling", "pooling_param { kernel_size: 3 dilation: 2 }", "dilation"),
        ("PriorBox", "prior_box_param { min_size: 3 offset_h: 0.5 offset_h: 1 }", "offset_h"),
        ("Concat", "concat_param { per_fla_fuse: true }", "per_fla_fuse"),
    ],
)
def test_a_fork_field_that_changes_the_shape_makes_it_unknown(type_: str, param: str, field: str) -> None:
    found = one(type_, param, (1, 1, 9, 9))
    assert found.tops == (None,)
    assert not found.is_invalid
    assert field in str(found.reason)


@pytest.mark.parametrize(
    ("type_", "param", "bottoms", "macs", "columns"),
    [
        # 2 images x 4 x 6 x 6 outputs x 3 channels x 3 x 3 taps; columns of one image: 3 * 9 * 6 * 6.
        ("Convolution", CONVOLUTION % "", [(2, 3, 8, 8)], 2 * 4 * 36 * 27, 27 * 36),
        # Twice the bottoms, twice the work in the same columns.
        ("Convolution", CONVOLUTION % "", [(2, 3, 8, 8)] * 2, 2 * 2 * 4 * 36 * 27, 27 * 36),
        # Half the channels for each output; the columns still hold all four.
        ("Convolution", CONVOLUTION % "group: 2", [(1, 4, 8, 8)], 4 * 36 * 2 * 9, 4 * 9 * 36),
        ("Convolution", "convolution_param { num_output: 4 kernel_size: 1 }", [(1, 3, 8, 8)], 4 * 64 * 3, 0),
        # 1 x 1, but not every pixel: columns of 3 * 4 * 4.
        ("Convolution", "convolution_param { num_output: 4 kernel_size: 1 stride: 2 }", [(1, 3, 8, 8)], 4 * 16 * 3, 48),
        # Every one of 3 x 8 x 8 inputs meets 4 x 3 x 3 weights; columns: 4 * 9 rows for 8 * 8 positions.
        ("Deconvolution", CONVOLUTION % "", [(1, 3, 8, 8)], 3 * 64 * 36, 36 * 64),
        ("InnerProduct", "inner_product_param { num_output: 10 }", [(5, 3, 2, 2)], 5 * 12 * 10, 0),
        ("InnerProduct", "inner_product_param { num_output: 10 axis: 2 }", [(5, 3, 4)], 15 * 4 * 10, 0),
        # 3 steps x 2 streams x 4 gates of 4 x (5 inputs + 4 hidden), and 7 static inputs once per stream.
        ("LSTM", "recurrent_param { num_output: 4 }", [(3, 2, 5), (3, 2), (2, 7)], 3 * 2 * 16 * 9 + 2 * 16 * 7, 0),
        # 3 steps x 2 streams x 4 x (5 inputs + 4 hidden + 4 hidden to output).
        ("RNN", "recurrent_param { num_output: 4 }", [(3, 2, 5), (3, 2)], 3 * 2 * 4 * 13, 0),
        ("ReLU", "", [(2, 3, 8, 8)], 0, 0),
    ],
)
def test_operations_and_columns_are_those_counted_by_hand(
    type_: str, param: str, bottoms: list[Shape], macs: int, columns: int
) -> None:
    found = one(type_, param, *bottoms, tops=len(bottoms) if type_ == "Convolution" else 1)
    assert (found.macs, found.column_floats) == (macs, columns)


NET = """
layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 1 dim: 2 dim: 4 dim: 4 } } }
layer { name: "a" type: "Convolution" bottom: "data" top: "a" param { name: "w" }
        convolution_param { num_output: 2 kernel_size: 3 pad: 1 bias_term: false } }
layer { name: "relu" type: "ReLU" bottom: "a" top: "a" }
layer { name: "b" type: "Convolution" bottom: "a" top: "b" param { name: "w" } param { name: "c" }
        convolution_param { num_output: 2 kernel_size: 3 pad: 1 } }
layer { name: "flat" type: "Flatten" bottom: "b" top: "flat" }
layer { name: "fc" type: "InnerProduct" bottom: "flat" top: "fc" inner_product_param { num_output: 3 } }
"""


def memory_of(source: str, inputs: Mapping[str, Shape | None] | None = None) -> shapes.Memory | None:
    layers = network.layers(text.parse(source))
    return shapes.memory(layers, shapes.infer(layers, inputs or {}))


def test_memory_counts_shared_weights_once_and_views_never() -> None:
    memory = memory_of(NET)
    assert memory is not None
    # w 2 * 2 * 9, c 2, fc 3 * 32 + 3.
    assert memory.weight_bytes == 4 * (36 + 2 + 99)
    # data, a and b of 2 * 4 * 4; fc 3. The ReLU is in place, Flatten a view.
    assert memory.activation_bytes == 4 * (3 * 32 + 3)
    # Two convolutions with columns of their own: 2 * 9 * 16 each.
    assert memory.column_bytes == 4 * 2 * 288
    assert memory.total_bytes == memory.weight_bytes + memory.activation_bytes + memory.column_bytes


def test_memory_is_the_same_for_an_input_that_is_no_layer() -> None:
    bare = "\n".join(NET.splitlines()[2:])
    assert memory_of(bare, {"data": (1, 2, 4, 4)}) == memory_of(NET)


def test_batch_norm_and_scale_in_place_keep_three_more_copies() -> None:
    # BatchNorm: the deviations and the normalised input; Scale: its input, because it is in place.
    source = """
    layer { name: "n" type: "BatchNorm" bottom: "x" top: "y" }
    layer { name: "s" type: "Scale" bottom: "y" top: "y" }
    """
    memory = memory_of(source, {"x": (1, 4, 8, 8)})
    assert memory is not None
    assert memory.activation_bytes == 4 * 2 * 256
    assert memory.scratch_bytes == 4 * 3 * 256


def test_memory_of_an_unknown_network_is_unknown() -> None:
    assert memory_of(NET, {"data": (1, 2, 4, 4)}) is not None
    assert memory_of('layer { name: "p" type: "Python" top: "p" }') is None


def test_behind_a_custom_layer_every_reason_names_it() -> None:
    source = """
    layer { name: "roi-data" type: "Python" top: "rois" top: "labels" }
    layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
            convolution_param { num_output: 1 kernel_size: 1 } }
    layer { name: "pool" type: "ROIPooling" bottom: "conv" bottom: "rois" top: "pool" }
    layer { name: "relu" type: "ReLU" bottom: "pool" top: "pool" }
    """
    found = infer_text(source, data=(1, 3, 8, 8))
    origin = "'roi-data' (Python): its output shape is not known to this tool; give --shape rois=N,C,H,W"
    assert found["roi-data"].reason == origin
    assert found["conv"].tops == ((1, 1, 8, 8),)
    assert found["pool"].reason == found["relu"].reason == f"behind {origin}"
    assert not any(result.is_invalid for result in found.values())


def test_a_given_shape_goes_before_what_a_layer_says() -> None:
    source = """
    layer { name: "data" type: "Data" top: "data" top: "label" data_param { batch_size: 7 } }
    layer { name: "relu" type: "ReLU" bottom: "data" top: "relu" }
    """
    unknown, known = infer_text(source), infer_text(source, data=(2, 3, 8, 8))
    assert unknown["data"].tops == (None, (7,))
    assert unknown["data"].reason == (
        "'data' (Data): a Data layer's shape is in its database; give --shape data=N,C,H,W"
    )
    assert known["data"].tops == ((2, 3, 8, 8), (7,))
    assert known["data"].reason is None
    assert known["relu"].tops == ((2, 3, 8, 8),)


def test_a_given_scalar_counts_as_given() -> None:
    source = 'layer { name: "p" type: "Python" top: "x" }'
    assert infer_text(source, x=())["p"].tops == ((),)


def test_a_blob_that_nobody_makes_is_named() -> None:
    found = infer_text('layer { name: "r" type: "ReLU" bottom: "x" top: "y" }')["r"]
    assert found.is_invalid
    assert "unknown bottom blob 'x'" in str(found.reason)


def test_an_input_without_shape_is_the_origin_of_the_unknown() -> None:
    found = infer_text('layer { name: "r" type: "ReLU" bottom: "x" top: "y" }', x=None)["r"]
    assert found.reason == "behind input 'x': the file states no shape; give --shape x=N,C,H,W"


def test_weights_tell_the_blobs_that_nothing_else_does() -> None:
    layers = network.layers(
        text.parse("""
        layer { name: "odd" type: "Custom" bottom: "x" top: "y" }
        layer { name: "fc" type: "InnerProduct" bottom: "y" top: "z" inner_product_param { num_output: 3 } }
        layer { name: "known" type: "InnerProduct" bottom: "x" top: "k" inner_product_param { num_output: 3 } }
        """)
    )
    weights = {"odd": ((5, 2),), "fc": ((3, 8), (3,)), "known": ((9, 9),)}
    odd, fc, known = shapes.infer(layers, {"x": (1, 4)}, weights)
    assert (odd.params, fc.params) == (10, 27)
    assert known.blobs == ((3, 4), (3,))  # What Caffe wants, whatever the file holds.


@pytest.mark.parametrize(
    ("source", "tops"),
    [
        ('type: "ImageData" image_data_param { batch_size: 4 new_height: 6 new_width: 5 }', ((4, 3, 6, 5), (4,))),
        ('type: "ImageData" image_data_param { batch_size: 4 is_color: false } transform_param { crop_size: 3 }',
         ((4, 1, 3, 3), (4,))),
        ('type: "ImageData" image_data_param { batch_size: 4 }', (None, (4,))),
        ('type: "WindowData" window_data_param { batch_size: 4 } transform_param { crop_size: 3 }',
         ((4, 3, 3, 3), (4,))),
        ('type: "MemoryData" memory_data_param { batch_size: 4 channels: 1 height: 2 width: 3 }',
         ((4, 1, 2, 3), (4,))),
        ('type: "HDF5Data" hdf5_data_param { batch_size: 4 }', (None, None)),
        ('type: "DummyData" dummy_data_param { num: 4 num: 5 channels: 1 height: 2 width: 3 }',
         ((4, 1, 2, 3), (5, 1, 2, 3))),
        ('type: "DummyData" dummy_data_param { shape { dim: 4 dim: 2 } }', ((4, 2), (4, 2))),
        ('type: "Input"', (None, None)),
    ],
)  # fmt: skip
def test_sources_give_what_the_file_states(source: str, tops: tuple[Shape | None, ...]) -> None:
    found = infer_text(f'layer {{ name: "d" top: "data" top: "label" {source} }}')["d"]
    assert found.tops == tops
    assert not found.is_invalid


def test_a_v1_data_layer_may_state_its_crop_in_its_own_block() -> None:
    source = 'layers { name: "d" type: IMAGE_DATA top: "a" top: "b" image_data_param { batch_size: 2 crop_size: 9 } }'
    assert infer_text(source)["d"].tops == ((2, 3, 9, 9), (2,))
