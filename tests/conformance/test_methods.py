"""Every entry of METHODS through the table of operations: the laws in `Method`, one test each."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from surgery.errors import PlanError
from surgery.factor import METHODS, Fit, Method, Rank, break_even, tail_energy
from surgery.ops import Chain, Op, Scale, collapse
from tests.cases import MAP, OPS, inputs, rounding, unit_metric

PAIRS = [
    pytest.param(method, op, id=f"{method.name}: {name}")
    for method in METHODS.values()
    for name, op in OPS.items()
    if method.refusal(op) is None
]
# Terms of a CP decomposition are of rank one in all modes at once: more of them may be left out than singular values.
MAY_BE_BELOW = ("cp", "cp4")
# Constraints cost more than the rank alone does; response-3d splits in space what its first cut left.
MAY_BE_ABOVE = ("response-3d", "sdd", "semi-nmf")
# Errors that fall with every rank, for they are of global optima (or of orthogonal iteration, which is close enough).
MONOTONE = ("svd", "svd-channel", "svd-spatial", "tucker2", "response")
LOCAL = 0.02  # What a local optimum may miss, of ||W||.
EXACT = [pair for pair in PAIRS if pair.values[0].is_exact]
every_exact_pair = pytest.mark.parametrize(("method", "op"), EXACT)
every_pair = pytest.mark.parametrize(("method", "op"), PAIRS)


def cut(method: Method, op: Op, rank: Rank, *, seed: int = 0) -> Fit:
    """The fit to the weights; a method that needs data gets such in which no input is like another."""
    metric = unit_metric(op) if getattr(method, "needs_data", False) else None
    return method.factor(op, rank, metric=metric, seed=seed)


def weights(chain: Chain) -> list[np.ndarray]:
    return [stage.factor if isinstance(stage, Scale) else stage.weight for stage in chain.ops]


def path(method: Method, op: Op, steps: int = 6) -> list[Rank]:
    """A few ranks from the method's path, both ends among them."""
    sizes = np.unique(np.linspace(1, max(method.max_rank(op)), steps).round().astype(int))
    return [method.rank_at(op, int(size)) for size in sizes]


def distance(op: Op, weight: np.ndarray) -> float:
    """||W - weight||_F / ||W||_F, or the norm itself for a zero weight."""
    wanted = op.weight.astype(np.float64)
    return float(np.linalg.norm(wanted - weight) / (np.linalg.norm(wanted) or 1.0))


def test_every_method_cuts_something_and_is_found_by_its_name() -> None:
    for name, method in METHODS.items():
        assert method.name == name
        assert method.summary
        assert "\n" not in method.summary
        assert any(method.refusal(op) is None for op in OPS.values())


@every_exact_pair
def test_at_full_rank_the_chain_is_the_layer(method: Method, op: Op) -> None:
    rank = method.max_rank(op)
    fit, whole = cut(method, op, rank), rounding(op, rank)
    merged = collapse(fit.chain)
    assert distance(op, merged.weight) <= whole
    assert fit.relative_error <= whole
    assert merged.weight.shape == op.weight.shape
    if op.bias is None:
        assert merged.bias is None
    else:
        np.testing.assert_array_equal(merged.bias, op.bias)


@every_pair
def test_the_chain_computes_what_its_product_does_at_any_rank(method: Method, op: Op) -> None:
    x = inputs(op, batch=1)
    for rank in path(method, op, 3):
        chain = cut(method, op, rank).chain
        merged, y = collapse(chain), chain.apply(x)
        # Both in float64: 3 sums of at most 2400 terms below 1.
        np.testing.assert_allclose(merged.apply(x), y, rtol=0, atol=1e-12)
        assert y.shape == op.apply(x).shape
        assert chain.output_size(MAP) == op.output_size(MAP)


@every_pair
def test_the_error_is_that_of_the_factors_as_stored(method: Method, op: Op) -> None:
    for rank in path(method, op, 3):
        fit = cut(method, op, rank)
        # The same residual in another order of summation.
        assert fit.relative_error == pytest.approx(distance(op, collapse(fit.chain).weight), rel=1e-6, abs=1e-12)


@every_pair
def test_the_error_falls_as_the_rank_rises(method: Method, op: Op) -> None:
    errors = [cut(method, op, rank).relative_error for rank in path(method, op)]
    slack = rounding(op, method.max_rank(op)) + (0 if method.name in MONOTONE else LOCAL)
    assert all(after <= before + slack for before, after in pairwise(errors))


