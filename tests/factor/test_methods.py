"""What one method says that others do not: reasons to refuse, structure of the chain, its own path."""

from __future__ import annotations

import numpy as np
import pytest

from surgery.errors import PlanError
from surgery.factor import METHODS
from surgery.factor import tucker2 as tucker2_module
from surgery.factor.solver import EXCESS
from surgery.ops import Conv2d, Linear
from tests.cases import OPS, normal

STRIDED = Conv2d(normal(1, 12, 4, 3, 5), normal(2, 12), (2, 3), (1, 2), (2, 1), groups=2)


@pytest.mark.parametrize(
    ("method", "op", "reason"),
    [
        ("svd", "3x3", "not a fully connected layer"),
        ("svd-channel", "wide", "not a convolution"),
        ("svd-spatial", "wide", "not a convolution"),
        ("svd-spatial", "1x1", "kernel is 1x1: nothing to separate"),
        ("svd-spatial", "5x1", "kernel is 5x1: already separated"),
        ("svd-spatial", "1x5", "kernel is 1x5: already separated"),
        ("tucker2", "wide", "not a convolution"),
        ("tucker2", "1x1", "three 1x1 layers are never better than the two of svd-channel"),
        ("tucker2", "depthwise", "one input channel per group"),
        ("tucker2", "one input", "one input channel per group"),
    ],
)
def test_a_refusal_says_why_and_holds_everywhere(method: str, op: str, reason: str) -> None:
    subject, layer = METHODS[method], OPS[op]
    assert reason in (subject.refusal(layer) or "")
    for use in (
        lambda: subject.max_rank(layer),
        lambda: subject.rank_at(layer, 1),
        lambda: subject.template(layer, subject.max_rank(layer)),
        lambda: subject.spectrum(layer),
        lambda: subject.rank_for_energy(layer, 0.9),
        lambda: subject.factor(layer, (1, 1) if method == "tucker2" else (1,)),
    ):
        with pytest.raises(PlanError, match=f"^{method}: .*{reason}"):
            use()


def geometry(op: object) -> tuple[object, ...]:
    assert isinstance(op, Conv2d)
    return op.weight.shape, op.stride, op.padding, op.dilation, op.groups, op.bias is not None


def test_svd_channel_keeps_the_geometry_on_the_kernel() -> None:
    first, last = METHODS["svd-channel"].factor(STRIDED, (3,)).chain.ops
    assert geometry(first) == ((6, 4, 3, 5), (2, 3), (1, 2), (2, 1), 2, False)
    assert geometry(last) == ((12, 3, 1, 1), (1, 1), (0, 0), (1, 1), 2, True)


def test_svd_spatial_gives_each_axis_its_half_of_the_geometry() -> None:
    vertical, horizontal = METHODS["svd-spatial"].factor(STRIDED, (7,)).chain.ops
    assert geometry(vertical) == ((14, 4, 3, 1), (2, 1), (1, 0), (2, 1), 2, False)
    assert geometry(horizontal) == ((12, 7, 1, 5), (1, 3), (0, 2), (1, 1), 2, True)


def test_tucker2_keeps_the_geometry_on_the_core() -> None:
    first, core, last = METHODS["tucker2"].factor(STRIDED, (5, 2)).chain.ops
    assert geometry(first) == ((4, 4, 1, 1), (1, 1), (0, 0), (1, 1), 2, False)
    assert geometry(core) == ((10, 2, 3, 5), (2, 3), (1, 2), (2, 1), 2, False)
    assert geometry(last) == ((12, 5, 1, 1), (1, 1), (0, 0), (1, 1), 2, True)


def test_svd_is_two_layers() -> None:
    first, last = METHODS["svd"].factor(OPS["wide"], (4,)).chain.ops
    assert (first.weight.shape, first.bias) == ((4, 40), None)
    assert last.weight.shape == (10, 4)
    assert last.bias is not None


def test_tucker2_walks_in_proportion_to_the_channels() -> None:
    op = Conv2d(np.broadcast_to(np.float32(0), (96, 24, 3, 3)))
    method = METHODS["tucker2"]
    assert [method.rank_at(op, size) for size in (1, 2, 6, 48, 96)] == [(1, 1), (2, 1), (6, 2), (48, 12), (96, 24)]


def test_tucker2_never_needs_more_than_its_unfoldings_hold() -> None:
    assert METHODS["tucker2"].max_rank(Conv2d(normal(3, 64, 2, 3, 3))) == (18, 2)


