"""Multiplications and additions left in a chain, against counting them one by one."""

from __future__ import annotations

import numpy as np
import pytest

from surgery.ops import Chain, Conv2d, Linear, Scale
from surgery.ops.arithmetic import additions, input_scales, multiplications

SIZE = (6, 5)
TERNARY = np.array([[1, 0, -1], [0, 1, 1]], np.float32)
MIXED = np.array([[1, 2, 3], [2, 1, 3]], np.float32)


def conv(weight: np.ndarray, **geometry: object) -> Conv2d:
    return Conv2d(weight[:, :, None, None] * np.ones((1, 1, 3, 3), np.float32), **geometry)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ops", "count"),
    [
        ((Linear(TERNARY),), 0),
        ((Linear(MIXED),), 6),
        ((Linear(TERNARY * np.array([0.5, 1, 3], np.float32)),), 2),  # The input that is taken as it is costs nothing.
        ((Linear(TERNARY), Scale.of(np.ones(2)), Linear(TERNARY.T.copy())), 2),
        ((conv(TERNARY, padding=(1, 1)),), 0),
        ((conv(MIXED, padding=(1, 1)),), 6 * 9 * 30),
        ((conv(0.5 * TERNARY, stride=(2, 2)),), 3 * 30),  # Every number of the input map once.
        ((conv(TERNARY, stride=(2, 2)), Scale.of(np.ones(2)), Conv2d(TERNARY.T[:, :, None, None])), 2 * 2 * 2),
    ],
)
def test_only_scales_and_ordinary_weights_multiply(ops: tuple[Linear, ...], count: int) -> None:
    assert multiplications(Chain(ops), SIZE) == count


def test_every_weight_that_is_not_zero_is_added_at_every_position() -> None:
    chain = Chain((conv(TERNARY, stride=(2, 2)), Scale.of(np.ones(2)), Conv2d(TERNARY.T[:, :, None, None])))
    assert additions(chain, SIZE) == 2 * 2 * (4 * 9 + 4)


def test_groups_have_inputs_of_their_own() -> None:
    weight = np.concatenate([TERNARY, 2 * TERNARY])[:, :, None, None]
    scales = input_scales(Conv2d(weight, groups=2))
    np.testing.assert_array_equal(scales, [1, 1, 1, 2, 2, 2])
    assert input_scales(Conv2d(weight)) is None
