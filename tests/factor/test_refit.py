"""Refits against brute force: the best stage found by least squares on its explicit linear map."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from surgery.factor import METHODS, Method, nearby, stage
from surgery.factor.metric import DenseMetric, Metric, SampledMetric
from surgery.factor.refit import distance, refit, relative_error
from surgery.factor.response import needs_data
from surgery.ops import Chain, Conv2d, Linear, Op, Scale, collapse
from tests.cases import OPS, normal


def skewed(groups: int, size: int, seed: int = 0) -> DenseMetric:
    """Covariances whose eigenvalues differ by four orders of magnitude, as those of images do."""
    turned = np.linalg.qr(np.random.default_rng(seed).standard_normal((groups, size, size)))[0]
    return DenseMetric(turned @ (np.logspace(0, -4, size)[:, None] * turned.swapaxes(1, 2)))


def metric_of(op: Op) -> DenseMetric:
    return skewed(op.groups if isinstance(op, Conv2d) else 1, op.weight[0].size)


def random_conv(seed: int, *shape: int, groups: int = 1) -> Conv2d:
    return Conv2d(normal(seed, *shape, dtype=np.float64), groups=groups)


LAYER = random_conv(0, 6, 5, 3, 3)
GROUPED = random_conv(1, 6, 4, 3, 3, groups=2)
DENSE = Linear(normal(2, 7, 9, dtype=np.float64), normal(3, 7, dtype=np.float64))
CHAINS: dict[str, tuple[Op, Chain]] = {
    "channel": (LAYER, Chain((random_conv(4, 3, 5, 3, 3), random_conv(5, 6, 3, 1, 1)))),
    "spatial": (LAYER, Chain((random_conv(6, 4, 5, 3, 1), random_conv(7, 6, 4, 1, 3)))),
    "input side": (LAYER, Chain((random_conv(8, 3, 5, 1, 1), random_conv(9, 6, 3, 3, 3)))),
    "tucker": (LAYER, Chain((random_conv(10, 3, 5, 1, 1), random_conv(11, 4, 3, 3, 3), random_conv(12, 6, 4, 1, 1)))),
    "cp": (
        LAYER,
        Chain((random_conv(13, 7, 5, 1, 1), random_conv(14, 7, 1, 3, 3, groups=7), random_conv(15, 6, 7, 1, 1))),
    ),
    "cp4": (
        LAYER,
        Chain(
            (
                random_conv(16, 7, 5, 1, 1),
                random_conv(17, 7, 1, 3, 1, groups=7),
                random_conv(18, 7, 1, 1, 3, groups=7),
                random_conv(19, 6, 7, 1, 1),
            )
        ),
    ),
    "groups": (GROUPED, Chain((random_conv(20, 6, 4, 3, 1, groups=2), random_conv(21, 6, 3, 1, 3, groups=2)))),
    "groups inside": (LAYER, Chain((random_conv(22, 4, 5, 1, 1), random_conv(23, 6, 2, 3, 3, groups=2)))),
    "linear": (DENSE, Chain((Linear(normal(24, 4, 9)), Linear(normal(25, 7, 4), DENSE.bias)))),
    "scaled": (
        DENSE,
        Chain((Linear(normal(26, 4, 9)), Scale.of(normal(27, 4)), Linear(normal(28, 7, 4), DENSE.bias))),
    ),
}
STAGES = [pytest.param(*case, j, id=f"{name} {j}") for name, case in CHAINS.items() for j in range(len(case[1].ops))]


PAIRS = [
    pytest.param(method, OPS[name], id=f"{method.name}: {name}")
    for method in METHODS.values()
    for name in ("3x3", "groups 2", "half-zero groups", "zero conv", "rank-deficient conv", "wide", "zero")
    if method.refusal(OPS[name]) is None
]


def numbers(of: object) -> np.ndarray:
    return (of.factor if isinstance(of, Scale) else of.weight).astype(np.float64)  # type: ignore[attr-defined]


def with_numbers(chain: Chain, j: int, values: np.ndarray) -> Chain:
    old = chain.ops[j]
    new = Scale.of(values) if isinstance(old, Scale) else replace(old, weight=values.reshape(old.weight.shape))
    return Chain((*chain.ops[:j], new, *chain.ops[j + 1 :]))


def brute_force(op: Op, chain: Chain, j: int, metric: Metric, allowed: np.ndarray | None = None) -> float:
    """The smallest distance over all numbers of stage j: the chain's product for each unit vector, least squares."""
    size = numbers(chain.ops[j]).size
    kept = np.arange(size) if allowed is None else np.flatnonzero(allowed)
    roots = [np.linalg.cholesky(metric.dense(g)) for g in range(metric.groups)]

    def measured(weight: np.ndarray) -> np.ndarray:
        parts = np.split(weight.reshape(len(weight), -1).astype(np.float64), metric.groups)
        return np.concatenate([(part @ root).ravel() for part, root in zip(parts, roots, strict=True)])

    columns = [measured(collapse(with_numbers(chain, j, np.eye(size)[k])).weight) for k in kept]
    wanted, matrix = measured(op.weight), np.stack(columns, axis=1)
    return float(np.sum(np.square(matrix @ np.linalg.lstsq(matrix, wanted, rcond=None)[0] - wanted)))