def test_tucker2_sweeps_improve_on_the_higher_order_svd(monkeypatch: pytest.MonkeyPatch) -> None:
    op = Conv2d(normal(4, 24, 20, 3, 3))
    swept = METHODS["tucker2"].factor(op, (8, 6)).relative_error
    monkeypatch.setattr(tucker2_module, "MAX_SWEEPS", 0)
    assert swept < METHODS["tucker2"].factor(op, (8, 6)).relative_error


def test_tucker2_recovers_a_core_that_is_there() -> None:
    rng = np.random.default_rng(5)
    u_out, u_in = rng.standard_normal((24, 3)), rng.standard_normal((20, 2))
    weight = np.einsum("op,pqhw,iq->oihw", u_out, rng.standard_normal((3, 2, 3, 3)), u_in)
    assert METHODS["tucker2"].factor(Conv2d(weight), (3, 2)).relative_error < 1e-14  # All in float64.


def test_tucker2_in_small_blocks_is_tucker2(monkeypatch: pytest.MonkeyPatch) -> None:
    op = Conv2d(normal(6, 24, 20, 3, 3))
    whole = METHODS["tucker2"].factor(op, (8, 6))
    monkeypatch.setattr("surgery.ops.array.BLOCK_BYTES", 5 * 8 * 180)  # Five outputs at a time.
    blocked = METHODS["tucker2"].factor(op, (8, 6))
    # Sums in another order; the iteration may stop a sweep earlier or later, worth 1e-6 of ||W||^2.
    assert blocked.relative_error == pytest.approx(whole.relative_error, abs=1e-5)


def test_tucker2_of_a_large_layer_ends_within_a_thousandth_of_the_search_to_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kernels = np.random.default_rng(7).standard_normal((60, 50, 3, 3))
    fading = kernels * np.arange(1, 61)[:, None, None, None] ** -0.5 * np.arange(1, 51)[:, None, None] ** -0.5
    op = Conv2d(fading.astype(np.float32))
    whole = METHODS["tucker2"].factor(op, (20, 15)).relative_error
    monkeypatch.setattr(tucker2_module, "LARGE_SIZE", 0)
    assert METHODS["tucker2"].factor(op, (20, 15)).relative_error <= whole * (1 + EXCESS)


def test_tucker2_of_a_large_layer_that_float32_is_too_coarse_for_is_sought_in_float64(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(8)
    u_out, u_in = rng.standard_normal((60, 5)), rng.standard_normal((50, 4)) * 10.0 ** -np.arange(4)
    op = Conv2d(np.einsum("op,pqhw,iq->oihw", u_out, rng.standard_normal((5, 4, 3, 3)), u_in).astype(np.float32))
    monkeypatch.setattr(tucker2_module, "LARGE_SIZE", 0)
    # The last of the inputs' directions has 1e-6 of the energy, float32's Gram matrices an error of 1e-6.
    assert METHODS["tucker2"].factor(op, (5, 4)).relative_error < 1e-6


def test_an_unaligned_read_only_layer_past_one_block_is_factored(monkeypatch: pytest.MonkeyPatch) -> None:
    op = OPS["wide, past the exact solver"]
    assert isinstance(op, Linear)
    assert not op.weight.flags.aligned
    assert not op.weight.flags.writeable
    whole = METHODS["svd"].factor(op, (20,))
    monkeypatch.setattr("surgery.ops.array.BLOCK_BYTES", 8 * 264 * 11)  # Eleven columns at a time.
    blocked = METHODS["svd"].factor(op, (20,))
    assert blocked.relative_error == pytest.approx(whole.relative_error, rel=1e-9)  # Sums in another order.


@pytest.mark.parametrize(
    ("method", "op", "solver"),
    [
        ("svd", "wide", "exact"),
        ("svd", "wide, past the exact solver", "gram"),
        ("svd-channel", "conv past the exact solver", "gram"),
        ("svd-spatial", "3x3", "exact"),
        ("tucker2", "3x3", "hooi"),
    ],
)
def test_a_fit_names_its_solver_and_rank(method: str, op: str, solver: str) -> None:
    rank = METHODS[method].rank_at(OPS[op], 2)
    fit = METHODS[method].factor(OPS[op], rank)
    assert (fit.solver, fit.rank) == (solver, rank)
