"""The laws of semi-NMF: what the constraint costs, that it holds exactly, and how large its factors get."""

from __future__ import annotations

import numpy as np
import pytest

from surgery.factor import semi_nmf, tail_energy
from surgery.factor.metric import DenseMetric, SampledMetric
from surgery.factor.semi_nmf import SemiNmf, _closed_form
from surgery.factor.semi_nmf_updates import updated
from surgery.factor.solver import truncated_svd
from surgery.ops import Conv2d, Linear, collapse
from tests.cases import OPS, low_rank, normal, rounding

SIDES = {"first": 0, "last": 1}
ABLE = {name: op for name, op in OPS.items() if SemiNmf().refusal(op) is None}
# Orthonormal rows: all singular values are 1, for which the constraint swells factors most.
FLAT = np.linalg.qr(normal(12, 300, 200))[0].T
every_side = pytest.mark.parametrize("side", SIDES)
every_layer = pytest.mark.parametrize("name", ABLE)


def ranks(method: SemiNmf, name: str) -> list[int]:
    return sorted({max(1, round(share * method.max_rank(ABLE[name])[0])) for share in (0, 0.1, 0.4, 0.9, 1)})


@every_side
@every_layer
def test_the_constraint_costs_at_most_one_rank(name: str, side: str) -> None:
    op, method = ABLE[name], SemiNmf(side)
    (values,) = method.spectrum(op)
    total = tail_energy(values, 0) or 1.0
    for rank in ranks(method, name):
        # Besides rounding: a tail of the Gram solver's noise, sqrt(300 eps64) = 3e-7 of the largest value.
        slack = rounding(op, (rank,)) + (1e-6 if min(op.weight.shape[:2]) > 256 else 0)
        error = method.factor(op, (rank,)).relative_error
        best, one_less = (np.sqrt(tail_energy(values, r) / total) for r in (rank, rank - 1))
        assert best - slack <= error <= one_less + slack


@every_side
@every_layer
@pytest.mark.parametrize("start", ["closed-form", "kmeans"])
def test_the_bound_layer_has_no_negative_weight(name: str, side: str, start: str) -> None:
    method = SemiNmf(side, start)
    for rank in ranks(method, name):
        fit = method.factor(ABLE[name], (rank,))
        assert fit.bound == {SIDES[side]}
        assert np.min(fit.chain.ops[SIDES[side]].weight) >= 0


@every_side
@every_layer
@pytest.mark.parametrize("start", ["closed-form", "kmeans"])
def test_full_rank_reproduces_the_layer(name: str, side: str, start: str) -> None:
    method, op = SemiNmf(side, start), ABLE[name]
    rank = method.max_rank(op)
    fit = method.factor(op, rank)
    norm = np.linalg.norm(op.weight.astype(np.float64))
    assert np.linalg.norm(collapse(fit.chain).weight - op.weight) <= rounding(op, rank) * norm


@every_side
@pytest.mark.parametrize("spectrum", ["noise", "flat"])
@pytest.mark.parametrize("rank", [1, 10, 60, 199])
def test_the_factors_are_at_most_four_times_as_large_as_the_svds(side: str, spectrum: str, rank: int) -> None:
    op = Linear(FLAT if spectrum == "flat" else normal(1, 200, 300))
    svd, fit = truncated_svd(op.weight, rank), SemiNmf(side).factor(op, (rank,))
    first, last = (stage.weight for stage in (fit.chain.first, fit.chain.last))
    largest = max(np.linalg.norm(first, axis=1).max(), np.linalg.norm(last, axis=0).max())
    # Ten is the promise at any rank. A component that takes the shift for all others would be 6 times as large here,
    # and grow with the root of the root of the rank.
    assert largest <= 4 * np.linalg.norm(svd.left, axis=0).max()


