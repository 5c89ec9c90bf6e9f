"""Forks' layers that real Caffe could not be asked about: three cases each, computed by hand."""

from __future__ import annotations

import pytest

from surgery.formats.caffe import network, shapes, text
from surgery.formats.caffe.layers import LAYERS
from surgery.formats.caffe.network import Shape
from tests.formats.caffe.test_shapes import one

DEPTHWISE = "convolution_param { num_output: %d kernel_size: 3 pad: 1 %s }"


@pytest.mark.parametrize(
    ("type_", "param", "bottoms", "top", "blobs", "macs"),
    [
        # (8 + 2 - 3) / 1 + 1 = 8; one 3 x 3 filter per channel; 4 * 8 * 8 * 9 products.
        ("DepthwiseConvolution", DEPTHWISE % (4, ""), [(1, 4, 8, 8)], (1, 4, 8, 8), [(4, 1, 3, 3), (4,)], 4 * 64 * 9),
        # (9 + 2 - 3) / 2 + 1 = 5; two filters per channel; 2 * 8 * 5 * 5 * 9 products.
        ("DepthwiseConvolution", DEPTHWISE % (8, "stride: 2 bias_term: false"), [(2, 4, 9, 9)], (2, 8, 5, 5),
         [(8, 1, 3, 3)], 2 * 8 * 25 * 9),
        # A window of 2 * 2 + 1 = 5: (8 + 2 - 5) / 1 + 1 = 6; `group` does not count.
        ("DepthwiseConvolution", DEPTHWISE % (4, "group: 2 dilation: 2"), [(1, 4, 8, 8)], (1, 4, 6, 6),
         [(4, 1, 3, 3), (4,)], 4 * 36 * 9),
        ("ConvolutionDepthwise", DEPTHWISE % (4, ""), [(1, 4, 8, 8)], (1, 4, 8, 8), [(4, 1, 3, 3), (4,)], 4 * 64 * 9),
        # (9 + 2 - 3) / 2 + 1 = 5, (7 + 2 - 3) / 2 + 1 = 4.
        ("ConvolutionDepthwise", DEPTHWISE % (6, "stride: 2 bias_term: false"), [(1, 6, 9, 7)], (1, 6, 5, 4),
         [(6, 1, 3, 3)], 6 * 20 * 9),
        # It never reads num_output: (5 - 5) / 1 + 1 = 1, (5 + 2 - 3) / 1 + 1 = 5.
        ("ConvolutionDepthwise", "convolution_param { kernel_h: 5 kernel_w: 3 pad_h: 0 pad_w: 1 }", [(1, 2, 5, 5)],
         (1, 2, 1, 5), [(2, 1, 5, 3), (2,)], 2 * 5 * 15),
    ],
)  # fmt: skip
def test_depthwise_convolutions(
    type_: str, param: str, bottoms: list[Shape], top: Shape, blobs: list[Shape], macs: int
) -> None:
    found = one(type_, param, *bottoms)
    assert found.tops == (top,)
    assert found.blobs == tuple(blobs)
    assert found.macs == macs
    assert found.column_floats == 0


UPSAMPLE, INTERP = "upsample_param { %s }", "interp_param { %s }"


