"""One layer cut to data: each step against what the samples themselves say."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from surgery import fitting
from surgery.errors import PlanError
from surgery.factor import METHODS, cp_als, refit_relu, tucker2
from surgery.factor import statistics as statistics_module
from surgery.factor.base import Fit, Rank
from surgery.factor.metric import Metric
from surgery.factor.refit import refit, relative_error
from surgery.factor.responses import error_behind_relu, response_error, responses
from surgery.factor.ridge import DEFAULT_RIDGE
from surgery.factor.statistics import Samples, Statistics, moments_of
from surgery.fitting import Fitted, fit
from surgery.ops import Chain, Conv2d, Linear, Op, Scale, collapse
from tests.cases import normal

LAYERS: dict[str, tuple[str, Rank, Op]] = {
    "svd": ("svd", (4,), Linear(normal(1, 12, 20), normal(2, 12))),
    "svd without a bias": ("svd", (4,), Linear(normal(3, 12, 20))),
    "svd-channel": ("svd-channel", (4,), Conv2d(normal(4, 12, 8, 3, 3), normal(5, 12), padding=(1, 1))),
    "svd-spatial": ("svd-spatial", (8,), Conv2d(normal(6, 12, 8, 3, 3), normal(7, 12), padding=(1, 1))),
    "svd-spatial in groups": ("svd-spatial", (5,), Conv2d(normal(8, 12, 4, 3, 3), None, groups=2)),
    "tucker2": ("tucker2", (6, 5), Conv2d(normal(9, 12, 8, 3, 3), normal(10, 12), padding=(1, 1))),
}
SCALE = Scale.of(np.linspace(-2, 3, 12), np.linspace(1, 2, 12))
every_layer = pytest.mark.parametrize(("name", "rank", "op"), LAYERS.values(), ids=LAYERS)


def drawn(op: Op, count: int, seed: int, noise: float) -> Samples:
    """Correlated patches far from 0 and what `op` makes of them; then the patches are disturbed by cuts before it."""
    groups, size = op.groups if isinstance(op, Conv2d) else 1, op.weight[0].size
    mixed = np.random.default_rng(99).standard_normal((groups, size, size)) * np.exp(-np.linspace(0, 4, size))
    rng = np.random.default_rng(seed)
    x = 1 + np.einsum("ngi,gji->ngj", rng.standard_normal((count, groups, size)), mixed) / np.sqrt(size)
    moved = x + noise * rng.standard_normal(x.shape) * np.linspace(0, 1, size)
    return Samples(moved.astype(np.float32), responses(op, x).astype(np.float32))


def data(op: Op, count: int = 800, noise: float = 0.1, scale: Scale | None = None) -> Statistics:
    """Statistics of a cut network's inputs, or of the original's where there is no noise."""
    samples = drawn(op, count, 0, noise)
    return Statistics(moments_of([samples]), samples, drawn(op, 300, 1, noise), scale=scale, is_symmetric=not noise)


def behind(samples: Samples, scale: Scale) -> Samples:
    return Samples(samples.x, scale.apply(samples.y))


@every_layer
def test_without_data_a_fit_is_the_method_s_own(name: str, rank: Rank, op: Op) -> None:
    fitted, own = fit(op, METHODS[name], rank, None), METHODS[name].factor(op, rank)
    assert [stage.weight.tobytes() for stage in fitted.fit.chain.ops] == [s.weight.tobytes() for s in own.chain.ops]
    assert (fitted.response_error, fitted.ridge, fitted.refitted) == (None, None, False)


@every_layer
@pytest.mark.parametrize("noise", [0.0, 0.1], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize("scale", [None, SCALE], ids=["plain", "scaled"])
@pytest.mark.parametrize("refit", [False, True])
def test_data_lower_the_error_on_samples_that_no_fit_has_seen(
    name: str, rank: Rank, op: Op, noise: float, scale: Scale | None, refit: bool
) -> None:
    statistics = data(op, noise=noise, scale=scale)
    fitted = fit(op, METHODS[name], rank, statistics, refit=refit)
    unit = scale or Scale.of()
    chain, held = fitted.fit.chain, statistics.held_out
    made = Samples(held.x, unit.apply(responses(chain, held.x)))
    wanted = behind(held, unit)
    error = np.linalg.norm(wanted.y - made.y) / np.linalg.norm(wanted.y - wanted.y.mean(axis=0))
    # The chain is measured with its scale folded in, and unfolded afterwards: both round to float32.
    assert fitted.response_error == pytest.approx(error, rel=1e-4)
    blind = unit.apply(responses(METHODS[name].factor(op, rank).chain, held.x))
    assert error < 0.8 * np.linalg.norm(wanted.y - blind) / np.linalg.norm(wanted.y - wanted.y.mean(axis=0))
    assert fitted.fit.relative_error == pytest.approx(relative_error(chain, op), rel=1e-12)
    assert [stage.weight.dtype for stage in chain.ops] == [np.float32] * len(chain.ops)


@every_layer
@pytest.mark.parametrize("relu", [False, True])
def test_a_refit_never_raises_the_error(name: str, rank: Rank, op: Op, relu: bool) -> None:
    statistics = replace(data(op), relu=relu)
    without, with_refit = (fit(op, METHODS[name], rank, statistics, refit=refit) for refit in (False, True))
    assert without.response_error is not None
    assert with_refit.response_error is not None
    assert with_refit.response_error <= without.response_error


@pytest.mark.parametrize("scale", [None, Scale.of(np.linspace(-2, 3, 12), 0.1)], ids=["plain", "scaled"])
def test_behind_a_relu_the_error_is_that_of_what_it_leaves_and_a_refit_makes_use_of_it(scale: Scale | None) -> None:
    name, rank, op = LAYERS["svd-channel"]
    op = replace(op, bias=-op.weight.sum(axis=(1, 2, 3)))  # The inputs' mean is 1: half of all responses are cut off.
    statistics = replace(data(op, count=3000, scale=scale), relu=True)
    unit, held = scale or Scale.of(), statistics.held_out
    wanted = np.maximum(unit.apply(held.y), 0)

    def fitted(relu: bool) -> tuple[float, Fitted]:
        result = fit(op, METHODS[name], rank, replace(statistics, relu=relu), refit=True)
        made = np.maximum(unit.apply(responses(result.fit.chain, held.x)), 0)
        return float(np.linalg.norm(wanted - made) / np.linalg.norm(wanted - wanted.mean(axis=0))), result

    (heeding, result), (blind, _) = fitted(True), fitted(False)
    assert heeding < 0.99 * blind
    assert result.refitted
    assert result.response_error == pytest.approx(heeding, rel=1e-4)  # Unfolding the scale rounds to float32.


@pytest.mark.parametrize("relu", [False, True])
def test_more_steps_never_give_a_larger_error_than_the_weights_alone(relu: bool) -> None:
    """Also where the data are too few to say anything."""
    name, rank, op = LAYERS["svd-channel"]
    statistics = replace(data(op, count=3, noise=0.5), relu=relu)
    held, measure = statistics.held_out, error_behind_relu if relu else response_error
    error = fit(op, METHODS[name], rank, statistics, refit=True).response_error
    assert error is not None
    assert error <= measure(METHODS[name].factor(op, rank).chain, held)


def test_whitened_svd_reaches_the_best_rank_r_regression_on_the_samples() -> None:
    """Reduced-rank regression (Izenman, 1975) by brute force: least squares, then the SVD of what it predicts."""
    _, rank, op = LAYERS["svd"]
    statistics = replace(data(op), held_out=drawn(op, 0, 1, 0.1))
    samples = statistics.samples
    x, y = samples.x[:, 0].astype(np.float64), samples.y.astype(np.float64)
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    predicted = x @ np.linalg.lstsq(x, y, rcond=None)[0]
    _, _, vh = np.linalg.svd(predicted, full_matrices=False)
    best = np.linalg.norm(y - predicted @ vh[: rank[0]].T @ vh[: rank[0]])
    chain = fit(op, METHODS["svd"], rank, statistics).fit.chain
    # Without held-out samples the ridge is the default, 1 % of the mean eigenvalue.
    assert best <= np.linalg.norm(samples.y - responses(chain, samples.x)) <= 1.01 * best


@every_layer
@pytest.mark.parametrize("scale", [None, SCALE], ids=["plain", "scaled"])
def test_a_float64_layer_gets_the_numbers_of_its_float32_fit(
    name: str, rank: Rank, op: Op, scale: Scale | None
) -> None:
    """Data are float32."""
    bias = None if op.bias is None else op.bias.astype(np.float64)
    wide = replace(op, weight=op.weight.astype(np.float64), bias=bias)
    statistics = data(op, scale=scale)
    narrow, fitted = (fit(each, METHODS[name], rank, statistics, refit=True).fit.chain for each in (op, wide))
    for one, other in zip(narrow.ops, fitted.ops, strict=True):
        assert other.weight.dtype == np.float64
        np.testing.assert_array_equal(one.weight, other.weight)


@pytest.mark.parametrize("scale", [None, SCALE], ids=["plain", "scaled"])
def test_a_float64_bias_that_no_data_moved_stays_as_it_is(scale: Scale | None) -> None:
    op = LAYERS["svd"][2]
    assert op.bias is not None
    wide = replace(op, weight=op.weight.astype(np.float64), bias=op.bias + np.float64(1e-12))
    fitted = fit(wide, METHODS["svd"], (12,), data(op, count=2, noise=1.0, scale=scale))
    assert not fitted.recentred
    np.testing.assert_array_equal(fitted.fit.chain.last.bias, wide.bias)


def test_weights_that_float32_cannot_hold_are_not_fitted_to_data() -> None:
    op = LAYERS["svd"][2]
    huge = replace(op, weight=op.weight.astype(np.float64) * 1e300)
    with pytest.raises(PlanError, match=r"cannot be fitted to data: a weight would be beyond float32's range"):
        fit(huge, METHODS["svd"], (4,), data(op))


def test_a_ternary_last_layer_is_fitted_in_front_of_the_scale() -> None:
    """Nothing can be folded out of it again."""
    _, _, op = LAYERS["svd"]
    statistics = replace(data(op, scale=SCALE), relu=True)
    plain = replace(statistics, scale=None, relu=False)
    scaled, unscaled = (fit(op, METHODS["sdd"], (8,), each, refit=True) for each in (statistics, plain))
    assert scaled.response_error == unscaled.response_error
    for one, other in zip(scaled.fit.chain.ops, unscaled.fit.chain.ops, strict=True):
        for name in one.__slots__:
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_channels_that_the_scale_removes_stay_as_they_are() -> None:
    name, rank, op = LAYERS["svd"]
    removing = Scale.of(np.array([0.0, 1e-30, -0.0, *[2.0] * 9]), np.ones(12))
    chain = fit(op, METHODS[name], rank, data(op, scale=removing), refit=True).fit.chain
    assert all(np.isfinite(stage.weight).all() for stage in chain.ops)
    assert chain.last.bias is not None
    assert np.isfinite(chain.last.bias).all()
    full = fit(op, METHODS[name], (12,), data(op, noise=0.0, scale=removing)).fit.chain
    np.testing.assert_allclose(collapse(full).weight, op.weight, rtol=0, atol=1e-5)


def test_the_bias_is_kept_where_the_data_do_not_want_another() -> None:
    """At full rank on the original network's inputs nothing is missed, so that any other bias is noise."""
    op = Linear(normal(11, 6, 8), None)
    wide = drawn(op, 50, 0, 0.0)
    statistics = Statistics(moments_of([wide]), wide, drawn(op, 300, 1, 0.0), scale=Scale.of(2.0, 1.0))
    moved = replace(statistics, moments=replace(statistics.moments, mean_y=statistics.moments.mean_y + 1))
    fitted = fit(op, METHODS["svd"], (6,), moved)
    assert not fitted.recentred
    assert fitted.fit.chain.last.bias is None


