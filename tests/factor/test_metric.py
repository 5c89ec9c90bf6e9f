"""What an error of the weight costs: two ways to hold one matrix."""

from __future__ import annotations

import numpy as np
import pytest

from surgery.factor.metric import DenseMetric, Metric, SampledMetric

SAMPLES = np.random.default_rng(0).standard_normal((2, 5, 8))  # Fewer samples than inputs.
RIDGE = 0.1
WHOLE = SAMPLES.swapaxes(1, 2) @ SAMPLES + RIDGE * np.eye(8)
ROWS = np.random.default_rng(1).standard_normal((3, 8))

metrics = pytest.mark.parametrize(
    "metric",
    [DenseMetric(WHOLE), DenseMetric(SAMPLES.swapaxes(1, 2) @ SAMPLES, RIDGE), SampledMetric(SAMPLES, RIDGE)],
    ids=["dense", "dense and a ridge", "sampled"],
)


@metrics
@pytest.mark.parametrize("group", [0, 1])
def test_a_metric_is_the_matrix_that_it_stands_for(metric: Metric, group: int) -> None:
    whole = WHOLE[group]
    assert (metric.groups, metric.size) == (2, 8)
    # Sums of 8 products; the inverse multiplies rounding by the condition number, 300.
    np.testing.assert_allclose(metric.dense(group), whole, rtol=1e-12)
    np.testing.assert_allclose(metric.times(group, ROWS), ROWS @ whole, rtol=1e-12)
    np.testing.assert_allclose(metric.gram(group, ROWS), ROWS @ whole @ ROWS.T, rtol=1e-12)
    solved = np.empty(ROWS.shape)
    metric.solve(group, lambda few: ROWS[few].copy(), solved)
    np.testing.assert_allclose(solved @ whole, ROWS, rtol=0, atol=1e-11)


@metrics
def test_the_square_of_a_weight_is_its_trace_over_the_groups(metric: Metric) -> None:
    weight = np.random.default_rng(2).standard_normal((6, 2, 2, 2))
    rows = weight.reshape(2, 3, 8)
    expected = sum(np.trace(rows[g] @ WHOLE[g] @ rows[g].T) for g in range(2))
    assert metric.squared(weight) == pytest.approx(expected, rel=1e-12)
    assert metric.squared(np.zeros_like(weight)) == 0


@metrics
def test_what_a_metric_gives_cannot_change_it(metric: Metric) -> None:
    before = metric.times(0, ROWS)
    given = metric.dense(0)
    if given.flags.writeable:
        given[:] = 0
    np.testing.assert_array_equal(metric.times(0, ROWS), before)
