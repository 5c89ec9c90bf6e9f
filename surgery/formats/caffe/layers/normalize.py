"""Layers that normalise by statistics: BatchNorm, BN, LRN, MVN, Normalize."""

from __future__ import annotations

from surgery.formats.caffe.layers.base import Setup, ShapeError, Shapes, four, image, params, size, text
from surgery.formats.caffe.network import Layer


def batch_norm(layer: Layer, bottoms: Shapes) -> Setup:
    """Return the setup of a BatchNorm: mean, variance and their common factor."""
    shape = bottoms[0]
    if len(shape) < 2:
        raise ShapeError(f"the input {text(shape)} has no channel axis; expected at least 2 axes")
    channels = (shape[1],)
    param = params(layer, "batch_norm_param")
    # NVCaffe folds a Scale layer into two more blobs when asked to.
    is_scaled = param.bool("scale_bias") or param.has("scale_filler") or param.has("bias_filler")
    blobs = (channels, channels, (1,), *((channels, channels) if is_scaled else ()))
    return Setup((shape,), blobs, scratch_floats=2 * size(shape))  # temp_ and x_norm_


def bn(layer: Layer, bottoms: Shapes) -> Setup:
    """Return the setup of a BN: scale and shift in SegNet; slope, bias, mean and variance elsewhere."""
    channels = four(bottoms[0])[1]
    param = params(layer, "bn_param")
    scratch = 2 * size(bottoms[0])
    if any(map(param.has, ("bn_mode", "scale_filler", "shift_filler"))):
        return Setup((bottoms[0],), ((1, channels, 1, 1),) * 2, scratch_floats=scratch)
    if any(map(param.has, ("slope_filler", "bias_filler", "frozen", "momentum"))):
        return Setup((bottoms[0],), ((1, channels),) * 4, scratch_floats=scratch)
    reason = "BN has 2 weight blobs in SegNet and 4 elsewhere, and its parameters do not tell which; the weights do"
    return Setup((bottoms[0],), None, scratch_floats=scratch, reason=reason)


def lrn(layer: Layer, bottoms: Shapes) -> Setup:
    """Return the setup of an LRN."""
    param, shape = params(layer, "lrn_param"), image(bottoms[0])
    if param.int("local_size") % 2 == 0:
        raise ShapeError(f"local_size is {param.int('local_size')}; expected an odd number")
    # Within channels, the square, its pooling and its power are blobs of their own.
    buffers = 3 if param.str("norm_region") == "WITHIN_CHANNEL" else 1
    return Setup((shape,), scratch_floats=buffers * size(shape))


def mvn(layer: Layer, bottoms: Shapes) -> Setup:
    """Return the setup of an MVN, whose top always has four axes."""
    shape = four(bottoms[0])
    return Setup((shape,), scratch_floats=size(shape))


def normalize(layer: Layer, bottoms: Shapes) -> Setup:
    """Return the setup of SSD's Normalize."""
    shape = bottoms[0]
    if len(shape) < 2:
        raise ShapeError(f"the input {text(shape)} has no channel axis; expected at least 2 axes")
    shared = params(layer, "norm_param").bool("channel_shared")
    return Setup((shape,), ((() if shared else (four(shape)[1],)),), scratch_floats=size(shape[1:]))
