"""InnerProduct and Embed: layers with one full matrix."""

from __future__ import annotations

from math import prod

from surgery.formats.caffe.layers.base import Setup, Shapes, axis_of, params, positive, size
from surgery.formats.caffe.network import Layer


def inner_product(layer: Layer, bottoms: Shapes) -> Setup:
    """Return the setup of an InnerProduct; all axes from `axis` on are one vector."""
    param, shape = params(layer, "inner_product_param"), bottoms[0]
    axis = axis_of(shape, param.int("axis"))
    outputs, inputs = positive(param.int("num_output"), "num_output"), prod(shape[axis:])
    weight = (inputs, outputs) if param.bool("transpose") else (outputs, inputs)
    blobs = (weight, (outputs,)) if param.bool("bias_term") else (weight,)
    return Setup(((*shape[:axis], outputs),), blobs, macs=size(shape) * outputs)


def embed(layer: Layer, bottoms: Shapes) -> Setup:
    """Return the setup of an Embed: every number of the input becomes a row of the weights."""
    param = params(layer, "embed_param")
    outputs = positive(param.int("num_output"), "num_output")
    weight = (positive(param.int("input_dim"), "input_dim"), outputs)
    return Setup(((*bottoms[0], outputs),), (weight, (outputs,)) if param.bool("bias_term") else (weight,))