class Held:
    """A stand-in for a method whose last stage may not change: its rows are signs."""

    name, summary, is_exact, uses_metric = "held", "", False, False

    def factor(self, op: Op, rank: Rank, *, metric: Metric | None = None, seed: int = 0) -> Fit:
        left, right = np.sign(normal(1, op.out_channels, *rank)), normal(2, *rank, op.weight.shape[1])
        chain = Chain((Linear(right), Linear(left, op.bias)))
        return Fit(chain, rank, relative_error(chain, op), "signs", frozenset({1}))


def test_a_last_stage_that_is_bound_takes_no_scale_and_no_other_numbers() -> None:
    op, method = Linear(normal(12, 12, 20), normal(13, 12)), Held()
    fitted = fit(op, method, (6,), data(op, scale=SCALE), refit=True)  # type: ignore[arg-type]
    assert set(np.unique(fitted.fit.chain.last.weight)) <= {-1.0, 0.0, 1.0}
    assert fitted.refitted
    assert fitted.fit.chain.first.weight.tobytes() != method.factor(op, (6,)).chain.first.weight.tobytes()


def test_without_held_out_samples_the_last_step_stands_unmeasured() -> None:
    name, rank, op = LAYERS["tucker2"]
    statistics = replace(data(op), held_out=drawn(op, 0, 1, 0.1))
    fitted = fit(op, METHODS[name], rank, statistics, refit=True)
    assert (fitted.response_error, fitted.ridge, fitted.recentred) == (None, DEFAULT_RIDGE, True)


