"""Tables that conformance tests run every method through, and what rounding may cost."""

from __future__ import annotations

import numpy as np

from surgery.factor.metric import DenseMetric, Metric
from surgery.ops import Chain, Conv2d, FloatArray, Linear, Op

MAP = (13, 11)  # Odd, not square, and large enough for every kernel below with its dilation.


def normal(seed: int, *shape: int, dtype: type = np.float32) -> FloatArray:
    """Gaussian weights of the size trained networks have."""
    return (0.1 * np.random.default_rng(seed).standard_normal(shape)).astype(dtype)


def low_rank(seed: int, m: int, n: int, rank: int, dtype: type = np.float32) -> FloatArray:
    rng = np.random.default_rng(seed)
    return (0.1 * rng.standard_normal((m, rank)) @ rng.standard_normal((rank, n))).astype(dtype)


def unaligned(array: FloatArray) -> FloatArray:
    """A read-only copy of `array` one byte off its natural alignment, as a view into a mapped file is."""
    return np.frombuffer(b"\0" + array.tobytes(), array.dtype, array.size, offset=1).reshape(array.shape)


def inputs(op: Op | Chain, batch: int = 2, seed: int = 0) -> FloatArray:
    first = op.ops[0] if isinstance(op, Chain) else op
    shape = (batch, first.in_channels, *MAP) if isinstance(first, Conv2d) else (batch, first.in_channels)
    return np.random.default_rng(seed).standard_normal(shape)


def unit_metric(op: Op) -> Metric:
    """The metric in which an error counts as in the Frobenius norm: of inputs that are all alike and independent."""
    groups = op.groups if isinstance(op, Conv2d) else 1
    return DenseMetric(np.broadcast_to(np.eye(op.weight[0].size), (groups, op.weight[0].size, op.weight[0].size)))


def rounding(op: Op, rank: tuple[int, ...]) -> float:
    """How far, relative to ||W||, factors rounded to storage can be from exact ones.

    Rounding one of two balanced factors moves the product by at most eps/2 * r^(1/4) * ||W||_F (nuclear against
    Frobenius norm); with three factors sqrt(r) is enough. 1e-13 is LAPACK's own backward error at these sizes.
    """
    eps = np.finfo(np.float64 if op.weight.dtype == np.float64 else np.float32).eps
    return float(4 * eps * np.sqrt(max(rank))) + 1e-13


def _bias(op_outputs: int) -> FloatArray:
    return normal(99, op_outputs)


OPS: dict[str, Op] = {
    "1x1": Conv2d(normal(1, 12, 8, 1, 1), _bias(12)),
    "1x1 stride 2": Conv2d(normal(2, 8, 12, 1, 1), stride=(2, 2)),
    "3x3": Conv2d(normal(3, 12, 8, 3, 3), _bias(12), padding=(1, 1)),
    "3x3 no bias": Conv2d(normal(4, 8, 12, 3, 3)),
    "5x1": Conv2d(normal(5, 6, 5, 5, 1), _bias(6), padding=(2, 0)),
    "1x5": Conv2d(normal(6, 6, 5, 1, 5), _bias(6), padding=(0, 2)),
    "3x5 stride 2x3, padding 1x2": Conv2d(normal(7, 6, 5, 3, 5), _bias(6), stride=(2, 3), padding=(1, 2)),
    "3x3 stride 1x2": Conv2d(normal(8, 6, 5, 3, 3), _bias(6), stride=(1, 2), padding=(1, 1)),
    "3x5 padding 2x1": Conv2d(normal(9, 6, 5, 3, 5), _bias(6), padding=(2, 1)),
    "3x3 dilation 2": Conv2d(normal(10, 6, 5, 3, 3), _bias(6), padding=(2, 2), dilation=(2, 2)),
    "3x3 dilation 2x3, stride 2x1": Conv2d(
        normal(11, 6, 5, 3, 3), _bias(6), stride=(2, 1), padding=(2, 3), dilation=(2, 3)
    ),
    "groups 2": Conv2d(normal(12, 12, 4, 3, 3), _bias(12), padding=(1, 1), groups=2),
    "groups 4, stride 2x1, padding 0x1": Conv2d(
        normal(13, 12, 2, 3, 2), _bias(12), stride=(2, 1), padding=(0, 1), groups=4
    ),
    "depthwise": Conv2d(normal(14, 6, 1, 3, 3), _bias(6), padding=(1, 1), groups=6),
    "depthwise times 2": Conv2d(normal(15, 12, 1, 3, 3), _bias(12), padding=(1, 1), groups=6),
    "one input": Conv2d(normal(16, 8, 1, 5, 5), _bias(8)),
    "one output": Conv2d(normal(17, 1, 7, 3, 3), _bias(1), padding=(1, 1)),
    "tiny": Conv2d(normal(18, 1, 1, 2, 2), _bias(1)),
    "rank-deficient conv": Conv2d(low_rank(19, 10, 6 * 9, 3).reshape(10, 6, 3, 3), _bias(10)),
    "zero conv": Conv2d(np.zeros((6, 5, 3, 3), np.float32), _bias(6), padding=(1, 1)),
    "half-zero groups": Conv2d(np.concatenate([normal(20, 4, 3, 3, 3), np.zeros((4, 3, 3, 3), np.float32)]), groups=2),
    "float64 conv": Conv2d(normal(21, 8, 6, 3, 3, dtype=np.float64), normal(22, 8, dtype=np.float64)),
    "float16 conv": Conv2d(normal(23, 8, 6, 3, 3, dtype=np.float16), normal(24, 8, dtype=np.float16)),
    "unaligned conv": Conv2d(unaligned(normal(25, 8, 6, 3, 3)), unaligned(normal(26, 8)), groups=2),
    "conv past the exact solver": Conv2d(normal(27, 260, 30, 3, 3), _bias(260), padding=(1, 1)),
    "wide": Linear(normal(31, 10, 40), _bias(10)),
    "tall": Linear(normal(32, 40, 10), _bias(40)),
    "square, no bias": Linear(normal(33, 16, 16)),
    "one row": Linear(normal(34, 1, 20), _bias(1)),
    "one column": Linear(normal(35, 20, 1), _bias(20)),
    "rank-deficient": Linear(low_rank(36, 20, 30, 4), _bias(20)),
    "zero": Linear(np.zeros((7, 9), np.float32), _bias(7)),
    "float64": Linear(normal(37, 12, 15, dtype=np.float64), normal(38, 12, dtype=np.float64)),
    "unaligned": Linear(unaligned(normal(39, 12, 15)), unaligned(normal(40, 12))),
    "wide, past the exact solver": Linear(unaligned(normal(41, 264, 300)), _bias(264)),
    "tall, past the exact solver": Linear(normal(42, 300, 264), _bias(300)),
    "rank-deficient, past the exact solver": Linear(low_rank(43, 264, 300, 20), _bias(264)),
    "zero, past the exact solver": Linear(np.zeros((264, 300), np.float32), _bias(264)),
    "float64, past the exact solver": Linear(normal(44, 300, 264, dtype=np.float64)),
}
