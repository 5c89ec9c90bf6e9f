"""The ridge against fits of the last stage at every one of them."""

from __future__ import annotations

from dataclasses import replace

from surgery.factor import METHODS, Rank
from surgery.factor.refit import refit
from surgery.factor.responses import response_error
from surgery.factor.ridge import DEFAULT_RIDGE, RIDGES, best_ridge
from surgery.factor.statistics import centred, target
from surgery.ops import Op
from tests.test_fitting import LAYERS, data, drawn, every_layer


@every_layer
def test_the_ridge_is_the_one_of_the_least_error_on_held_out_samples(name: str, rank: Rank, op: Op) -> None:
    """Against fits of the last stage at each ridge, made by the generic refit."""
    statistics = data(op, count=60)
    chain = METHODS[name].factor(op, rank).chain
    errors = []
    for ridge in RIDGES:
        new = refit(chain, {len(chain.ops) - 1}, *target(op, statistics, ridge), sweeps=1)
        errors.append(response_error(centred(new, statistics.moments), statistics.held_out))
    chosen = best_ridge(chain, op, statistics)
    assert errors[RIDGES.index(chosen)] <= min(errors) * (
        1 + 1e-4
    )  # Factors of float32 in the one, float64 in the other.
    assert best_ridge(chain, op, replace(statistics, held_out=drawn(op, 0, 1, 0.1))) == DEFAULT_RIDGE


def test_few_samples_ask_for_a_larger_ridge_than_many() -> None:
    name, rank, op = LAYERS["svd-channel"]
    chain = METHODS[name].factor(op, rank).chain
    few, many = (best_ridge(chain, op, data(op, count=count, noise=0.3)) for count in (8, 4000))
    assert few > many
