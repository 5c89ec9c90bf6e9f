"""Three factors improved step by step, and pruned: claims about the numbers, apart from any layer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from surgery.factor.pruning import (
    SCHEDULE,
    core_scores,
    drop_components,
    largest_entries,
    left_scores,
    rotated,
    shrink,
    sparsify,
)
from surgery.factor.trifactor import (
    Factors,
    Normal,
    Step,
    by_columns,
    fit_core,
    improve,
    masked_least_squares,
    multiplicative,
)
from surgery.ops import Float64Array

STEPS: dict[str, Step] = {"free": masked_least_squares, "columns": by_columns, "multiplicative": multiplicative}
every_step = pytest.mark.parametrize("step", STEPS.values(), ids=STEPS.keys())
every_taps = pytest.mark.parametrize("taps", [1, 6])


def noise(seed: int, *shape: int) -> Float64Array:
    return np.random.default_rng(seed).standard_normal(shape)


def start(weight: Float64Array, a: int, b: int, seed: int = 0) -> Factors:
    """Random factors >= 0 with the best core."""
    rng = np.random.default_rng(seed)
    outputs, inputs, taps = weight.shape
    return fit_core(weight, Factors(rng.random((outputs, a)), np.zeros((a, taps, b)), rng.random((inputs, b))))


def some(factors: Factors, seed: int = 1, share: float = 0.6) -> Factors:
    """A random choice of entries to keep."""
    rng = np.random.default_rng(seed)
    parts = (factors.left, factors.core, factors.right)
    return Factors(*((rng.random(part.shape) < share).astype(np.float64) for part in parts))


def product(factors: Factors) -> Float64Array:
    return np.einsum("pa,akb,nb->pnk", factors.left, factors.core, factors.right)


def squared_error(weight: Float64Array, factors: Factors) -> float:
    return float(np.sum(np.square(weight - product(factors))))


def planted(taps: int, seed: int = 0) -> tuple[Float64Array, Factors]:
    """A weight of rank (6, 5) in noise, and factors of rank (12, 10) that hold all of it.

    The factors are neither orthogonal nor sorted: half of their columns, at random places, are noise, fitted as well
    as they can be.
    """
    rng = np.random.default_rng(seed)
    left, right = rng.standard_normal((30, 12)), rng.standard_normal((24, 10))
    true_left, true_right = rng.permutation(12)[:6], rng.permutation(10)[:5]
    core = rng.standard_normal((6, taps, 5))
    weight = np.einsum("pa,akb,nb->pnk", left[:, true_left], core, right[:, true_right])
    weight += 0.5 * rng.standard_normal(weight.shape)
    return weight, fit_core(weight, Factors(left, np.zeros((12, taps, 10)), right))


@every_taps
@every_step
@pytest.mark.parametrize("masked", [False, True])
def test_no_step_ever_raises_the_error(step: Step, taps: int, masked: bool) -> None:
    weight = noise(2, 14, 11, taps)
    factors = start(weight, 6, 5)
    kept = some(factors) if masked else factors.all_kept
    if masked:
        factors = fit_core(weight, Factors(factors.left * kept.left, factors.core, factors.right * kept.right))
        factors = Factors(factors.left, factors.core * kept.core, factors.right)
    total = float(np.sum(np.square(weight)))
    errors = [squared_error(weight, factors)]
    for _ in range(40):
        factors, told = improve(weight, factors, kept, step, 1, total)
        errors.append(squared_error(weight, factors))
        assert told[0] == pytest.approx(errors[-1], abs=1e-10 * total)  # One is a difference of sums like ||W||^2.
    assert np.all(np.diff(errors) <= 1e-12 * total)
    assert errors[-1] < errors[0]


@every_taps
@pytest.mark.parametrize("step", [by_columns, multiplicative])
def test_constraints_and_zeros_hold_exactly_all_along(step: Step, taps: int) -> None:
    weight = noise(3, 14, 11, taps)
    factors = start(weight, 6, 5)
    kept = some(factors)
    for _ in range(20):
        factors, _ = improve(weight, factors, kept, step, 1, 1.0)
        assert min(factors.left.min(), factors.right.min()) >= 0
        for part, mask in zip(
            (factors.left, factors.core, factors.right), (kept.left, kept.core, kept.right), strict=True
        ):
            assert not part[mask == 0].any()


def test_masked_least_squares_of_rows_is_that_of_each_support_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("surgery.factor.trifactor.GRADIENT_STEPS", 50)
    basis, rows = noise(4, 8, 40), noise(5, 12, 40)
    kept = (np.random.default_rng(6).random((12, 8)) < 0.6).astype(np.float64)
    kept[3] = 0
    normal = Normal(np.ones((1, 1)), basis @ basis.T, (rows @ basis.T)[:, np.newaxis])
    found = masked_least_squares(noise(7, 12, 1, 8), kept[:, np.newaxis], normal)[:, 0]
    wanted = np.zeros((12, 8))
    for row, mask, best in zip(rows, kept > 0, wanted, strict=True):
        best[mask] = np.linalg.lstsq(basis[mask].T, row, rcond=None)[0]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-8)  # Where a squared gradient of 1e-20 stops.
    assert not found[kept == 0].any()


def test_masked_least_squares_of_a_core_is_that_of_its_entries_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("surgery.factor.trifactor.GRADIENT_STEPS", 100)
    left, right, weight = noise(8, 10, 4), noise(9, 9, 3), noise(10, 2, 10, 9)
    kept = (np.random.default_rng(11).random((2, 4, 3)) < 0.5).astype(np.float64)
    normal = Normal(left.T @ left, right.T @ right, left.T @ weight @ right)
    found = masked_least_squares(np.zeros((2, 4, 3)), kept, normal)
    columns = np.kron(left, right)
    for tap in range(2):
        mask = kept[tap].ravel() > 0
        wanted = np.linalg.lstsq(columns[:, mask], weight[tap].ravel(), rcond=None)[0]
        np.testing.assert_allclose(found[tap].ravel()[mask], wanted, rtol=0, atol=1e-8)


def test_least_squares_on_all_entries_arrives_in_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("surgery.factor.trifactor.GRADIENT_STEPS", 1)
    basis, rows = noise(12, 8, 40), noise(13, 12, 40)
    normal = Normal(np.ones((1, 1)), basis @ basis.T, (rows @ basis.T)[:, np.newaxis])
    found = masked_least_squares(noise(14, 12, 1, 8), np.ones((12, 1, 8)), normal)[:, 0]
    np.testing.assert_allclose(found, np.linalg.lstsq(basis.T, rows.T, rcond=None)[0].T, rtol=0, atol=1e-12)


def test_the_score_of_an_entry_is_what_setting_it_to_zero_adds() -> None:
    weight = noise(15, 9, 8, 3)
    factors = start(weight, 4, 3)  # With the core at its optimum.
    basis = np.einsum("akb,nb->ank", factors.core, factors.right).reshape(4, -1)
    best = np.linalg.lstsq(basis.T, weight.reshape(9, -1).T, rcond=None)[0].T
    cases = [(factors, "core", core_scores), (Factors(best, factors.core, factors.right), "left", left_scores)]
    for fitted, name, score in cases:
        before, scores = squared_error(weight, fitted), score(fitted)
        for place in np.ndindex(scores.shape):
            part = getattr(fitted, name).copy()
            part[place] = 0
            added = squared_error(weight, replace(fitted, **{name: part})) - before
            assert added == pytest.approx(scores[place], rel=1e-6, abs=1e-10 * before)


def test_scores_do_not_depend_on_how_components_are_scaled() -> None:
    factors = Factors(noise(16, 9, 4), noise(17, 4, 3, 2), noise(18, 8, 2))
    over = np.array([1e-3, 1.0, 7.0, 1e4])
    scaled = Factors(factors.left * over, factors.core / over[:, np.newaxis, np.newaxis], factors.right)
    for score in (left_scores, core_scores):
        np.testing.assert_allclose(score(scaled), score(factors), rtol=1e-6)


@every_taps
def test_dropping_by_importance_beats_dropping_at_random_and_the_last_ones(taps: int) -> None:
    weight, factors = planted(taps)

    def error(rows: np.ndarray, columns: np.ndarray) -> float:
        cut = Factors(factors.left[:, rows], factors.core[rows][:, :, columns], factors.right[:, columns])
        return squared_error(weight, fit_core(weight, cut))

    rng = np.random.default_rng(19)
    others = [error(rng.permutation(12)[:6], rng.permutation(10)[:5]) for _ in range(20)]
    others.append(error(np.arange(6), np.arange(5)))
    chosen = drop_components(factors, 6, 5)
    assert squared_error(weight, fit_core(weight, chosen)) < min(others)


@every_taps
def test_dead_components_are_dropped_first(taps: int) -> None:
    _, factors = planted(taps)
    factors.left[:, 4] = 0
    factors.core[7] = 0
    cut = drop_components(factors, 10, 10)
    np.testing.assert_array_equal(cut.left, np.delete(factors.left, [4, 7], axis=1))
    np.testing.assert_allclose(product(cut), product(factors), rtol=0, atol=1e-12)


@every_taps
@every_step
def test_refitting_what_is_left_lowers_the_error(step: Step, taps: int) -> None:
    weight = noise(20, 20, 16, taps)
    total = float(np.sum(np.square(weight)))
    factors, _ = improve(weight, start(weight, 8, 6), start(weight, 8, 6).all_kept, step, 50, total)
    kept = largest_entries(factors, 0.5)
    zeroed = Factors(factors.left * kept.left, factors.core * kept.core, factors.right * kept.right)
    refitted, _ = improve(weight, zeroed, kept, step, 5, total)
    assert squared_error(weight, refitted) < 0.95 * squared_error(weight, zeroed)


@every_taps
@every_step
def test_pruned_factors_have_the_rank_asked_for(step: Step, taps: int) -> None:
    weight = noise(21, 20, 16, taps)
    cut = shrink(weight, start(weight, 9, 8), (5, 4), step, float(np.sum(np.square(weight))))
    assert (cut.left.shape, cut.core.shape, cut.right.shape) == ((20, 5), (5, taps, 4), (16, 4))


@every_taps
def test_pruning_components_finds_the_rank_that_is_there(taps: int) -> None:
    weight, factors = planted(taps)
    total = float(np.sum(np.square(weight)))
    cut = shrink(weight, factors, (6, 5), masked_least_squares, total)
    assert squared_error(weight, cut) < 0.25 * weight.size  # The noise: a variance of 0.5 squared.


@every_taps
@every_step
@pytest.mark.parametrize("density", [0.5, 0.1])
def test_sparse_factors_have_the_zeros_asked_for(step: Step, taps: int, density: float) -> None:
    weight = np.abs(noise(22, 20, 16, taps))
    cut = sparsify(weight, start(weight, 5, 4), density, step, float(np.sum(np.square(weight))))
    parts = cut.left, cut.core, cut.right
    counts, wanted = ([np.count_nonzero(x) for x in parts], [max(1, round(density * x.size)) for x in parts])
    assert all(count <= limit for count, limit in zip(counts, wanted, strict=True))
    # Steps under a constraint may set more to zero, and so does a zero that cuts a component off.
    assert counts == wanted or step is not masked_least_squares or density < 0.5


@every_taps
def test_a_schedule_beats_zeroing_all_at_once(taps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = noise(27, 30, 24, taps)
    total = float(np.sum(np.square(weight)))
    factors, _ = improve(weight, start(weight, 8, 8), start(weight, 8, 8).all_kept, masked_least_squares, 50, total)
    gradual = squared_error(weight, sparsify(weight, factors, 0.3, masked_least_squares, total))
    monkeypatch.setattr("surgery.factor.pruning.SCHEDULE", SCHEDULE[-1:])
    monkeypatch.setattr("surgery.factor.pruning.LAST_SWEEPS", 62)  # As many in all.
    assert gradual < squared_error(weight, sparsify(weight, factors, 0.3, masked_least_squares, total))


@every_taps
def test_rotation_keeps_the_product_and_gathers_it_in_fewer_entries(taps: int) -> None:
    hidden = Factors(noise(23, 30, 5), noise(24, 5, taps, 4), noise(25, 24, 4))
    sparse = largest_entries(hidden, 0.4)
    hidden = Factors(hidden.left * sparse.left, hidden.core, hidden.right * sparse.right)
    weight = product(hidden)
    left, right = (np.linalg.qr(x @ noise(26, x.shape[1], x.shape[1]))[0] for x in (hidden.left, hidden.right))
    mixed = fit_core(weight, Factors(left, hidden.core, right))
    turned = rotated(mixed)
    np.testing.assert_allclose(product(turned), weight, rtol=0, atol=1e-10)
    total = float(np.sum(np.square(weight)))
    before, after = (sparsify(weight, x, 0.6, masked_least_squares, total) for x in (mixed, turned))
    assert squared_error(weight, after) < squared_error(weight, before)