@pytest.mark.parametrize(
    ("type_", "param", "bottoms", "top"),
    [
        # Un-pooling with a mask: 7 * 2, 5 * 2.
        ("Upsample", UPSAMPLE % "scale: 2", [(1, 8, 7, 5), (1, 8, 7, 5)], (1, 8, 14, 10)),
        # The input of the pooling was odd in height: 12 * 2 - 1 = 23, 15 * 2 = 30.
        ("Upsample", UPSAMPLE % "scale: 2 pad_out_h: true", [(1, 8, 12, 15), (1, 8, 12, 15)], (1, 8, 23, 30)),
        ("Upsample", UPSAMPLE % "upsample_h: 45 upsample_w: 60", [(2, 8, 23, 30), (2, 8, 23, 30)], (2, 8, 45, 60)),
        # Nearest neighbours: 13 * 2; int(5 * 1.5) = 7, int(4 * 1.5) = 6; 3 * 2 by default.
        ("Upsample", UPSAMPLE % "scale: 2", [(1, 8, 13, 13)], (1, 8, 26, 26)),
        ("Upsample", UPSAMPLE % "scale: 1.5", [(1, 8, 5, 4)], (1, 8, 7, 6)),
        ("Upsample", "", [(1, 8, 3, 3)], (1, 8, 6, 6)),
        # 60 + 59 * 7 = 473.
        ("Interp", INTERP % "zoom_factor: 8", [(1, 21, 60, 60)], (1, 21, 473, 473)),
        # (513 - 1) / 8 + 1 = 65; (321 - 1) / 8 + 1 = 41.
        ("Interp", INTERP % "shrink_factor: 8", [(1, 3, 513, 321)], (1, 3, 65, 41)),
        ("Interp", INTERP % "height: 33 width: 44", [(1, 3, 9, 8)], (1, 3, 33, 44)),
        # Both factors: (9 - 1) / 2 + 1 = 5, then 5 + 4 * 2 = 13; (8 - 1) / 2 + 1 = 4, then 4 + 3 * 2 = 10.
        ("Interp", INTERP % "shrink_factor: 2 zoom_factor: 3", [(1, 3, 9, 8)], (1, 3, 13, 10)),
        # An explicit size goes before both factors, a lone factor before the size: 9 + 8 * 1 = 17, 8 + 7 * 1 = 15.
        ("Interp", INTERP % "shrink_factor: 2 zoom_factor: 3 height: 4 width: 5", [(1, 3, 9, 8)], (1, 3, 4, 5)),
        ("Interp", INTERP % "zoom_factor: 2 height: 4 width: 5", [(1, 3, 9, 8)], (1, 3, 17, 15)),
        # Cropped by 1 on each side: (9 - 2) + (7 - 1) * 1 = 13, (8 - 2) + 5 * 1 = 11.
        ("Interp", INTERP % "zoom_factor: 2 pad_beg: -1 pad_end: -1", [(1, 3, 9, 8)], (1, 3, 13, 11)),
        ("Interp", "", [(1, 3, 9, 8), (1, 7, 20, 30)], (1, 3, 20, 30)),
        # 3 * 3 channels become 3 x 3 pixels: 18 / 9 = 2, 4 * 3, 5 * 3.
        ("PixelShuffle", "pixelshuffle_param { upscale_factor: 3 }", [(2, 18, 4, 5)], (2, 2, 12, 15)),
        # 9 + 1 + 2, 8 + 3 + 4; 9 - 1 - 2, 8 - 3 - 4.
        ("Pad", "pad_param { pad_u: 1 pad_d: 2 pad_l: 3 pad_r: 4 }", [(1, 3, 9, 8)], (1, 3, 12, 15)),
        ("Pad", "pad_param { pad_u: -1 pad_d: -2 pad_l: -3 pad_r: -4 }", [(1, 3, 9, 8)], (1, 3, 6, 1)),
    ],
)  # fmt: skip
def test_layers_that_resize(type_: str, param: str, bottoms: list[Shape], top: Shape) -> None:
    assert one(type_, param, *bottoms).tops == (top,)


