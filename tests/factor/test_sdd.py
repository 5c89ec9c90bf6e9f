"""What the semidiscrete decomposition promises: ternary numbers, errors that only fall, fewer multiplications."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from surgery.errors import PlanError
from surgery.factor.base import with_options
from surgery.factor.metric import DenseMetric, SampledMetric
from surgery.factor.sdd import Sdd
from surgery.factor.sdd_terms import MetricSpace, Schedule, Space, Terms, nearest_ternary, no_terms, refitted, solved
from surgery.ops import Conv2d, Linear, Op, Scale, collapse
from surgery.ops.arithmetic import additions, input_scales, multiplications
from tests.cases import MAP, OPS, inputs, low_rank, normal

FORMS = ("scale", "folded")
STARTS = ("improved", "authors", "greedy")
every_op = pytest.mark.parametrize("op", OPS.values(), ids=OPS.keys())
every_start = pytest.mark.parametrize("start", STARTS)


def sdd(**options: str) -> Sdd:
    method = with_options(Sdd(), options)
    assert isinstance(method, Sdd)
    return method


def metric(op: Op, seed: int = 0) -> DenseMetric:
    """One of strongly correlated inputs, for each group."""
    groups = op.groups if isinstance(op, Conv2d) else 1
    n = op.weight.size // len(op.weight)
    rows = np.random.default_rng(seed).standard_normal((groups, 2 * n, n)).cumsum(axis=2)
    return DenseMetric(rows.swapaxes(1, 2) @ rows / n)


def error(matrix: np.ndarray, terms: Terms, space: Space | None = None) -> float:
    missed = matrix - (terms.x * terms.d) @ terms.y.T
    return float(np.sum(missed * (space or Space()).times(missed.T).T))


@every_op
@every_start
def test_the_layers_are_ternary_and_the_scale_is_not_negative(op: Op, start: str) -> None:
    rank = (min(9, *sdd().max_rank(op)),)
    fit = sdd(start=start).factor(op, rank)
    first, scale, last = fit.chain.ops
    assert isinstance(scale, Scale)
    assert np.isin(first.weight, (-1, 0, 1)).all()  # type: ignore[union-attr]
    assert np.isin(last.weight, (-1, 0, 1)).all()  # type: ignore[union-attr]
    assert (scale.factor >= 0).all()
    assert fit.bound == {0, 2}


@every_op
def test_the_folded_form_computes_the_same_in_two_layers(op: Op) -> None:
    rank = (min(5, *sdd().max_rank(op)),)
    three, two = (sdd(form=form).factor(op, rank) for form in FORMS)
    assert len(two.chain.ops) == 2
    assert two.bound == {0, 1}
    assert two.relative_error == three.relative_error
    x = inputs(op, batch=1)
    # The same products of the same numbers, in float64, associated in another order.
    np.testing.assert_allclose(two.chain.apply(x), three.chain.apply(x), rtol=0, atol=1e-12)
    assert input_scales(two.chain.last) is not None


@every_op
@pytest.mark.parametrize("form", FORMS)
def test_the_template_has_the_shapes_of_the_chain_and_no_weights(op: Op, form: str) -> None:
    method, rank = sdd(form=form), (min(17, *sdd().max_rank(op)),)  # More than a block.
    template, chain = method.template(op, rank), method.factor(op, rank).chain
    assert [type(o) for o in template.ops] == [type(o) for o in chain.ops]
    assert (template.params, template.macs(MAP)) == (chain.params, chain.macs(MAP))
    assert template.output_size(MAP) == op.output_size(MAP)
    for one, other in zip(template.ops, chain.ops, strict=True):
        if not (isinstance(one, Scale) or isinstance(other, Scale)):
            assert (one.weight.shape, one.weight.dtype) == (other.weight.shape, other.weight.dtype)
            assert other.weight.flags.c_contiguous
            assert set(one.weight.strides) == {0} or one.weight.size == 1


@every_op
@pytest.mark.parametrize("form", FORMS)
def test_the_error_is_that_of_the_factors_as_stored_and_the_bias_the_layers_own(op: Op, form: str) -> None:
    fit = sdd(form=form).factor(op, (1,))
    merged, weight = collapse(fit.chain), op.weight.astype(np.float64)
    distance = np.linalg.norm(merged.weight - weight) / (np.linalg.norm(weight) or 1.0)
    assert fit.relative_error == pytest.approx(distance, rel=1e-9, abs=1e-12)
    np.testing.assert_array_equal(merged.bias, op.bias)


@pytest.mark.parametrize("start", ["authors", "greedy"])
def test_each_term_lowers_the_squared_error_by_what_it_holds(start: str) -> None:
    """||R||² falls by d² ||x||² ||y||², exactly, with every term that is added (Kolda and O'Leary, 1998)."""
    matrix = normal(1, 20, 30).astype(np.float64)
    schedule = Schedule(width=1, turn_gain=1e-6, sweeps=1, sweep_gain=0.0)
    terms = solved(matrix, no_terms(20, 30, 12), schedule, np.random.default_rng(0))
    held = terms.d**2 * np.sum(terms.x**2, axis=0) * np.sum(terms.y**2, axis=0)
    assert (held > 0).all()
    for count in range(13):
        part = Terms(terms.x[:, :count], terms.d[:count], terms.y[:, :count])
        wanted = np.sum(matrix**2) - held[:count].sum()
        assert error(matrix, part) == pytest.approx(wanted, rel=1e-12)


def test_the_nearest_ternary_vector_is_the_best_of_all() -> None:
    candidates = np.array(list(itertools.product((-1, 0, 1), repeat=7)))[1:]
    candidates = candidates[np.abs(candidates).sum(axis=1) > 0]
    for seed in range(20):
        wanted = np.random.default_rng(seed).standard_normal(7)
        held = (candidates @ wanted) ** 2 / np.square(candidates).sum(axis=1)
        found = nearest_ternary(wanted)
        assert (found @ wanted) ** 2 / (found @ found) == pytest.approx(held.max(), rel=1e-12)


@pytest.mark.parametrize("width", [1, 5])
@pytest.mark.parametrize("measured", [False, True])
def test_no_sweep_raises_the_error(width: int, measured: bool) -> None:
    op = Linear(normal(2, 15, 24))
    matrix = op.weight.astype(np.float64)
    space = MetricSpace(metric(op), 0) if measured else Space()
    rng, before = np.random.default_rng(0), float(np.sum(matrix * space.times(matrix.T).T))
    terms, schedule = no_terms(15, 24, 12), Schedule(width, 1e-6, sweeps=1, sweep_gain=0.0)
    for _ in range(6):
        terms = solved(matrix, terms, schedule, rng, space)
        after = error(matrix, terms, space)
        assert after <= before * (1 + 1e-12)
        before = after


@pytest.mark.parametrize("measured", [False, True])
def test_the_refitted_scale_is_the_least_squares_solution(measured: bool) -> None:
    op = Linear(normal(3, 20, 24))
    space = MetricSpace(metric(op), 0) if measured else Space()
    matrix, rng = op.weight.astype(np.float64), np.random.default_rng(1)
    x, y = (rng.integers(-1, 2, (n, 6)).astype(np.float32) for n in (20, 24))
    terms = refitted(matrix, Terms(x, rng.uniform(-1, 1, 6), y), space)
    normal_equations = (x.T @ x) * (y.T @ space.times(y.astype(np.float64)))
    best = np.linalg.solve(normal_equations, np.sum((matrix.T @ x) * space.times(y.astype(np.float64)), axis=0))
    assert (terms.d >= 0).all()
    # A relative residual of 1e-4 in equations of a condition below 100.
    np.testing.assert_allclose(terms.x * terms.d, x * best, atol=1e-2 * np.abs(best).max())
    exact = error(matrix, Terms(x, best, y), space)
    assert exact * (1 - 1e-12) <= error(matrix, terms, space) <= exact * (1 + 1e-6)


@pytest.mark.parametrize("name", ["wide", "tall", "3x3", "groups 2", "float64"])
def test_sweeps_lower_the_error_of_plain_terms(name: str) -> None:
    op = OPS[name]
    rank = (max(1, max(sdd().max_rank(op)) // 2),)
    errors = {start: sdd(start=start).factor(op, rank).relative_error for start in STARTS}
    assert errors["authors"] < errors["greedy"]
    assert errors["improved"] < errors["greedy"]


@every_start
def test_the_error_falls_as_the_rank_rises(start: str) -> None:
    op = Linear(normal(4, 40, 50))
    errors = [sdd(start=start).factor(op, (rank,)).relative_error for rank in (1, 10, 20, 40, 60, 80)]
    assert all(after < before for before, after in itertools.pairwise(errors))
    assert errors[3] < 0.4  # algorithms: 31 to 37 % at the smaller side of real layers.
    assert errors[5] < 0.15


def test_a_sum_of_ternary_terms_is_found_again() -> None:
    x = np.array([[1, 0], [1, 0], [0, 1], [-1, 0]], np.float32)
    y = np.array([[1, 0], [0, -1], [-1, 0], [0, 1], [1, 1]], np.float32)
    op = Linear(x * np.array([3, 0.25], np.float32) @ y.T)
    for start in STARTS:
        assert sdd(start=start).factor(op, (4,)).relative_error < 1e-6


def test_rows_that_all_sum_to_zero_can_be_started_from() -> None:
    """Ones, which the paper starts from, are orthogonal to each."""
    op = Linear(np.array([[1, -1, 0], [0, 2, -2]], np.float32))
    for start in STARTS:
        assert sdd(start=start).factor(op, (4,)).relative_error < 1e-6


@every_op
def test_a_metric_lowers_the_error_it_measures(op: Op) -> None:
    measure, rank = metric(op), (min(6, *sdd().max_rank(op)),)
    blind, seeing = (sdd().factor(op, rank, metric=given) for given in (None, measure))
    errors = [measure.squared(collapse(fit.chain).weight - op.weight) for fit in (blind, seeing)]
    # Float32 scales: their rounding alone where the layer is reproduced.
    assert errors[1] <= errors[0] + 1e-12 * measure.squared(op.weight)
    assert seeing.solver == "improved, metric"


def test_correlated_inputs_make_a_metric_worth_a_third_of_the_error() -> None:
    op = Linear(normal(5, 30, 40))
    measure = metric(op)
    errors = [
        measure.squared(collapse(sdd().factor(op, (30,), metric=given).chain).weight - op.weight)
        for given in (None, measure)
    ]
    assert errors[1] < 0.45 * errors[0]  # Two thirds of the root.


def test_of_a_metric_that_is_not_dense_the_scale_alone_takes_notice() -> None:
    op = Linear(normal(6, 12, 20))
    samples = np.random.default_rng(0).standard_normal((1, 8, 20)).cumsum(axis=2)
    measure = SampledMetric(samples, 0.1)
    blind, seeing = (sdd().factor(op, (8,), metric=given).chain for given in (None, measure))
    np.testing.assert_array_equal(np.abs(blind.first.weight), np.abs(seeing.first.weight))
    errors = [measure.squared(collapse(chain).weight - op.weight) for chain in (blind, seeing)]
    assert errors[1] < errors[0]


def test_each_group_is_a_layer_of_its_own() -> None:
    op = OPS["groups 2"]
    assert isinstance(op, Conv2d)
    whole = sdd(start="authors").factor(op, (4,)).chain
    for group, half in enumerate(np.split(op.weight, 2)):
        own = sdd(start="authors").factor(Conv2d(half), (4,)).chain
        np.testing.assert_array_equal(np.split(whole.first.weight, 2)[group], own.first.weight)
        np.testing.assert_array_equal(np.split(whole.last.weight, 2)[group], own.last.weight)


@every_start
def test_the_same_seed_gives_the_same_bytes(start: str) -> None:
    op = OPS["3x3"]
    once, twice = (sdd(start=start).factor(op, (7,), seed=3).chain for _ in range(2))
    assert once.first.weight.tobytes() == twice.first.weight.tobytes()
    assert once.last.weight.tobytes() == twice.last.weight.tobytes()


@pytest.mark.parametrize("form", FORMS)
def test_of_the_multiplications_one_is_left_for_each_term_and_position(form: str) -> None:
    op = OPS["3x3"]
    chain = sdd(form=form).factor(op, (10,)).chain
    height, width = op.output_size(MAP)
    assert multiplications(chain, MAP) == 10 * height * width
    assert additions(chain, MAP) <= chain.macs(MAP)


def test_the_path_leads_to_more_terms_than_a_singular_value_decomposition_has() -> None:
    op = Linear(low_rank(7, 20, 30, 5))
    assert sdd().max_rank(op) == (40,)
    assert [sdd().rank_at(op, size) for size in (1, 40)] == [(1,), (40,)]
    for rank in ((0,), (41,), (1, 1)):
        with pytest.raises(PlanError, match=r"^sdd: "):
            sdd().factor(op, rank)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_nan_infinity_and_what_overflows_are_refused(value: float) -> None:
    weight = normal(8, 6, 7).astype(np.float64)
    weight[-1, -1] = value
    with pytest.raises(PlanError, match="weights hold NaN or infinity"):
        sdd().factor(Linear(weight), (2,))
