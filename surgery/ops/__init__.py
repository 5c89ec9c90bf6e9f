"""What layers mean, free of any file format."""

from surgery.ops.array import Float64Array, FloatArray, Size
from surgery.ops.chain import Chain, Op, Stage, collapse
from surgery.ops.conv2d import Conv2d
from surgery.ops.linear import Linear
from surgery.ops.scale import Scale

__all__ = ["Chain", "Conv2d", "Float64Array", "FloatArray", "Linear", "Op", "Scale", "Size", "Stage", "collapse"]