@every_layer
def test_the_same_data_give_the_same_bytes(name: str, rank: Rank, op: Op) -> None:
    def made() -> Fitted:
        return fit(op, METHODS[name], rank, data(op, scale=SCALE), refit=True)

    assert [s.weight.tobytes() for s in made().fit.chain.ops] == [s.weight.tobytes() for s in made().fit.chain.ops]


def test_responses_are_what_the_layer_computes_on_its_patches() -> None:
    op = Conv2d(normal(14, 6, 2, 2, 3), normal(15, 6), groups=2)
    x = np.random.default_rng(0).standard_normal((5, 4, 2, 3))
    np.testing.assert_allclose(responses(op, x.reshape(5, 2, 12)), op.apply(x)[:, :, 0, 0], rtol=0, atol=1e-12)


WIDE = Conv2d(normal(20, 256, 256, 3, 3), normal(21, 256), padding=(1, 1))
FLAT = Linear(normal(22, 1024, 2048), normal(23, 1024))
MOST = 3.0  # Times the layer's own float64 size.
# Besides the statistics, at about half of the parameters where nothing else is said; few cut at more than three
# quarters. Blocks of 4 MB are 0.9 of these layers: in smaller ones they would be all that is measured.
LARGE_LAYERS: dict[str, tuple[str, Rank, Op]] = {
    "svd": ("svd", (340,), FLAT),
    "svd-channel": ("svd-channel", (115,), WIDE),
    "response": ("response", (115,), WIDE),
    "response-3d": ("response-3d", (154, 154), WIDE),
    "svd-spatial, quarter": ("svd-spatial", (96,), WIDE),
    "svd-spatial": ("svd-spatial", (192,), WIDE),
    "tucker2, quarter": ("tucker2", (104, 104), WIDE),
    "tucker2": ("tucker2", (154, 154), WIDE),
    "nmtf, quarter": ("nmtf", (104, 104), WIDE),
    "nmtf": ("nmtf", (154, 154), WIDE),
    "nmtf, fully connected": ("nmtf", (340, 340), FLAT),
    "semi-nmf": ("semi-nmf", (340,), FLAT),
    "sdd": ("sdd", (115,), WIDE),
    "cp, eighth": ("cp", (141,), WIDE),
    "cp, quarter": ("cp", (283,), WIDE),
    "cp": ("cp", (566,), WIDE),
    "cp4, quarter": ("cp4", (283,), WIDE),
    "cp4": ("cp4", (566,), WIDE),
    "svd, three quarters": ("svd", (512,), FLAT),
    "svd-channel, three quarters": ("svd-channel", (172,), WIDE),
    "response, three quarters": ("response", (172,), WIDE),
    "response-3d, three quarters": ("response-3d", (249, 249), WIDE),
    "svd-spatial, three quarters": ("svd-spatial", (288,), WIDE),
    "tucker2, three quarters": ("tucker2", (195, 195), WIDE),
    "nmtf, three quarters": ("nmtf", (195, 195), WIDE),
    "nmtf, fully connected, three quarters": ("nmtf", (446, 446), FLAT),
    "semi-nmf, three quarters": ("semi-nmf", (512,), FLAT),
    "sdd, three quarters": ("sdd", (172,), WIDE),
    "cp, three quarters": ("cp", (849,), WIDE),
    "cp4, three quarters": ("cp4", (853,), WIDE),
}