@pytest.mark.parametrize(
    ("type_", "param", "bottoms", "top"),
    [
        # One item per region, all channels, a fixed grid.
        ("ROIPooling", "roi_pooling_param { pooled_h: 7 pooled_w: 7 }", [(1, 512, 38, 50), (300, 5)], (300, 512, 7, 7)),
        ("ROIPooling", "roi_pooling_param { pooled_h: 8 pooled_w: 4 }", [(2, 64, 9, 9), (9, 5, 1, 1)], (9, 64, 8, 4)),
        ("ROIPooling", "roi_pooling_param { pooled_h: 1 pooled_w: 1 }", [(1, 3, 9, 9), (1, 1, 1, 5)], (1, 3, 1, 1)),
        ("ROIAlign", "roi_align_param { pooled_h: 7 pooled_w: 7 }", [(1, 512, 38, 50), (300, 5)], (300, 512, 7, 7)),
        ("ROIAlign", "roi_align_param { pooled_h: 14 pooled_w: 7 }", [(1, 8, 9, 9), (2, 5)], (2, 8, 14, 7)),
        ("ROIAlign", "roi_align_param { pooled_h: 2 pooled_w: 3 }", [(4, 1, 9, 9), (6, 5, 1, 1)], (6, 1, 2, 3)),
        # 2 * 7 * 7 = 98 channels; 21 * 7 * 7 = 1029; 8 * 3 * 3 = 72.
        ("PSROIPooling", "psroi_pooling_param { output_dim: 2 group_size: 7 }", [(1, 98, 9, 9), (4, 5)], (4, 2, 7, 7)),
        ("PSROIPooling", "psroi_pooling_param { output_dim: 21 group_size: 7 }", [(1, 1029, 9, 9), (300, 5, 1, 1)],
         (300, 21, 7, 7)),
        ("PSROIPooling", "psroi_pooling_param { output_dim: 8 group_size: 3 }", [(1, 72, 9, 9), (1, 5)], (1, 8, 3, 3)),
        # 4 priors of 4 numbers: 16 rows; locations 4 * 4 = 16, scores 4 * 21 = 84. A row of 7 until it has run.
        ("DetectionOutput", "detection_output_param { num_classes: 21 }", [(1, 16), (1, 84), (1, 2, 16)], (1, 1, 1, 7)),
        # One box per class: 4 * 2 * 4 = 32 locations.
        ("DetectionOutput", "detection_output_param { num_classes: 2 share_location: false }",
         [(3, 32), (3, 8), (1, 2, 16)], (1, 1, 1, 7)),
        ("DetectionOutput", "detection_output_param { num_classes: 2 }",
         [(1, 400, 1, 1), (1, 200, 1, 1), (1, 2, 400)], (1, 1, 1, 7)),
        # Ratios 1, 2, 1/2 for one min_size and one max_size: 3 + 1 = 4 per cell; 19 * 19 * 4 * 4.
        ("PriorBox", "prior_box_param { min_size: 60 max_size: 90 aspect_ratio: 2 }",
         [(1, 8, 19, 19), (1, 3, 300, 300)], (1, 2, 5776)),
        # 1, 2, 1/2 only: 0.5 is there already, 1 too; 2 sizes: 3 * 2 = 6; 5 * 4 * 6 * 4.
        ("PriorBox", "prior_box_param { min_size: 1 min_size: 2 aspect_ratio: 2 aspect_ratio: 0.5 aspect_ratio: 1 }",
         [(1, 8, 5, 4), (1, 3, 9, 9)], (1, 2, 480)),
        # Not flipped: 1, 2, 3; 1 * 1 * 3 * 4.
        ("PriorBox", "prior_box_param { min_size: 1 aspect_ratio: 2 aspect_ratio: 3 flip: false }",
         [(1, 8, 1, 1), (1, 3, 9, 9)], (1, 2, 12)),
    ],
)  # fmt: skip
def test_detection_layers(type_: str, param: str, bottoms: list[Shape], top: Shape) -> None:
    found = one(type_, param, *bottoms)
    assert found.tops == (top,)
    assert found.blobs == ()


@pytest.mark.parametrize(
    ("type_", "param", "bottoms", "blobs"),
    [
        # One number for all channels by default, else one each.
        ("Normalize", "", [(1, 512, 38, 38)], [()]),
        ("Normalize", "norm_param { channel_shared: false }", [(1, 512, 38, 38)], [(512,)]),
        ("Normalize", "norm_param { across_spatial: false channel_shared: false }", [(2, 8)], [(8,)]),
        # SegNet: scale and shift. PSPNet and its source: slope, bias, mean, variance.
        ("BN", "bn_param { bn_mode: INFERENCE }", [(1, 64, 9, 9)], [(1, 64, 1, 1)] * 2),
        ("BN", "bn_param { scale_filler { value: 1 } shift_filler { value: 0 } }", [(1, 3, 9, 9)], [(1, 3, 1, 1)] * 2),
        ("BN", "bn_param { frozen: true slope_filler { value: 1 } }", [(1, 64, 9, 9)], [(1, 64)] * 4),
        # NVCaffe: a BatchNorm that is asked to scale has two blobs more.
        ("BatchNorm", "", [(1, 8, 9, 9)], [(8,), (8,), (1,)]),
        ("BatchNorm", "batch_norm_param { scale_bias: true }", [(1, 8, 9, 9)], [(8,), (8,), (1,), (8,), (8,)]),
        ("BatchNorm", "batch_norm_param { scale_filler { value: 1 } }", [(2, 3)], [(3,), (3,), (1,), (3,), (3,)]),
    ],
)
def test_layers_that_normalise(type_: str, param: str, bottoms: list[Shape], blobs: list[Shape]) -> None:
    found = one(type_, param, *bottoms)
    assert found.tops == tuple(bottoms)
    assert found.blobs == tuple(blobs)


def test_the_weights_tell_which_bn_it_is() -> None:
    layers = network.layers(text.parse('layer { name: "bn" type: "BN" bottom: "x" top: "y" }'))
    (alone,) = shapes.infer(layers, {"x": (1, 8, 4, 4)})
    assert alone.tops == ((1, 8, 4, 4),)
    assert alone.blobs is None
    assert "2 weight blobs in SegNet and 4 elsewhere" in str(alone.reason)
    stored = ((1, 8, 1, 1),) * 4
    (known,) = shapes.infer(layers, {"x": (1, 8, 4, 4)}, {"bn": stored})
    assert known.blobs == stored
    assert known.reason is None


