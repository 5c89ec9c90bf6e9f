"""Tri-factorisation of layers: its own laws, and those of every method for each of its options."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from surgery.errors import PlanError
from surgery.factor import METHODS, Fit, Rank, tail_energy
from surgery.factor.metric import DenseMetric
from surgery.factor.nmtf import Nmtf
from surgery.ops import Chain, Conv2d, Linear, Op, collapse
from tests.cases import MAP, OPS, inputs, low_rank, normal, rounding
from tests.conformance import test_methods as laws

VARIANTS = {
    "free": Nmtf(),
    "flat": Nmtf(form="flat"),
    "shrunk": Nmtf(keep=0.5),
    "sparse": Nmtf(density=0.5),
    "semi": Nmtf(algorithm="semi"),
    "semi, random": Nmtf(algorithm="semi", start="random"),
    "semi, shrunk and sparse": Nmtf(algorithm="semi", keep=0.5, density=0.5, form="flat"),
    "multiplicative": Nmtf(algorithm="multiplicative"),
}
LAYERS = (
    "1x1 stride 2",
    "3x5 stride 2x3, padding 1x2",
    "groups 4, stride 2x1, padding 0x1",
    "depthwise times 2",
    "one output",
    "half-zero groups",
    "unaligned conv",
    "wide",
    "rank-deficient",
    "zero",
    "float64",
)
PAIRS = [
    pytest.param(method, OPS[layer], id=f"{name}: {layer}")
    for name, method in VARIANTS.items()
    for layer in LAYERS
    if method.refusal(OPS[layer]) is None
]
every_pair = pytest.mark.parametrize(("method", "op"), PAIRS)
STRIDED = Conv2d(normal(1, 12, 4, 3, 5), normal(2, 12), (2, 3), (1, 2), (2, 1), groups=2)


def layers(chain: Chain) -> tuple[Op, ...]:
    """The stages of a chain that is known to hold no scales."""
    return chain.ops  # type: ignore[return-value]


def error(op: Op, rank: tuple[int, ...], seed: int = 0, **options: str | float) -> float:
    return Nmtf(**options).factor(op, rank, seed=seed).relative_error  # type: ignore[arg-type]


@cache
def half(method: Nmtf, op: Op) -> Fit:
    return method.factor(op, method.rank_at(op, max(1, max(method.max_rank(op)) // 2)))


@every_pair
def test_every_option_obeys_the_laws_of_methods(method: Nmtf, op: Op) -> None:
    fit = half(method, op)
    again, template = method.factor(op, fit.rank), method.template(op, fit.rank)
    stages, copies = layers(fit.chain), layers(again.chain)
    assert [o.weight.tobytes() for o in stages] == [o.weight.tobytes() for o in copies]
    assert [o.weight.shape for o in stages] == [o.weight.shape for o in layers(template)]
    assert [o.weight.dtype for o in stages] == [o.weight.dtype for o in layers(template)]
    assert (template.params, template.macs(MAP)) == (fit.chain.params, fit.chain.macs(MAP))
    assert all(o.weight.flags.c_contiguous and np.isfinite(o.weight).all() for o in stages)
    assert [o.bias is not None for o in stages] == [False, False, op.bias is not None]
    merged, x = collapse(fit.chain), inputs(op, batch=1)
    assert fit.relative_error == pytest.approx(laws.distance(op, merged.weight), rel=1e-6, abs=1e-12)
    np.testing.assert_allclose(merged.apply(x), fit.chain.apply(x), rtol=0, atol=1e-12)
    assert fit.chain.apply(x).shape == op.apply(x).shape


@every_pair
def test_bound_stages_hold_their_zeros_and_signs_exactly(method: Nmtf, op: Op) -> None:
    fit = half(method, op)
    signed = {0, 2} if method.algorithm != "free" else set()
    assert fit.bound == (signed | {0, 1, 2} if method.density < 1 else signed)
    groups = op.groups if isinstance(op, Conv2d) else 1
    for index, stage in enumerate(layers(fit.chain)):
        assert index not in signed or stage.weight.min() >= 0
        assert np.count_nonzero(stage.weight) <= groups * max(1, round(method.density * stage.weight.size / groups))


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity_are_refused_whatever_the_options(name: str, value: float) -> None:
    for layer in ("3x3", "wide"):
        laws.test_nan_and_infinity_are_refused(VARIANTS[name], OPS[layer], value)


def test_the_only_refusal_is_a_kernel_on_one_input_channel_and_flat_takes_that_too() -> None:
    refused = {name for name, op in OPS.items() if Nmtf().refusal(op)}
    assert refused == {"depthwise", "depthwise times 2", "one input", "tiny"}
    assert not any(Nmtf(form="flat").refusal(op) for op in OPS.values())
    with pytest.raises(PlanError, match=r"^nmtf: one input channel per group"):
        Nmtf().factor(OPS["depthwise"], (1, 1))


def geometry(op: object) -> tuple[object, ...]:
    assert isinstance(op, Conv2d)
    return op.weight.shape, op.stride, op.padding, op.dilation, op.groups, op.bias is not None


def test_the_tucker_form_keeps_the_geometry_on_the_core() -> None:
    first, core, last = Nmtf().factor(STRIDED, (5, 2)).chain.ops
    assert geometry(first) == ((4, 4, 1, 1), (1, 1), (0, 0), (1, 1), 2, False)
    assert geometry(core) == ((10, 2, 3, 5), (2, 3), (1, 2), (2, 1), 2, False)
    assert geometry(last) == ((12, 5, 1, 1), (1, 1), (0, 0), (1, 1), 2, True)


def test_the_flat_form_keeps_the_geometry_on_the_first_layer() -> None:
    first, core, last = Nmtf(form="flat").factor(STRIDED, (5, 3)).chain.ops
    assert geometry(first) == ((6, 4, 3, 5), (2, 3), (1, 2), (2, 1), 2, False)
    assert geometry(core) == ((10, 3, 1, 1), (1, 1), (0, 0), (1, 1), 2, False)
    assert geometry(last) == ((12, 5, 1, 1), (1, 1), (0, 0), (1, 1), 2, True)


@pytest.mark.parametrize("rank", [(4, 4), (6, 4), (4, 7)])
def test_a_matrix_without_constraint_is_cut_as_well_as_by_svd_and_no_better(rank: tuple[int, int]) -> None:
    op = OPS["wide"]
    fit, svd = Nmtf().factor(op, rank), METHODS["svd"].factor(op, (min(rank),))
    assert fit.relative_error == pytest.approx(svd.relative_error, abs=1e-6)
    assert fit.chain.weight_params > svd.chain.weight_params


def test_a_kernel_without_constraint_is_cut_as_by_tucker2() -> None:
    op = OPS["groups 2"]
    assert error(op, (3, 2)) == pytest.approx(METHODS["tucker2"].factor(op, (3, 2)).relative_error, abs=1e-6)


def allowed(op: Op, rank: Rank) -> tuple[float, float]:
    """De Lathauwer's bounds of the error, least and most."""
    spectra = Nmtf().spectrum(op)
    tails = [tail_energy(values, r) / tail_energy(values, 0) for values, r in zip(spectra, rank, strict=True)]
    return float(np.sqrt(max(tails))), float(np.sqrt(sum(tails)))


