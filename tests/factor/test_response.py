"""The methods that are fitted to responses: the bound of principal components, and what a ReLU allows beyond it."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from surgery.errors import PlanError
from surgery.factor import METHODS, refit_relu, with_options
from surgery.factor.base import Method
from surgery.factor.refit import distance
from surgery.factor.refit_relu import refit_behind_relu, relaxed
from surgery.factor.response import DataMethod, Response
from surgery.factor.response_3d import Response3d
from surgery.factor.responses import error_behind_relu, response_error, responses
from surgery.factor.statistics import Samples, Statistics, moments_of, target
from surgery.fitting import fit
from surgery.ops import Chain, Conv2d, Op, Scale, collapse
from tests.cases import MAP, OPS, normal, rounding
from tests.factor.test_refit import metric_of
from tests.test_fitting import SCALE, data, drawn

LINEAR = with_options(Response(), {"activation": "linear"})
METHODS_OF_DATA: tuple[DataMethod, ...] = (Response(), Response3d())
LAYERS = {
    "plain": Conv2d(normal(1, 12, 8, 3, 3), normal(2, 12), padding=(1, 1)),
    "groups": Conv2d(normal(3, 12, 4, 3, 3), None, groups=2),
    "strided": Conv2d(normal(4, 6, 5, 3, 5), normal(5, 6), (2, 3), (1, 2), (2, 1)),
}
every_layer = pytest.mark.parametrize("op", LAYERS.values(), ids=LAYERS)
PAIRS = [
    pytest.param(method, op, id=f"{method.name}: {name}")
    for method in METHODS_OF_DATA
    for name, op in OPS.items()
    if method.refusal(op) is None
]


@every_layer
def test_the_linear_response_reaches_the_bound_of_principal_components(op: Conv2d) -> None:
    """On the calibration samples themselves: the tail of the responses' covariance, and the response's own bias."""
    statistics = replace(data(op, count=3000, noise=0.0), held_out=drawn(op, 0, 1, 0.0))
    samples, rank = statistics.samples, 2
    chain = fit(op, LINEAR, (rank,), statistics).fit.chain
    y = np.split(samples.y.astype(np.float64), op.groups, axis=1)
    tails = [np.linalg.eigvalsh(np.cov(part.T, bias=True))[:-rank].sum() for part in y]
    missed = np.sum(np.square(samples.y - responses(chain, samples.x))) / len(samples)
    # The ridge, 1 % of the mean eigenvalue, turns the components a little; must hold is 1 %.
    assert sum(tails) * (1 - 1e-4) <= missed <= 1.01 * sum(tails)


@every_layer
@pytest.mark.parametrize("scale", [None, SCALE], ids=["plain", "scaled"])
def test_a_relu_behind_the_layer_is_made_use_of(op: Conv2d, scale: Scale | None) -> None:
    if scale is not None:
        scale = Scale(scale.factor[: op.out_channels], scale.shift[: op.out_channels] - 2)
    statistics = replace(data(op, count=3000, scale=scale), relu=True)
    unit = scale or Scale.of()
    held = replace(statistics.held_out, y=unit.apply(statistics.held_out.y))

    def error(method: Method) -> float:
        made = unit.apply(responses(fit(op, method, (2,), statistics).fit.chain, held.x))
        wanted = np.maximum(held.y, 0)
        return float(np.linalg.norm(np.maximum(made, 0) - wanted) / np.linalg.norm(wanted - wanted.mean(axis=0)))

    assert error(Response()) < 0.95 * error(LINEAR)


def test_without_a_relu_the_two_are_the_same() -> None:
    op = LAYERS["plain"]
    one, other = (fit(op, method, (3,), data(op)).fit.chain for method in (Response(), LINEAR))
    assert [stage.weight.tobytes() for stage in one.ops] == [stage.weight.tobytes() for stage in other.ops]


@pytest.mark.parametrize("method", METHODS_OF_DATA, ids=lambda method: method.name)
def test_without_data_nothing_is_cut_and_the_reason_is_one_line(method: DataMethod) -> None:
    op = LAYERS["plain"]
    with pytest.raises(PlanError, match=f"^{method.name}: .*give --calibrate$"):
        fit(op, method, method.rank_at(op, 2), None)


@pytest.mark.parametrize(("method", "op"), PAIRS)
def test_at_full_rank_the_chain_is_the_layer(method: DataMethod, op: Op) -> None:
    chain = method.factor(op, method.max_rank(op), metric=metric_of(op)).chain
    missing = np.linalg.norm(collapse(chain).weight - op.weight.astype(np.float64))
    assert missing <= 10 * rounding(op, method.max_rank(op)) * np.linalg.norm(op.weight.astype(np.float64))


@pytest.mark.parametrize(("method", "op"), PAIRS)
def test_the_chain_has_the_template_s_shapes_and_the_path_never_turns_back(method: DataMethod, op: Op) -> None:
    sizes = np.unique(np.linspace(1, max(method.max_rank(op)), 5).round().astype(int))
    ranks = [method.rank_at(op, int(size)) for size in sizes]
    assert ranks[0] == (1,) * len(ranks[0])
    assert ranks[-1] == method.max_rank(op)
    metric, before = metric_of(op), np.inf
    for rank in ranks:
        template, chain = method.template(op, rank), method.factor(op, rank, metric=metric).chain
        assert [stage.weight.shape for stage in chain.ops] == [stage.weight.shape for stage in template.ops]
        assert [stage.weight.dtype for stage in chain.ops] == [stage.weight.dtype for stage in template.ops]
        assert chain.macs(MAP) == template.macs(MAP)
        assert chain.output_size(MAP) == op.output_size(MAP)
        error = distance(chain, op, metric)
        # Local optima: rounding, and 2 % as for the other iterative methods.
        assert error <= 1.05 * before + rounding(op, rank) ** 2 * metric.squared(op.weight)
        before = error


@pytest.mark.parametrize(("method", "op"), PAIRS)
def test_nan_is_refused(method: DataMethod, op: Op) -> None:
    weight = op.weight.copy()
    weight[0] = np.nan
    broken = type(op)(weight, *(getattr(op, name) for name in op.__slots__[1:]))
    with pytest.raises(PlanError, match="weights hold NaN or infinity"):
        method.factor(broken, method.rank_at(op, 1), metric=metric_of(op))


def test_response_3d_gives_each_axis_its_half_of_the_geometry_and_any_pair_of_widths() -> None:
    op = LAYERS["strided"]
    for rank in ((1, 1), (1, 6), (15, 1), (15, 6)):
        first, second, last = Response3d().factor(op, rank, metric=metric_of(op)).chain.ops
        assert (first.weight.shape, first.stride, first.padding, first.dilation) == (
            (rank[0], 5, 3, 1),
            (2, 1),
            (1, 0),
            (2, 1),
        )
        assert (second.weight.shape, second.stride, second.padding, second.dilation) == (
            (rank[1], rank[0], 1, 5),
            (1, 3),
            (0, 2),
            (1, 1),
        )
        assert last.weight.shape == (6, rank[1], 1, 1)
    with pytest.raises(
        PlanError, match=r"response-3d: rank \(16, 6\) is above .*\(15, 6\) \(= \(min\(30, 15\), min\(6, 75\)\)\)"
    ):
        Response3d().factor(op, (16, 6), metric=metric_of(op))


@pytest.mark.parametrize("share", [0.01, 1.0])
def test_the_relaxed_value_is_the_cheapest_on_a_fine_grid(share: float) -> None:
    rng = np.random.default_rng(0)
    made, wanted = rng.standard_normal(200), np.maximum(rng.standard_normal(200), 0)
    grid = np.linspace(-5, 5, 20001)[:, None]

    def cost(z: np.ndarray) -> np.ndarray:
        return (np.maximum(z, 0) - wanted) ** 2 + share * (z - made) ** 2

    assert np.all(cost(relaxed(made, wanted, share)) <= cost(grid).min(axis=0) + 1e-12)


@pytest.mark.parametrize("name", ["svd-channel", "svd-spatial", "tucker2"])
@pytest.mark.parametrize("layer", ["plain", "groups"])
def test_the_last_stage_refitted_behind_a_relu_lowers_the_error_there(name: str, layer: str) -> None:
    op, method = LAYERS[layer], METHODS[name]
    op = replace(op, bias=-op.weight.sum(axis=(1, 2, 3)))  # The inputs' mean is 1: half of all responses are cut off.
    statistics = data(op, count=3000)
    chain = fit(op, method, method.rank_at(op, 4), statistics).fit.chain
    new = refit_behind_relu(chain, statistics, 1e-3)
    samples = statistics.samples
    assert error_behind_relu(new, samples) < error_behind_relu(chain, samples)
    assert response_error(new, samples) > response_error(chain, samples)  # What the ReLU cuts off is given up for it.
    assert [stage.weight.tobytes() for stage in new.ops[:-1]] == [stage.weight.tobytes() for stage in chain.ops[:-1]]
    assert new.last.weight.dtype == chain.last.weight.dtype


def few_of_many() -> tuple[Op, Chain, Statistics]:
    """A cut layer, and samples of which no sums are those of all: the half with the larger first output."""
    op = replace(LAYERS["plain"], bias=-LAYERS["plain"].weight.sum(axis=(1, 2, 3)))
    statistics = data(op, count=400)
    samples = statistics.samples
    upper = samples.y[:, 0] > np.median(samples.y[:, 0])
    chain = fit(op, METHODS["svd-spatial"], (8,), statistics).fit.chain
    return op, chain, replace(statistics, samples=Samples(samples.x[upper], samples.y[upper]))


def test_sweeps_behind_a_relu_never_lead_away_from_the_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    op, chain, statistics = few_of_many()
    blind = replace(statistics, held_out=drawn(op, 0, 1, 0.1))
    errors = [error_behind_relu(chain, blind.samples)]
    for sweeps in (1, 2, 4, 8, 16, 32):
        monkeypatch.setattr(refit_relu, "BLIND_SWEEPS", sweeps)
        errors.append(error_behind_relu(refit_behind_relu(chain, blind, 1e-4), blind.samples))
    assert all(after <= before * (1 + 1e-6) for before, after in pairwise(errors))
    assert errors[-1] < 0.95 * errors[0]


def test_sweeps_behind_a_relu_stop_where_held_out_samples_gain_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    _, chain, statistics = few_of_many()
    held = statistics.held_out
    kept = error_behind_relu(refit_behind_relu(chain, statistics, 1e-6), held)
    monkeypatch.setattr(refit_relu, "LEAST_GAIN", -np.inf)
    driven = error_behind_relu(refit_behind_relu(chain, statistics, 1e-6), held)
    assert kept <= min(error_behind_relu(chain, held) * (1 + 1e-6), driven)


def test_the_asymmetric_fit_makes_up_for_the_cuts_before_it() -> None:
    op = LAYERS["plain"]
    statistics = data(op, noise=0.5)
    assert isinstance(statistics, Statistics)
    wanted, _ = target(op, statistics, 1e-3)
    assert response_error(wanted, statistics.held_out) > 0
    heeding, blind = (
        fit(op, LINEAR, (4,), replace(statistics, is_symmetric=symmetric)).response_error for symmetric in (False, True)
    )
    assert heeding is not None
    assert blind is not None
    assert heeding < blind
    assert moments_of([statistics.samples]).count == 800
