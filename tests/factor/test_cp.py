"""What CP says beyond the laws of every method: bounded terms, the power method's identity, its layers."""

from __future__ import annotations

import numpy as np
import pytest

from surgery.errors import PlanError
from surgery.factor import cp_als
from surgery.factor.base import tail_energy, with_options
from surgery.factor.cp import Cp, Cp4
from surgery.factor.cp_als import NORM_BOUND, fitted_terms
from surgery.factor.cp_power import power_terms
from surgery.factor.cp_start import orthogonal_norms, orthogonal_terms
from surgery.factor.cp_tensor import Axes, Components, slices_of, spread, squared_residual
from surgery.ops import Conv2d, Float64Array, FloatArray, Op, Scale, collapse
from tests.cases import OPS, normal, rounding

METHODS = (Cp(), Cp4())
TPM = (Cp("tpm"), Cp4("tpm"))
PAIRS = [
    pytest.param(method, op, id=f"{method.name}: {name}")
    for method in METHODS
    for name, op in OPS.items()
    if method.refusal(op) is None
]
every_pair = pytest.mark.parametrize(("method", "op"), PAIRS)
every_cut = pytest.mark.parametrize("axes", [(9,), (3, 3)], ids=["cp", "cp4"])
STRIDED = Conv2d(normal(1, 12, 4, 3, 5), normal(2, 12), (2, 3), (1, 2), (2, 1), groups=2)


def correlated(seed: int, outputs: int, inputs: int) -> Float64Array:
    """A kernel (outputs, inputs, 3, 3) whose channels are as unequal and as correlated as trained ones."""
    rng = np.random.default_rng(seed)
    mix_o, mix_i = (rng.standard_normal((n, n)) / np.sqrt(np.arange(1, n + 1)) for n in (outputs, inputs))
    smooth = np.exp(-np.abs(np.subtract.outer(range(3), range(3))) / 2)
    core = rng.standard_normal((outputs, inputs, 3, 3))
    weight: Float64Array = np.einsum("op,pqab,iq,ha,wb->oihw", mix_o, core, mix_i, smooth, smooth, optimize=True)
    return weight


def degenerate() -> Float64Array:
    """The kernel a∘a∘b + a∘b∘a + b∘a∘a (4, 4, 4): two terms come as close as they like, if they may grow."""
    a, b = np.linalg.qr(np.random.default_rng(0).standard_normal((4, 2)))[0].T
    kernel: Float64Array = np.sum(
        [np.einsum("k,o,i->koi", *part) for part in ((a, a, b), (a, b, a), (b, a, a))], axis=0
    )
    return kernel


def energy(terms: Components) -> float:
    return float(np.sum(np.square(terms.norms)))


def rest(slices: FloatArray, terms: Components) -> float:
    return squared_residual(slices, terms.outputs, terms.inputs, terms.taps)


def test_terms_stand_for_the_sum_their_definition_says() -> None:
    rng = np.random.default_rng(0)
    outputs, inputs, a, b = (rng.standard_normal((n, 4)) for n in (5, 6, 2, 3))
    kernel = np.einsum("or,ir,ar,br->oiab", outputs, inputs, a, b)
    assert squared_residual(slices_of(kernel), outputs, inputs, (a, b)) < 1e-24  # Rounding of 180 numbers near 1.


@every_cut
def test_the_start_is_orthogonal_and_its_error_is_its_tail(axes: Axes) -> None:
    slices = slices_of(correlated(1, 12, 10))
    norms = orthogonal_norms(slices, axes)
    assert len(norms) == 90
    for rank in (1, 7, 40, 90):
        terms = orthogonal_terms(slices, axes, rank)
        np.testing.assert_allclose(terms.norms, norms[:rank], atol=1e-12 * norms[0])
        products = (terms.outputs.T @ terms.outputs) * (terms.inputs.T @ terms.inputs)
        products *= spread(terms.taps).T @ spread(terms.taps)
        np.testing.assert_allclose(products, np.diag(np.square(terms.norms)), atol=1e-12 * norms[0] ** 2)
        assert rest(slices, terms) == pytest.approx(tail_energy(norms, rank), abs=1e-12 * tail_energy(norms, 0))


@every_cut
@pytest.mark.parametrize("rank", [1, 5, 30])
def test_the_power_method_keeps_its_accounts(axes: Axes, rank: int) -> None:
    slices = slices_of(correlated(2, 12, 10))
    terms, total = power_terms(slices, axes, rank, np.random.default_rng(0)), float(np.vdot(slices, slices))
    assert rest(slices, terms) == pytest.approx(total - energy(terms), rel=1e-6)