@pytest.mark.parametrize("algorithm", ["semi", "multiplicative"])
@pytest.mark.parametrize("layer", ["wide", "tall", "rank-deficient", "3x3", "3x5 padding 2x1", "groups 2"])
def test_signs_cost_at_most_one_rank_on_either_side(layer: str, algorithm: str) -> None:
    op = OPS[layer]
    for rank in laws.path(Nmtf(), op, 4)[1:]:
        found = error(op, rank, algorithm=algorithm)
        if min(rank) > 1:
            assert found <= error(op, tuple(r - 1 for r in rank)) + rounding(op, rank)
        assert found >= allowed(op, rank)[0] - rounding(op, rank)


@pytest.mark.parametrize("layer", ["wide", "tall", "3x3"])
def test_columns_in_turn_end_nearer_than_multiplicative_steps_from_a_random_start(layer: str) -> None:
    op = OPS[layer]
    ends = [error(op, (6, 6), algorithm=algorithm, start="random") for algorithm in ("semi", "multiplicative")]
    assert ends[0] < ends[1]


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("layer", ["wide", "groups 2"])
def test_a_metric_is_heeded_within_the_zeros_and_signs(name: str, layer: str) -> None:
    op, method = OPS[layer], VARIANTS[name]
    groups = op.groups if isinstance(op, Conv2d) else 1
    patches = np.random.default_rng(5).standard_normal((groups, 400, op.weight[0].size))
    patches *= np.geomspace(10, 0.1, patches.shape[2])
    metric = DenseMetric(patches.swapaxes(1, 2) @ patches)
    plain = half(method, op)
    fitted = method.factor(op, plain.rank, metric=metric)
    costs = [metric.squared(collapse(fit.chain).weight - op.weight) for fit in (fitted, plain)]
    assert costs[0] < 0.98 * costs[1]
    for before, after in zip(layers(plain.chain), layers(fitted.chain), strict=True):
        assert np.count_nonzero(after.weight) <= np.count_nonzero(before.weight) or method.density == 1
    assert method.algorithm == "free" or layers(fitted.chain)[2].weight.min() >= 0


def test_only_the_random_start_heeds_the_seed() -> None:
    op = OPS["3x3"]
    assert error(op, (4, 4), 1, algorithm="semi") == error(op, (4, 4), 2, algorithm="semi")
    assert error(op, (4, 4), 1, algorithm="semi", start="random") != error(
        op, (4, 4), 2, algorithm="semi", start="random"
    )


def test_half_empty_factors_of_a_full_matrix_beat_the_svd_of_as_many_numbers() -> None:
    # Correlated rows and columns, as trained layers have them, over noise of full rank.
    op = Linear(low_rank(3, 100, 160, 40) + normal(4, 100, 160))
    fit = Nmtf(density=0.5).factor(op, (40, 40))
    count = sum(np.count_nonzero(stage.weight) for stage in layers(fit.chain))
    svd = METHODS["svd"].factor(op, (count // 260 + 1,))
    assert svd.chain.weight_params >= count
    assert fit.relative_error < svd.relative_error


def test_after_pruning_components_the_error_is_within_what_the_spectra_allow() -> None:
    for layer in ("wide", "3x3", "groups 2"):
        op = OPS[layer]
        rank = Nmtf().rank_at(op, max(Nmtf().max_rank(op)) // 3)
        least, most = allowed(op, rank)
        assert least - rounding(op, rank) <= error(op, rank, keep=0.5) <= most + rounding(op, rank)


def test_a_layer_is_exact_at_full_rank_when_nothing_binds_it() -> None:
    assert Nmtf().is_exact
    assert Nmtf(keep=0.5, form="flat").is_exact
    assert not Nmtf(density=0.9).is_exact
    assert not Nmtf(algorithm="semi").is_exact
    op = OPS["3x3 dilation 2"]
    chain = Nmtf(keep=0.3).factor(op, Nmtf().max_rank(op)).chain
    x = inputs(op)
    np.testing.assert_allclose(chain.apply(x), op.apply(x), rtol=0, atol=1e-5)
    assert collapse(chain).weight.shape == op.weight.shape
