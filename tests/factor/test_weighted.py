"""The methods that heed a metric: in closed form the best there is, elsewhere better than without."""

from __future__ import annotations

import numpy as np
import pytest

from surgery.errors import PlanError
from surgery.factor import METHODS, Method
from surgery.factor.metric import DenseMetric
from surgery.factor.refit import distance, is_settled, refit
from surgery.ops import Conv2d, Op, collapse
from tests.cases import MAP, OPS, rounding
from tests.factor.test_refit import metric_of

HEEDING = [
    pytest.param(method, op, id=f"{method.name}: {name}")
    for method in METHODS.values()
    for name, op in OPS.items()
    if method.name in ("svd", "svd-channel", "svd-spatial", "tucker2") and method.refusal(op) is None
]
CLOSED = [case for case in HEEDING if case.values[0].name in ("svd", "svd-channel")]
every_pair = pytest.mark.parametrize(("method", "op"), HEEDING)


def best(op: Op, rank: int, metric: DenseMetric) -> float:
    """The tail energy of W L, C = L Lᵀ, group by group: the smallest distance at that rank (Eckart and Young)."""
    rows = np.split(op.weight.reshape(len(op.weight), -1).astype(np.float64), metric.groups)
    whitened = [part @ np.linalg.cholesky(metric.dense(g)) for g, part in enumerate(rows)]
    return float(sum(np.sum(np.linalg.svd(m, compute_uv=False)[rank:] ** 2) for m in whitened))


@pytest.mark.parametrize(("method", "op"), CLOSED)
def test_no_chain_of_the_rank_is_closer_in_the_metric(method: Method, op: Op) -> None:
    metric = metric_of(op)
    for size in {1, max(1, method.max_rank(op)[0] // 2), method.max_rank(op)[0]}:
        found = distance(method.factor(op, (size,), metric=metric).chain, op, metric)
        # What rounding the factors may cost, squared; the covariances' largest eigenvalue is 1.
        slack = rounding(op, (size,)) ** 2 * float(np.sum(np.square(op.weight, dtype=np.float64)))
        assert best(op, size, metric) * (1 - 1e-6) - slack <= found <= best(op, size, metric) * (1 + 1e-4) + slack


@every_pair
def test_a_metric_pays(method: Method, op: Op) -> None:
    metric = metric_of(op)
    rank = method.rank_at(op, max(1, max(method.max_rank(op)) // 2))
    heeding, blind = (distance(method.factor(op, rank, metric=m).chain, op, metric) for m in (metric, None))
    assert heeding <= blind * (1 + 1e-6) + rounding(op, rank) ** 2 * metric.squared(op.weight)


@every_pair
def test_at_full_rank_the_chain_is_the_layer_in_any_metric(method: Method, op: Op) -> None:
    fit = method.factor(op, method.max_rank(op), metric=metric_of(op))
    whole = rounding(op, fit.rank)
    missing = np.linalg.norm(collapse(fit.chain).weight - op.weight.astype(np.float64))
    assert missing <= 10 * whole * np.linalg.norm(op.weight.astype(np.float64))


@every_pair
def test_the_unit_metric_is_none(method: Method, op: Op) -> None:
    groups, size = (op.groups, op.weight[0].size) if isinstance(op, Conv2d) else (1, op.weight[0].size)
    unit = DenseMetric(np.broadcast_to(np.eye(size), (groups, size, size)))
    rank = method.rank_at(op, max(1, max(method.max_rank(op)) // 2))
    heeding, blind = (method.factor(op, rank, metric=m).relative_error for m in (unit, None))
    assert heeding <= blind * (1 + 1e-6) + rounding(op, rank)
    if len(rank) == 1:  # The best there is, either way.
        assert heeding >= blind * (1 - 1e-6) - rounding(op, rank)


@every_pair
def test_a_chain_made_in_a_metric_has_the_template_s_shapes(method: Method, op: Op) -> None:
    rank = method.rank_at(op, max(1, max(method.max_rank(op)) // 2))
    once, twice = (method.factor(op, rank, metric=metric_of(op)).chain for _ in range(2))
    template = method.template(op, rank)
    assert [stage.weight.shape for stage in once.ops] == [stage.weight.shape for stage in template.ops]
    assert [stage.weight.dtype for stage in once.ops] == [stage.weight.dtype for stage in template.ops]
    assert [stage.weight.tobytes() for stage in once.ops] == [stage.weight.tobytes() for stage in twice.ops]
    assert once.output_size(MAP) == op.output_size(MAP)


@pytest.mark.parametrize(("method", "op"), CLOSED[:3])
def test_nothing_is_left_to_refit_after_the_closed_form(method: Method, op: Op) -> None:
    metric = metric_of(op)
    rank = method.rank_at(op, max(1, max(method.max_rank(op)) // 2))
    chain = method.factor(op, rank, metric=metric).chain
    before = distance(chain, op, metric)
    assert distance(refit(chain, (0, 1), op, metric), op, metric) >= before * (1 - 1e-6)


@every_pair
def test_little_is_left_to_refit_after_any_of_them(method: Method, op: Op) -> None:
    metric = metric_of(op)
    rank = method.rank_at(op, max(1, max(method.max_rank(op)) // 2))
    chain = method.factor(op, rank, metric=metric).chain
    more = distance(refit(chain, range(len(chain.ops)), op, metric, 6), op, metric)
    assert is_settled(method)
    # Squared errors; half as many sweeps again, where eigenvalues differ by 10^4, take off 16 % at most as measured.
    slack = rounding(op, rank) ** 2 * metric.squared(op.weight)
    assert more + slack >= 0.8 * distance(chain, op, metric)


@every_pair
def test_nan_is_refused_in_a_metric_too(method: Method, op: Op) -> None:
    weight = op.weight.copy()
    weight[0] = np.nan
    broken = type(op)(weight, *(getattr(op, name) for name in op.__slots__[1:]))
    with pytest.raises(PlanError, match="weights hold NaN or infinity"):
        method.factor(broken, method.rank_at(op, 1), metric=metric_of(op))