@pytest.mark.parametrize(("op", "chain", "j"), STAGES)
def test_one_stage_alone_becomes_the_best_there_is(op: Op, chain: Chain, j: int) -> None:
    metric = metric_of(op)
    found = distance(refit(chain, {j}, op, metric, sweeps=100), op, metric)
    # Conjugate gradients stop where a sweep gains less than 1e-3 of the rest; factors of the linear chains are float32.
    assert brute_force(op, chain, j, metric) * (1 - 1e-6) <= found <= 1.01 * brute_force(op, chain, j, metric)


@pytest.mark.parametrize(("op", "chain"), CHAINS.values(), ids=CHAINS)
def test_more_sweeps_never_lead_away(op: Op, chain: Chain) -> None:
    metric, every = metric_of(op), range(len(chain.ops))
    found = [distance(refit(chain, every, op, metric, sweeps), op, metric) for sweeps in (0, 1, 2, 4, 8)]
    assert all(after <= before * (1 + 1e-9) for before, after in pairwise(found))
    assert found[-1] < 0.7 * found[0]  # Random factors leave much to gain.


@pytest.mark.parametrize(("op", "chain"), CHAINS.values(), ids=CHAINS)
def test_only_free_stages_change_and_keep_shape_precision_and_bias(op: Op, chain: Chain) -> None:
    last = len(chain.ops) - 1
    new = refit(chain, {last}, op, metric_of(op))
    assert new.ops[:last] == chain.ops[:last]
    assert new.last.weight.shape == chain.last.weight.shape
    assert new.last.weight.dtype == chain.last.weight.dtype
    assert new.last.weight.flags.c_contiguous
    assert (new.last.bias is None) == (op.bias is None)


@pytest.mark.parametrize("name", ["tucker", "input side", "channel"])
def test_masked_zeros_stay_and_the_rest_is_the_best_there_is(name: str) -> None:
    op, chain = CHAINS[name]
    pruned = numbers(chain.ops[1]).copy()
    pruned[np.abs(pruned) < 0.1] = 0
    chain = with_numbers(chain, 1, pruned)
    metric = metric_of(op)
    new = refit(chain, {1}, op, metric, sweeps=100, masked={1})
    np.testing.assert_array_equal(numbers(new.ops[1])[pruned == 0], 0)
    best = brute_force(op, chain, 1, metric, pruned.ravel() != 0)
    assert best * (1 - 1e-6) <= distance(new, op, metric) <= 1.01 * best


@pytest.mark.parametrize(("method", "op"), PAIRS)
def test_a_refit_never_makes_a_method_s_own_chain_worse_nor_moves_what_is_bound(method: Method, op: Op) -> None:
    metric = metric_of(op)
    for size in (1, max(method.max_rank(op))):
        fit = method.factor(op, method.rank_at(op, size), metric=metric if needs_data(method) else None)
        chain = fit.chain
        new = refit(chain, set(range(len(chain.ops))) - fit.bound, op, metric)
        assert distance(new, op, metric) <= distance(chain, op, metric)
        assert np.isfinite(numbers(new.last)).all()
        assert all(new.ops[j] is chain.ops[j] for j in fit.bound)


def test_in_no_metric_the_distance_is_the_frobenius_norm() -> None:
    op, chain = CHAINS["tucker"]
    missing = op.weight - collapse(chain).weight
    assert distance(chain, op) == pytest.approx(np.sum(missing**2), rel=1e-12)
    assert relative_error(chain, op) == pytest.approx(np.linalg.norm(missing) / np.linalg.norm(op.weight), rel=1e-12)
    assert relative_error(chain, replace(op, weight=0 * op.weight)) == 0


def test_samples_in_place_of_the_matrix_give_the_same_linear_fit() -> None:
    op, chain = CHAINS["linear"]
    samples = np.random.default_rng(0).standard_normal((1, 5, 9))
    sampled = SampledMetric(samples, 0.1)
    dense = DenseMetric(sampled.dense(0)[np.newaxis])
    one, other = (collapse(refit(chain, (0, 1), op, metric)).weight for metric in (sampled, dense))
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)  # Factors of float32.
    assert distance(refit(chain, (0, 1), op, sampled), op, sampled) < 0.9 * distance(chain, op, sampled)


BEHIND_OTHERS = [case for case in STAGES if case.values[2] > 0]


@pytest.mark.parametrize("is_one", [False, True], ids=["a matrix for each mode", "one for all"])
@pytest.mark.parametrize(("op", "chain", "j"), BEHIND_OTHERS)
def test_moments_too_large_to_be_held_are_solved_with_all_the_same(
    op: Op, chain: Chain, j: int, is_one: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "HELD", 0)
    monkeypatch.setattr(stage, "BLOCK_BYTES", 0)
    monkeypatch.setattr(nearby, "BLOCK_BYTES", 0 if is_one else nearby.BLOCK_BYTES)
    metric = metric_of(op)
    found = distance(refit(chain, {j}, op, metric, sweeps=100), op, metric)
    # As above: conjugate gradients stop where four steps gain less than 1e-3 of the rest.
    assert brute_force(op, chain, j, metric) * (1 - 1e-6) <= found <= 1.01 * brute_force(op, chain, j, metric)


@pytest.mark.parametrize("name", ["spatial", "tucker", "groups"])
def test_a_ridge_on_the_metric_is_as_good_as_one_in_it(name: str) -> None:
    op, chain = CHAINS[name]
    metric = metric_of(op)
    ridged = DenseMetric(metric.moments, 0.1)
    whole = DenseMetric(metric.moments + 0.1 * np.eye(metric.size))
    one, other = (collapse(refit(chain, range(len(chain.ops)), op, m)).weight for m in (ridged, whole))
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)
