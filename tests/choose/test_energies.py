"""The greedy for the product of energies, against every choice of ranks."""

from __future__ import annotations

from itertools import product
from math import inf, log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgery.choose.energies import EnergyLayer, select
from surgery.choose.instance import Infeasible


def layer(values: list[float], per_rank: float, base: float = 0.0, uncut: float | None = None) -> EnergyLayer:
    costs = [base + per_rank * (rank + 1) for rank in range(len(values))]
    return EnergyLayer(np.array(sorted(values, reverse=True)), (*costs[:-1], costs[-1] if uncut is None else uncut))


def log_product(layers: list[EnergyLayer], ranks: tuple[int, ...]) -> float:
    return sum(log(each.eigenvalues[:rank].sum()) for each, rank in zip(layers, ranks, strict=True))


def cost(layers: list[EnergyLayer], ranks: tuple[int, ...]) -> float:
    return sum(each.costs[rank - 1] for each, rank in zip(layers, ranks, strict=True))


def best(layers: list[EnergyLayer], limit: float) -> float:
    every = product(*(range(1, len(each.costs) + 1) for each in layers))
    return max((log_product(layers, ranks) for ranks in every if cost(layers, ranks) <= limit), default=-inf)


def published(layers: list[EnergyLayer], limit: float) -> tuple[int, ...]:
    """Zhang et al. (2016), section 3.4, word by word."""
    ranks = [len(each.eigenvalues) for each in layers]
    while cost(layers, tuple(ranks)) > limit:
        quotients = {}
        for i, each in enumerate(layers):
            if ranks[i] > 1:
                smallest, kept = each.eigenvalues[ranks[i] - 1], each.eigenvalues[: ranks[i]].sum()
                quotients[i] = (smallest / kept) / (each.costs[ranks[i] - 1] - each.costs[ranks[i] - 2])
        ranks[min(quotients, key=quotients.__getitem__)] -= 1
    return tuple(ranks)


VALUES = st.lists(st.floats(0.001, 1000.0), min_size=1, max_size=6)
LAYERS = st.lists(st.builds(layer, VALUES, st.floats(0.5, 4.0), st.floats(0.0, 5.0)), min_size=1, max_size=4)
SHARE = st.floats(0.0, 1.1)


def limit_at(layers: list[EnergyLayer], share: float) -> float:
    """A limit between what can be reached and what all takes; 1e-9 above, for sums in another order."""
    least = sum(min(each.costs) for each in layers)
    return (least + share * (sum(each.costs[-1] for each in layers) - least)) * (1 + 1e-9)


@given(LAYERS, SHARE)
def test_where_costs_are_affine_the_greedy_is_the_published_one(layers: list[EnergyLayer], share: float) -> None:
    limit = limit_at(layers, share)
    # Ties may be broken either way: what is kept is the same.
    assert log_product(layers, select(layers, limit)) == pytest.approx(
        log_product(layers, published(layers, limit)), abs=1e-9
    )


@given(LAYERS, SHARE)
def test_the_limit_is_kept_and_the_product_is_the_best_but_for_one_step(
    layers: list[EnergyLayer], share: float
) -> None:
    limit = limit_at(layers, share)
    ranks = select(layers, limit)
    assert cost(layers, ranks) <= limit
    # Shares x = dE/E of a step rise as a layer's rank falls, so the greedy has the least sum of x at every cost that it
    # passes. With the last step undone the cost is above the limit, and that sum at most the best choice's. A step
    # leaves at least rank 1 and takes the smallest value: x <= 1/2, where x <= -log(1 - x) <= 2 log(2) x.
    full = tuple(len(each.eigenvalues) for each in layers)
    undone = [(*ranks[:i], rank + 1, *ranks[i + 1 :]) for i, rank in enumerate(ranks) if rank < full[i]]
    reached = max(log_product(layers, each) for each in (ranks if ranks == full else None, *undone) if each)
    whole = log_product(layers, full)
    assert whole - reached <= 2 * log(2) * (whole - best(layers, limit)) + 1e-9


@pytest.mark.parametrize("seed", range(30))
def test_on_spectra_that_fall_as_those_of_networks_do_the_product_is_the_best_but_for_one_step(seed: int) -> None:
    rng = np.random.default_rng(seed)
    layers = [layer(list(rng.uniform(0.3, 0.8) ** np.arange(7)), rng.uniform(0.5, 4)) for _ in range(4)]
    limit = limit_at(layers, rng.uniform(0.1, 0.9))
    ranks = select(layers, limit)
    undone = [(*ranks[:i], rank + 1, *ranks[i + 1 :]) for i, rank in enumerate(ranks) if rank < 7]
    assert max(log_product(layers, each) for each in undone) >= best(layers, limit) - 1e-9


@given(LAYERS, SHARE, st.floats(0.3, 1.2))
def test_a_layer_that_is_cheaper_uncut_than_at_large_ranks_stays_uncut_or_is_cut_with_a_gain(
    layers: list[EnergyLayer], share: float, ratio: float
) -> None:
    uncut = [EnergyLayer(each.eigenvalues, (*each.costs[:-1], ratio * each.costs[-1])) for each in layers]
    limit = limit_at(uncut, share)
    ranks = select(uncut, limit)
    assert cost(uncut, ranks) <= limit
    for each, rank in zip(uncut, ranks, strict=True):
        assert rank == len(each.costs) or each.costs[rank - 1] < each.costs[-1]


def test_the_smallest_share_of_energy_for_each_cost_goes_first() -> None:
    first, second = layer([8, 1, 1], per_rank=1), layer([4, 4, 2], per_rank=4)
    # 1/10 for 1 against 2/10 for 4: the second layer pays more for less.
    assert select([first, second], 14.9) == (3, 2)
    # Then 1/10 for 1 against 4/8 for 4.
    assert select([first, second], 10.9) == (2, 2)


def test_the_last_step_out_of_the_uncut_layer_goes_no_further_than_the_limit_asks() -> None:
    one = layer([1.0] * 10, per_rank=1.0, uncut=5.0)
    assert select([one], 5.0) == (10,)
    assert [select([one], limit) for limit in (4.5, 4.0, 3.0, 1.0)] == [(4,), (4,), (3,), (1,)]


def test_what_has_no_energy_goes_first() -> None:
    assert select([layer([1.0, 1e-3], 1.0), layer([0.0, 0.0], 1.0)], 3.0) == (2, 1)


def test_a_limit_below_rank_1_says_what_can_be_reached() -> None:
    with pytest.raises(Infeasible) as caught:
        select([layer([3.0, 1.0], 2.0), layer([1.0], 5.0)], 6.9)
    assert caught.value.least == {"cost": 7.0}
