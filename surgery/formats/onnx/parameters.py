"""Attributes of an ONNX convolution or Gemm as numbers; auto_pad, which depends on the size of the map, as pads."""

from __future__ import annotations

from surgery.formats.onnx.graph import OnnxNode
from surgery.model import Shape

Ends = tuple[int, int]  # rows or columns added before and behind
Pads = tuple[Ends, Ends]  # vertical, horizontal

SAME = ("SAME_UPPER", "SAME_LOWER")


def auto_pad(node: OnnxNode) -> str:
    """Return SAME_UPPER, SAME_LOWER, VALID or NOTSET."""
    return str(node.attributes.get("auto_pad", "NOTSET")) or "NOTSET"


def pair(node: OnnxNode, name: str) -> tuple[int, int]:
    """Return the attribute `strides` or `dilations`; raises ValueError unless it has two whole numbers."""
    values = node.attributes.get(name, (1, 1))
    if not isinstance(values, tuple) or len(values) != 2 or not all(isinstance(value, int) for value in values):
        raise ValueError(f"its {name} are {values}, expected two whole numbers")
    return values[0], values[1]  # type: ignore[return-value]


def real(node: OnnxNode, name: str, default: float) -> float:
    """Return an attribute that is a real number; raises ValueError for any other."""
    value = node.attributes.get(name, default)
    if isinstance(value, (int, float)):
        return float(value)
    raise ValueError(f"its {name} is no number")


def conv_pads(node: OnnxNode, kernel: Shape, x: Shape | None) -> Pads | str:
    """Return the padding of a convolution over two axes, or why it is not known; `x` is its input's shape.

    Where auto_pad keeps the size and the input's shape is not known, it is what a stride of 1 would give.
    """
    mode = auto_pad(node)
    if mode == "VALID":
        return (0, 0), (0, 0)
    if mode in SAME:
        strides, dilations = pair(node, "strides"), pair(node, "dilations")
        sizes = x[2:] if x is not None and len(x) == 4 else (None, None)
        axes = zip(sizes, kernel, strides, dilations, strict=True)
        rows, columns = (_same(size, k, s, d, is_lower=mode == "SAME_LOWER") for size, k, s, d in axes)
        return rows, columns
    if mode != "NOTSET":
        return f"its auto_pad is '{mode}', which ONNX does not have"
    pads = node.attributes.get("pads", (0, 0, 0, 0))
    if not isinstance(pads, tuple) or len(pads) != 4 or not all(isinstance(n, int) and n >= 0 for n in pads):
        return f"its pads are {pads}, expected four numbers from 0"
    top, left, bottom, right = (n for n in pads if isinstance(n, int))
    return (top, bottom), (left, right)


def _same(size: int | None, kernel: int, stride: int, dilation: int, *, is_lower: bool) -> Ends:
    extent = dilation * (kernel - 1) + 1
    if stride < 1:
        raise ValueError(f"its stride is {stride}, expected at least 1")
    behind = (-(-size // stride) - 1) * stride - size if size is not None else -1
    total = max(behind + extent, 0)
    less, more = total // 2, total - total // 2
    return (more, less) if is_lower else (less, more)