@pytest.mark.parametrize("type_", ["Clip", "HardSigmoid", "HardSwish", "Mish", "ReLU6", "SeLu", "Swish"])
@pytest.mark.parametrize("shape", [(3,), (2, 5), (1, 8, 7, 9)])
def test_activations_keep_their_shape(type_: str, shape: Shape) -> None:
    assert one(type_, "", shape).tops == (shape,)
    assert type_ in LAYERS


@pytest.mark.parametrize(
    ("type_", "param", "bottoms", "top"),
    [
        # 4 / 2, 240 / 3 and 8 / 1 channels per group.
        ("ShuffleChannel", "shuffle_channel_param { group: 2 }", [(1, 4, 9, 9)], (1, 4, 9, 9)),
        ("ShuffleChannel", "shuffle_channel_param { group: 3 }", [(2, 240, 28, 28)], (2, 240, 28, 28)),
        ("ShuffleChannel", "", [(1, 8, 1, 1)], (1, 8, 1, 1)),
        # a * x + y: a has one number per item and channel.
        ("Axpy", "", [(1, 256, 1, 1), (1, 256, 56, 56), (1, 256, 56, 56)], (1, 256, 56, 56)),
        ("Axpy", "", [(2, 8), (2, 8, 3, 4), (2, 8, 3, 4)], (2, 8, 3, 4)),
        ("Axpy", "", [(2, 8), (2, 8, 3), (2, 8, 3)], (2, 8, 3)),
    ],
)
def test_layers_that_keep_the_shape_of_a_map(type_: str, param: str, bottoms: list[Shape], top: Shape) -> None:
    assert one(type_, param, *bottoms).tops == (top,)


@pytest.mark.parametrize(
    ("type_", "param", "bottoms", "message"),
    [
        ("ShuffleChannel", "shuffle_channel_param { group: 3 }", [(1, 4, 9, 9)], "group 3 does not divide the 4"),
        ("Axpy", "", [(1, 4, 9, 9), (1, 4, 9, 9), (1, 4, 9, 9)], "expected one number per item and channel"),
        ("PSROIPooling", "psroi_pooling_param { output_dim: 2 group_size: 7 }", [(1, 97, 9, 9), (4, 5)], "98"),
        ("ROIPooling", "roi_pooling_param { pooled_h: 7 }", [(1, 3, 9, 9), (4, 5)], "pooled_w is 0"),
        ("ROIPooling", "roi_pooling_param { pooled_h: 7 pooled_w: 7 }", [(1, 3, 9, 9), (4, 4)], "five numbers"),
        ("DetectionOutput", "detection_output_param { num_classes: 2 }", [(1, 16), (1, 84), (1, 2, 16)], "expected 8"),
        ("PriorBox", "", [(1, 8, 9, 9), (1, 3, 9, 9)], "0 min_size"),
        ("DepthwiseConvolution", DEPTHWISE % (6, ""), [(1, 4, 8, 8)], "a multiple of the 4 input channels"),
        ("ConvolutionDepthwise", DEPTHWISE % (8, ""), [(1, 4, 8, 8)], "expected 4"),
        ("Interp", "interp_param { height: 4 }", [(1, 3, 9, 9)], "no size"),
        ("Upsample", "upsample_param { scale_h: 2 }", [(1, 3, 9, 9)] * 2, "scale_h and scale_w"),
        ("Permute", "permute_param { order: 0 order: 0 }", [(1, 3)], "different axes below 2"),
        ("PixelShuffle", "pixelshuffle_param { upscale_factor: 2 }", [(1, 6, 3, 3)], "upscale_factor^2 = 4"),
        ("PixelShuffle", "", [(1, 4, 3, 3)], "upscale_factor is 0"),
        ("Pad", "pad_param { pad_u: 1 pad_l: -1 }", [(1, 4, 3, 3)], "expected all negative or none"),
        ("Pad", "pad_param { pad_type: REFLECT pad_r: 3 }", [(1, 4, 3, 3)], "a reflection of 3x3 has less"),
        (
            "Pad",
            "pad_param { pad_u: -2 pad_d: -1 pad_l: -1 pad_r: -1 }",
            [(1, 4, 3, 3)],
            "height and width would be 0x1",
        ),
    ],
)
def test_what_a_fork_refuses_is_refused(type_: str, param: str, bottoms: list[Shape], message: str) -> None:
    found = one(type_, param, *bottoms)
    assert found.is_invalid
    assert message in str(found.reason)