@every_pair
def test_the_error_is_within_what_the_spectra_allow(method: Method, op: Op) -> None:
    spectra = method.spectrum(op)
    for values, longest in zip(spectra, method.max_rank(op), strict=True):
        assert len(values) == longest if method.is_exact else len(values) <= longest
        assert np.all(np.diff(values) <= 0)
        assert tail_energy(values, 0) == pytest.approx(np.sum(np.square(op.weight, dtype=np.float64)), rel=1e-9)
    for rank in path(method, op):
        total = tail_energy(spectra[0], 0) or 1.0
        tails = [tail_energy(values, r) / total for values, r in zip(spectra, rank, strict=True)]
        error = cut(method, op, rank).relative_error
        # Besides rounding: a tail of the Gram solver's noise, sqrt(300 eps64) = 3e-7 of the largest value.
        slack = rounding(op, rank) + (1e-6 if min(op.weight.shape[:2]) > 256 else 0)
        # One spectrum: Eckart and Young, equality. Several: De Lathauwer's bounds.
        assert error >= np.sqrt(max(tails)) - slack or method.name in MAY_BE_BELOW
        assert error <= np.sqrt(sum(tails)) + slack or method.name in MAY_BE_ABOVE


@every_pair
def test_the_template_has_the_shapes_of_the_chain_and_no_weights(method: Method, op: Op) -> None:
    for rank in path(method, op, 3):
        template, chain = method.template(op, rank), cut(method, op, rank).chain
        assert [w.shape for w in weights(template)] == [w.shape for w in weights(chain)]
        assert [w.dtype for w in weights(template)] == [w.dtype for w in weights(chain)]
        assert (template.params, template.macs(MAP)) == (chain.params, chain.macs(MAP))
        assert template.output_size(MAP) == op.output_size(MAP)
        large = [stage.weight for stage in template.ops if not isinstance(stage, Scale)]
        assert all(set(w.strides) == {0} or w.size == 1 for w in large)


@every_pair
def test_the_path_leads_from_1_to_full_rank_and_never_turns_back(method: Method, op: Op) -> None:
    largest = method.max_rank(op)
    ranks = [method.rank_at(op, size) for size in range(1, max(largest) + 1)]
    assert max(ranks[0]) == 1
    assert ranks[-1] == largest
    templates = [method.template(op, rank) for rank in ranks]
    for before, after in pairwise(ranks):
        assert all(a <= b for a, b in zip(before, after, strict=True))
    assert np.all(np.diff([t.weight_params for t in templates]) >= 0)
    assert np.all(np.diff([t.macs(MAP) for t in templates]) >= 0)


@every_pair
def test_break_even_is_the_last_step_that_saves(method: Method, op: Op) -> None:
    saving = [
        rank
        for size in range(1, max(method.max_rank(op)) + 1)
        if method.template(op, rank := method.rank_at(op, size)).weight_params < op.weight_params
    ]
    assert break_even(method, op) == (saving[-1] if saving else None)


@every_pair
@pytest.mark.parametrize("energy", [0.3, 0.9, 0.999, 1.0])
def test_the_rank_for_an_energy_keeps_it_with_nothing_to_spare(method: Method, op: Op, energy: float) -> None:
    spectra, rank = method.spectrum(op), method.rank_for_energy(op, energy)
    assert rank == method.rank_for_energy(op, energy, spectra)
    for values, r in zip(spectra, rank, strict=True):
        allowed = (1 - energy + 1e-9) * tail_energy(values, 0)  # Sums of squares in two orders.
        assert tail_energy(values, r) <= allowed
        assert r == 1 or tail_energy(values, r - 1) > (1 - energy) * tail_energy(values, 0)


@every_pair
def test_factors_are_in_storage_precision_and_order_with_the_bias_last(method: Method, op: Op) -> None:
    chain = cut(method, op, method.rank_at(op, 1)).chain
    wanted = np.float64 if op.weight.dtype == np.float64 else np.float32
    for stage, weight in zip(chain.ops, weights(chain), strict=True):
        assert weight.dtype == (np.float64 if isinstance(stage, Scale) else wanted)  # A scale is rounded on writing.
        assert weight.flags.c_contiguous
        assert np.all(np.isfinite(weight))
    assert all(stage.bias is None for stage in chain.ops[:-1] if not isinstance(stage, Scale))
    assert (chain.last.bias is None) == (op.bias is None)


@every_pair
def test_the_same_arguments_give_the_same_bytes(method: Method, op: Op) -> None:
    rank = method.rank_at(op, max(1, max(method.max_rank(op)) // 2))
    once, twice = (weights(cut(method, op, rank, seed=3).chain) for _ in range(2))
    assert [w.tobytes() for w in once] == [w.tobytes() for w in twice]


@every_pair
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity_are_refused(method: Method, op: Op, value: float) -> None:
    weight = op.weight.copy()
    weight[-1, ..., -1] = value
    broken = type(op)(weight, *(getattr(op, name) for name in op.__slots__[1:]))
    with pytest.raises(PlanError, match="weights hold NaN or infinity"):
        cut(method, broken, method.rank_at(op, 1))
    with pytest.raises(PlanError, match="weights hold NaN or infinity"):
        method.spectrum(broken)


@every_pair
def test_a_rank_above_the_largest_is_refused(method: Method, op: Op) -> None:
    largest = method.max_rank(op)
    with pytest.raises(PlanError, match=f"^{method.name}: .*largest useful rank"):
        cut(method, op, tuple(r + 1 for r in largest))