@every_side
@pytest.mark.parametrize("start", ["closed-form", "kmeans"])
@pytest.mark.parametrize("is_weighed", [False, True])
def test_what_updates_end_with_is_no_worse_than_their_start(
    side: str, start: str, is_weighed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    op, rank, method = Linear(normal(3, 20, 30)), (8,), SemiNmf(side, start)
    samples = np.random.default_rng(4).standard_normal((100, 30)) * np.logspace(0, -2, 30)
    metric = DenseMetric((samples.T @ samples / 100 + 1e-6 * np.eye(30))[np.newaxis]) if is_weighed else None

    def error() -> float:
        missing = op.weight - collapse(method.factor(op, rank, metric=metric).chain).weight
        return metric.squared(missing) if metric else float(np.vdot(missing, missing))

    updated = error()
    monkeypatch.setattr(semi_nmf, "updated", lambda reduced, held, count, metric: np.ones_like(held))
    begun = error()  # Of a product of rank 1, were it not for the start.
    monkeypatch.setattr(semi_nmf, "updated", lambda reduced, held, count, metric: held)
    assert begun == error()
    assert updated <= begun
    assert start == "closed-form" or updated < 0.99 * begun


@pytest.mark.parametrize("rank", [2, 3, 10])
def test_the_closed_form_spans_the_rows_and_adds_one_shift_to_all(rank: int) -> None:
    rows = np.random.default_rng(11).standard_normal((rank - 1, 40)) * np.logspace(0, -3, rank - 1)[:, np.newaxis]
    held = _closed_form(rows, rank)
    free = np.linalg.lstsq(held.T, rows.T)[0].T
    # Float64 at a condition of ten: the simplex has none.
    np.testing.assert_allclose(free @ held, rows, rtol=0, atol=1e-13)
    np.testing.assert_array_equal(held.min(axis=0), 0)


@pytest.mark.parametrize("is_weighed", [False, True])
def test_no_update_raises_the_error(is_weighed: bool) -> None:
    rng = np.random.default_rng(2)
    reduced, held = rng.standard_normal((6, 30)), rng.random((6, 30)) + 0.1
    samples = rng.standard_normal((40, 30))
    metric = samples.T @ samples if is_weighed else None
    root = np.linalg.cholesky(metric) if metric is not None else np.eye(30)
    errors = []
    for count in range(12):
        rows = updated(reduced, held, count, metric) @ root
        target = reduced @ root
        errors.append(np.linalg.norm(target - target @ np.linalg.pinv(rows) @ rows))
    # Sums of 200 terms of float64, and the ridge of 1e-12.
    assert np.all(np.diff(errors) <= 1e-9 * errors[0])
    assert errors[-1] < 0.99 * errors[0]


@every_side
def test_a_metric_lowers_the_error_in_it_to_within_one_rank_of_the_best(side: str) -> None:
    op, rank = Linear(normal(3, 20, 30)), 8
    samples = np.random.default_rng(4).standard_normal((100, 30)) * np.logspace(0, -2, 30)
    metric = DenseMetric((samples.T @ samples / 100 + 1e-6 * np.eye(30))[np.newaxis])
    errors = [
        metric.squared(op.weight - collapse(SemiNmf(side).factor(op, (rank,), metric=given).chain).weight)
        for given in (None, metric)
    ]
    values = np.linalg.svd(op.weight @ np.linalg.cholesky(metric.dense(0)), compute_uv=False)
    # Factors stored in float32 move the product by about 1e-6.
    assert tail_energy(values, rank) * (1 - 1e-4) <= errors[1] <= tail_energy(values, rank - 1) * (1 + 1e-4)
    assert errors[1] < errors[0]


def test_samples_alone_refit_the_free_factor() -> None:
    op, rank = Linear(normal(5, 20, 30)), (8,)
    metric = SampledMetric(normal(6, 1, 12, 30), 1e-4)
    plain, weighed = (SemiNmf().factor(op, rank, metric=given).chain for given in (None, metric))
    errors = [metric.squared(op.weight - collapse(chain).weight) for chain in (plain, weighed)]
    assert errors[1] < 0.9 * errors[0]


def test_geometry_goes_to_the_first_layer_and_groups_to_both() -> None:
    op = Conv2d(normal(7, 12, 5, 1, 1), normal(8, 12), stride=(2, 1), padding=(1, 0), groups=2)
    first, last = SemiNmf().factor(op, (3,)).chain.ops
    assert isinstance(first, Conv2d)
    assert isinstance(last, Conv2d)
    assert (first.weight.shape, first.stride, first.padding, first.groups) == ((6, 5, 1, 1), (2, 1), (1, 0), 2)
    assert (last.weight.shape, last.stride, last.padding, last.groups) == ((12, 3, 1, 1), (1, 1), (0, 0), 2)


@pytest.mark.parametrize(("side", "largest"), [("first", 11), ("last", 10)])
def test_the_largest_rank_is_one_above_the_smaller_side_unless_the_identity_comes_first(
    side: str, largest: int
) -> None:
    assert SemiNmf(side).max_rank(Linear(normal(9, 10, 40))) == (largest,)


def test_larger_kernels_are_refused_by_name() -> None:
    assert SemiNmf().refusal(OPS["3x3"]) == "kernel is 3x3: neither fully connected nor 1x1"


def test_a_rank_above_that_of_the_weight_is_exact() -> None:
    op = Linear(low_rank(10, 30, 40, 5))
    assert SemiNmf().factor(op, (6,)).relative_error < 1e-6  # Float32 storage, of matrix and factors.