def test_the_power_method_finds_orthogonal_terms_one_by_one() -> None:
    rng = np.random.default_rng(3)
    outputs, inputs, taps = (np.linalg.qr(rng.standard_normal((n, 4)))[0] for n in (8, 7, 9))
    slices = np.einsum("or,ir,kr->koi", outputs * [4.0, 3.0, 2.0, 1.0], inputs, taps)
    terms = power_terms(slices, (9,), 4, rng)
    np.testing.assert_allclose(terms.norms, [4, 3, 2, 1], rtol=1e-5)  # Iterations end at 1e-6 of lambda.


def test_another_seed_is_another_start_of_the_power_method() -> None:
    op = Conv2d(correlated(4, 8, 6))
    one, other = (Cp("tpm").factor(op, (5,), seed=seed).chain.first.weight for seed in (0, 1))
    assert one.tobytes() != other.tobytes()


@every_pair
def test_least_squares_are_never_worse_than_the_power_method(method: Cp, op: Op) -> None:
    tpm = with_options(method, {"algorithm": "tpm"})
    for size in np.unique(np.linspace(1, min(30, *method.max_rank(op)), 4).astype(int)):
        fitted, found = (each.factor(op, (int(size),)).relative_error for each in (method, tpm))
        assert fitted <= found + rounding(op, (int(size),))


@every_pair
def test_the_error_is_at_most_the_tail_of_the_spectrum(method: Cp, op: Op) -> None:
    (norms,) = method.spectrum(op)
    total = tail_energy(norms, 0) or 1.0
    for size in np.unique(np.linspace(1, len(norms), 6).astype(int)):
        rank = (int(size),)
        # The spectrum's own noise, where singular values come from a Gram matrix, is as in the laws of every method.
        tail = np.sqrt(tail_energy(norms, *rank) / total) + (1e-6 if min(op.weight.shape[:2]) > 256 else 0)
        assert method.factor(op, rank).relative_error <= tail + rounding(op, rank)


@every_cut
@pytest.mark.parametrize("rank", [3, 20, 60])
def test_no_fit_has_terms_beyond_the_bound(axes: Axes, rank: int) -> None:
    slices = slices_of(correlated(5, 24, 20))
    total = float(np.vdot(slices, slices))
    # Each update ends on the bound to the rounding of one division.
    assert energy(fitted_terms(slices, axes, rank, total)) <= NORM_BOUND * total * (1 + 1e-9)


def test_a_kernel_that_invites_cancelling_terms_gets_bounded_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    slices = degenerate()
    bounded = fitted_terms(slices, (4,), 2, 3.0)
    assert energy(bounded) <= NORM_BOUND * 3 * (1 + 1e-9)
    monkeypatch.setattr(cp_als, "NORM_BOUND", np.inf)
    assert energy(fitted_terms(slices, (4,), 2, 3.0)) > NORM_BOUND * 3


def test_no_sweep_raises_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    slices, errors = slices_of(correlated(6, 20, 16)), []
    for sweeps in range(0, 24, 3):
        monkeypatch.setattr(cp_als, "_sweeps", lambda *_, count=sweeps: count)
        errors.append(rest(slices, fitted_terms(slices, (9,), 20, float(np.vdot(slices, slices)))))
    assert np.all(np.diff(errors) <= 0)
    assert errors[-1] < 0.9 * errors[0]


@pytest.mark.parametrize("method", METHODS, ids=["cp", "cp4"])
def test_terms_that_are_there_are_found(method: Cp) -> None:
    rng = np.random.default_rng(7)
    weight = np.einsum("or,ir,ar,br->oiab", *(rng.standard_normal((n, 3)) for n in (24, 20, 3, 3)))
    assert method.factor(Conv2d(weight), (3,)).relative_error < 1e-6  # Errors are differences of squares near 1.


def test_thinning_the_channels_first_costs_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    op, errors = Conv2d(correlated(8, 40, 32)), []
    monkeypatch.setattr(cp_als, "SWEEP_WORK", 2e7)  # Less than all sweeps of this kernel would take.
    for spare in (4, 40):  # 20 terms: 24 directions, then all 40.
        monkeypatch.setattr(cp_als, "SPARE_DIRECTIONS", spare)
        errors.append(Cp().factor(op, (20,)).relative_error)
    thinned, whole = errors
    assert thinned != whole
    assert thinned <= 1.02 * whole  # Two local optima: on conv4_2 of VGG-16 thinning gave the better one at rank 64.