@pytest.mark.parametrize("is_folded", [False, True], ids=["float32", "float64 in front of a scale"])
@pytest.mark.parametrize("key", LARGE_LAYERS)
def test_a_fit_takes_few_times_its_layer_in_memory_besides_the_statistics(
    key: str, is_folded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, rank, op = LARGE_LAYERS[key]
    # All sweeps but the first are alike in what they hold.
    monkeypatch.setattr(cp_als, "FEWEST_SWEEPS", 3)
    monkeypatch.setattr(refit_relu, "SWEEPS", 3)
    monkeypatch.setattr(fitting, "refit_stages", partial(refit, sweeps=3))
    samples, scale = noise(op, 4000, 0), None
    if is_folded:
        op = replace(op, weight=op.weight.astype(np.float64))
        scale = Scale.of(np.linspace(0.5, 2, op.out_channels), np.linspace(1, 2, op.out_channels))
    statistics = Statistics(moments_of([samples]), samples, noise(op, 2000, 1), scale, relu=True, is_symmetric=False)
    assert peak(op, lambda: fit(op, METHODS[name], rank, statistics, refit=True)) <= MOST


def noise(op: Op, count: int, seed: int) -> Samples:
    x = np.random.default_rng(seed).standard_normal((count, 1, op.weight[0].size), np.float32)
    return Samples(x + 0.1 * x[:, :, ::-1], responses(op, x).astype(np.float32))


@pytest.mark.parametrize("key", [key for key, (_, _, op) in LARGE_LAYERS.items() if op is FLAT])
def test_so_it_does_where_samples_stand_for_moments(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of all layers of more than 8192 inputs."""
    monkeypatch.setattr(statistics_module, "MAX_SIDE", 1024)
    name, rank, op = LARGE_LAYERS[key]
    samples = noise(op, 600, 0)
    known = Statistics(moments_of([samples]), samples, noise(op, 200, 1), relu=True, is_symmetric=False)
    assert not known.moments.is_dense
    assert peak(op, lambda: fit(op, METHODS[name], rank, known, refit=True)) <= MOST


WITHOUT_DATA = [key for key, (name, _, _) in LARGE_LAYERS.items() if not name.startswith("response")]


@pytest.mark.parametrize("key", [key for key in WITHOUT_DATA if not key.endswith(("quarter", "eighth"))])
def test_without_data_that_holds_of_float64_weights_too(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cp_als, "FEWEST_SWEEPS", 3)
    monkeypatch.setattr(tucker2, "MAX_SWEEPS", 3)
    name, rank, op = LARGE_LAYERS[key]
    op = replace(op, weight=op.weight.astype(np.float64))
    assert peak(op, lambda: METHODS[name].factor(op, rank)) <= MOST


def peak(op: Op, solve: Callable[[], object]) -> float:
    """Return the most memory that is taken at a time, in sizes of the layer in float64."""
    small = LAYERS["svd" if isinstance(op, Linear) else "svd-channel"]
    fit(small[2], METHODS[small[0]], small[1], data(small[2]), refit=True)  # What is imported on the way stays.
    METHODS["sdd"].factor(small[2], (4,))
    tracemalloc.start()
    try:
        solve()
        return tracemalloc.get_traced_memory()[1] / (8 * op.weight.size)
    finally:
        tracemalloc.stop()
