"""What is said of any method: ranks, costs, energies and their refusals."""

from __future__ import annotations

import numpy as np
import pytest

from surgery.errors import PlanError
from surgery.factor import METHODS, break_even, largest_size, rank_holding, tail_energy
from surgery.factor.base import joint_spectrum
from surgery.ops import Conv2d, FloatArray, Linear

NOTHING = np.float32(0)


def linear(outputs: int, inputs: int) -> Linear:
    return Linear(_zeros(outputs, inputs))


def conv(outputs: int, inputs: int, kernel: int, groups: int = 1) -> Conv2d:
    return Conv2d(_zeros(outputs, inputs // groups, kernel, kernel), padding=(kernel // 2, kernel // 2), groups=groups)


def _zeros(*shape: int) -> FloatArray:
    return np.broadcast_to(NOTHING, shape)  # Costs need shapes only.


@pytest.mark.parametrize(
    ("method", "op", "rank"),
    [
        ("svd", linear(4096, 9216), (2835,)),  # AlexNet fc6
        ("svd", linear(4096, 4096), (2047,)),  # AlexNet fc7: 2048 breaks exactly even
        ("svd", linear(1000, 4096), (803,)),  # AlexNet fc8
        ("svd", linear(4096, 25088), (3521,)),  # VGG fc6
        ("svd-channel", conv(512, 512, 3), (460,)),
        ("svd-spatial", conv(512, 512, 3), (767,)),  # 768 breaks exactly even
        ("tucker2", conv(512, 512, 3), (458, 458)),
        ("svd-channel", conv(512, 512, 1), (255,)),
        ("svd-channel", conv(512, 512, 3, groups=2), (230,)),
        ("svd", linear(1, 20), None),
        ("svd-channel", conv(64, 64, 3, groups=64), None),
        ("svd-channel", conv(1, 1, 3), None),
    ],
)
def test_break_even_is_the_published_rank(method: str, op: Linear | Conv2d, rank: tuple[int, ...] | None) -> None:
    assert break_even(METHODS[method], op) == rank


def test_break_even_can_be_asked_for_multiplications() -> None:
    op = Conv2d(_zeros(64, 64, 3, 3), stride=(2, 2), padding=(1, 1))
    # Stride 2: the vertical half runs on twice the columns of the output, so fewer ranks pay than by weights.
    # 28 * 28 * 64 * 64 * 9 / (28 * 56 * 3 * 64 + 28 * 28 * 3 * 64) = 64 breaks exactly even.
    assert break_even(METHODS["svd-spatial"], op, lambda op: op.macs((56, 56))) == (63,)
    assert break_even(METHODS["svd-spatial"], op) == (95,)


def test_largest_size_is_0_when_nothing_is_affordable_and_the_last_when_all_is() -> None:
    method, op = METHODS["svd"], linear(30, 20)
    assert largest_size(method, op, lambda chain: False) == 0
    assert largest_size(method, op, lambda chain: True) == 20
    assert largest_size(method, op, lambda chain: chain.weight_params <= 50 * 7) == 7


@pytest.mark.parametrize(
    ("method", "op", "rank", "message"),
    [
        (
            "svd",
            linear(30, 20),
            (21,),
            r"svd: rank 21 is above the largest useful rank 20 \(= min\(30, 20\)\); choose 1",
        ),
        ("svd", linear(30, 20), (0,), "svd: rank 0 is below the smallest rank 1; choose 1 to 20"),
        ("svd", linear(30, 20), (3, 3), r"svd: rank \(3, 3\) has 2 numbers, expected 1"),
        ("svd-channel", conv(512, 32, 3), (300,), r"300 is above the largest useful rank 288 \(= min\(512, 288\)\)"),
        ("svd-channel", conv(8, 8, 3, groups=2), (5,), "largest useful rank 4"),
        ("svd-spatial", conv(8, 8, 3), (25,), r"largest useful rank 24 \(= min\(24, 24\)\)"),
        ("tucker2", conv(12, 8, 3), (13, 2), r"rank \(13, 2\) is above the largest useful rank \(12, 8\)"),
        ("tucker2", conv(12, 8, 3), (2, 0), r"\(2, 0\) is below the smallest rank \(1, 1\); choose \(1, 1\) to \(12"),
        ("tucker2", conv(12, 8, 3), (2,), r"rank 2 has 1 numbers, expected 2"),
    ],
)
def test_a_rank_outside_is_refused_with_what_was_given_and_the_largest(
    method: str, op: Linear | Conv2d, rank: tuple[int, ...], message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        METHODS[method].factor(op, rank)
    with pytest.raises(PlanError, match=message):
        METHODS[method].template(op, rank)


@pytest.mark.parametrize("size", [0, 21])
def test_a_step_outside_the_path_is_refused(size: int) -> None:
    with pytest.raises(PlanError, match="choose 1 to 20"):
        METHODS["svd"].rank_at(linear(30, 20), size)


def test_the_rank_for_an_energy_is_the_smallest_whose_tail_is_small_enough() -> None:
    values = np.sqrt([9.0, 4.0, 2.0, 1.0, 0.0])
    assert [rank_holding(values, e) for e in (0.5, 9 / 16, 0.6, 13 / 16, 0.9, 15 / 16, 0.99, 1.0)] == [
        1, 1, 2, 2, 3, 3, 4, 4,
    ]  # fmt: skip
    assert rank_holding(np.zeros(3), 0.9) == 1
    assert tail_energy(values, 2) == pytest.approx(3)
    assert tail_energy(values, 5) == tail_energy(values, 9) == 0


@pytest.mark.parametrize("energy", [0.0, -1.0, 1.01, float("nan")])
def test_an_energy_that_is_no_share_is_refused(energy: float) -> None:
    with pytest.raises(PlanError, match="expected a number above 0 and at most 1"):
        rank_holding(np.ones(3), energy)


def test_spectra_of_groups_join_so_that_tails_add_up() -> None:
    first, second = np.array([3.0, 2.0, 1.0]), np.array([4.0, 0.5, 0.0])
    for rank in range(4):
        assert tail_energy(joint_spectrum([first, second]), rank) == pytest.approx(
            tail_energy(first, rank) + tail_energy(second, rank)
        )


def test_a_spectrum_already_known_is_not_computed_again() -> None:
    spectrum = (np.array([3.0, 1.0]),)
    assert METHODS["svd"].rank_for_energy(linear(2, 2), 0.9, spectrum) == (1,)