@pytest.mark.parametrize("method", [*METHODS, *TPM], ids=lambda method: f"{method.name} {method.algorithm}")
def test_factors_share_the_norm_of_each_term(method: Cp) -> None:
    chain = method.factor(Conv2d(correlated(9, 12, 10)), (9,)).chain
    first, *depthwise, last = (op.weight.astype(np.float64) for op in chain.ops if not isinstance(op, Scale))
    norms = [np.linalg.norm(w.reshape(9, -1), axis=1) for w in (first, *depthwise, last[:, :, 0, 0].T)]
    for other in norms[1:]:
        np.testing.assert_allclose(other, norms[0], rtol=1e-6)  # Rounded to float32.


def geometry(op: object) -> tuple[object, ...]:
    assert isinstance(op, Conv2d)
    return op.weight.shape, op.stride, op.padding, op.dilation, op.groups, op.bias is not None


def test_cp_keeps_the_geometry_on_the_depthwise_layer() -> None:
    first, depthwise, last = Cp().factor(STRIDED, (7,)).chain.ops
    assert geometry(first) == ((14, 4, 1, 1), (1, 1), (0, 0), (1, 1), 2, False)
    assert geometry(depthwise) == ((14, 1, 3, 5), (2, 3), (1, 2), (2, 1), 14, False)
    assert geometry(last) == ((12, 7, 1, 1), (1, 1), (0, 0), (1, 1), 2, True)


def test_cp4_gives_each_axis_its_half_of_the_geometry() -> None:
    first, vertical, horizontal, last = Cp4().factor(STRIDED, (7,)).chain.ops
    assert geometry(first) == ((14, 4, 1, 1), (1, 1), (0, 0), (1, 1), 2, False)
    assert geometry(vertical) == ((14, 1, 3, 1), (2, 1), (1, 0), (2, 1), 14, False)
    assert geometry(horizontal) == ((14, 1, 1, 5), (1, 3), (0, 2), (1, 1), 14, False)
    assert geometry(last) == ((12, 7, 1, 1), (1, 1), (0, 0), (1, 1), 2, True)


@pytest.mark.parametrize(
    ("method", "op", "reason"),
    [
        (Cp(), "wide", "not a convolution"),
        (Cp(), "1x1", "kernel is 1x1"),
        (Cp(), "depthwise", "one input channel per group"),
        (Cp4(), "wide", "not a convolution"),
        (Cp4(), "1x1", "kernel is 1x1"),
        (Cp4(), "5x1", "kernel is 5x1: already separated"),
        (Cp4(), "one input", "one input channel per group"),
    ],
)
def test_a_refusal_says_why(method: Cp, op: str, reason: str) -> None:
    with pytest.raises(PlanError, match=f"^{method.name}: .*{reason}"):
        method.factor(OPS[op], (1,))


@pytest.mark.parametrize("size", [1e-120, 1e120])
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_weights_of_any_size_are_fitted(method: Cp, size: float) -> None:
    weight = normal(3, 12, 10, 3, 3).astype(np.float64)
    plain, scaled = (method.factor(Conv2d(weight * by), (20,)) for by in (1.0, size))
    assert scaled.relative_error == pytest.approx(plain.relative_error, rel=1e-3)


@pytest.mark.parametrize("method", [*METHODS, *TPM], ids=str)
def test_weights_whose_squares_overflow_are_refused(method: Cp) -> None:
    with pytest.raises(PlanError, match="their squares overflow; scale the layer down"):
        method.factor(Conv2d(normal(3, 12, 10, 3, 3).astype(np.float64) * 1e152), (20,))


@pytest.mark.parametrize("method", TPM, ids=["cp", "cp4"])
def test_the_power_method_cuts_any_layer_as_its_template_says(method: Cp) -> None:
    for name in ("groups 4, stride 2x1, padding 0x1", "zero conv", "half-zero groups", "unaligned conv"):
        op = OPS[name]
        fit, template = method.factor(op, (4,)), method.template(op, (4,))
        assert [geometry(stage) for stage in fit.chain.ops] == [geometry(stage) for stage in template.ops]
        norm = np.linalg.norm(op.weight.astype(np.float64)) or 1.0
        distance = np.linalg.norm(collapse(fit.chain).weight - op.weight.astype(np.float64)) / norm
        assert fit.relative_error == pytest.approx(float(distance), rel=1e-6)
        assert (fit.solver, fit.relative_error < 1) == ("tpm", True)


def test_the_power_method_says_that_it_is_not_exact() -> None:
    assert (Cp().is_exact, Cp("tpm").is_exact) == (True, False)
