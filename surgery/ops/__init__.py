"""What layers mean, free of any file format."""

from surgery.ops.array import Float64Array, FloatArray, Size
from surgery.ops.chain import Chain, Op, collapse
from surgery.ops.conv2d import Conv2d
from surgery.ops.linear import Linear

__all__ = ["Chain", "Conv2d", "Float64Array", "FloatArray", "Linear", "Op", "Size", "collapse"]
