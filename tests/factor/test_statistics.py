"""Moments against sums over all samples at once, and the regression that they are enough for."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from surgery.factor import statistics as module
from surgery.factor.statistics import Samples, Statistics, centred_bias, moments_of, target
from surgery.ops import Chain, Conv2d, Linear, Scale

OP = Conv2d(np.random.default_rng(0).standard_normal((6, 2, 2, 1)), np.arange(6.0), groups=2)


def drawn(count: int, seed: int, noise: float = 0.0) -> Samples:
    """Patches with a mean far from 0 and what `OP` makes of them; the patches are then disturbed."""
    rng = np.random.default_rng(seed)
    x = 100 + rng.standard_normal((count, 2, 4))
    y = np.einsum("ngi,goi->ngo", x, OP.weight.reshape(2, 3, 4)).reshape(count, 6) + OP.bias
    return Samples(x + noise * rng.standard_normal(x.shape), y)


def covariance(samples: Samples, group: int) -> np.ndarray:
    return np.cov(samples.x[:, group].T, bias=True)


@pytest.fixture(params=["dense", "sampled"])
def holding(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to hold Cxx: the matrix, and rows whose Gram matrix it is."""
    if request.param == "sampled":
        monkeypatch.setattr(module, "MAX_SIDE", 3)
    return str(request.param)


def test_moments_of_chunks_are_those_of_all_samples_together(holding: str) -> None:
    whole = drawn(50, 0, noise=0.3)
    moments = moments_of(Samples(whole.x[a:b], whole.y[a:b]) for a, b in ((0, 7), (7, 8), (8, 50)))
    # Kept rows are rounded to float32, about the mean; sums are of 50 terms.
    rtol = 1e-5 if holding == "sampled" else 1e-10
    assert moments.count == 50
    assert moments.is_dense == (holding == "dense")
    np.testing.assert_allclose(moments.mean_x, whole.x.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(moments.mean_y, whole.y.mean(axis=0), rtol=1e-13)
    y = whole.y - whole.y.mean(axis=0)
    for g in range(2):
        x = whole.x[:, g] - whole.x[:, g].mean(axis=0)
        np.testing.assert_allclose(moments.times(g, np.eye(4)), x.T @ x / 50, rtol=rtol, atol=rtol)
        np.testing.assert_allclose(moments.yx[3 * g : 3 * g + 3], y[:, 3 * g : 3 * g + 3].T @ x / 50, rtol=1e-9)


def test_the_metric_is_the_covariance_raised_by_a_share_of_its_mean_eigenvalue(holding: str) -> None:
    samples = drawn(50, 1)
    moments = moments_of([samples])
    mean = np.mean([np.linalg.eigvalsh(covariance(samples, g)) for g in range(2)])
    for g in range(2):
        expected = covariance(samples, g) + 0.5 * mean * np.eye(4)
        np.testing.assert_allclose(moments.metric(0.5).dense(g), expected, rtol=1e-5, atol=1e-6)


def test_moments_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="no samples"):
        moments_of([])


def test_constant_inputs_have_a_metric() -> None:
    still = Samples(np.ones((5, 1, 3)), np.ones((5, 2)))
    np.testing.assert_array_equal(moments_of([still]).metric(0.1).dense(0), 0.1 * np.eye(3))


def test_a_scale_behind_the_layer_changes_the_moments_as_it_does_the_outputs() -> None:
    samples, scale = drawn(50, 2), Scale.of(np.linspace(-1, 2, 6), np.linspace(3, 4, 6))
    behind = moments_of([Samples(samples.x, scale.apply(samples.y))])
    scaled = moments_of([samples]).scaled(scale)
    close = partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12)
    close(scaled.mean_y, behind.mean_y)
    close(scaled.factor[:, None] * scaled.yx, behind.yx)
    wanted = replace(samples, scale=scale).wanted(slice(10, 30), slice(2, 5))
    np.testing.assert_array_equal(wanted, scale.apply(samples.y)[10:30, 2:5].astype(np.float32))


@pytest.mark.parametrize("noise", [0.0, 0.5], ids=["symmetric", "asymmetric"])
def test_behind_a_scale_the_target_of_the_layer_is_that_of_the_scaled_layer(noise: float) -> None:
    """By folded moments and the layer in front of the scale, or by moments of what is behind both."""
    samples, scale = drawn(60, 3, noise), Scale.of(np.linspace(-1, 2, 6), np.linspace(3, 4, 6))
    folded = Statistics(moments_of([samples]).scaled(scale), samples, samples, is_symmetric=not noise)
    whole = Samples(samples.x, scale.apply(samples.y))
    behind = Statistics(moments_of([whole]), whole, whole, is_symmetric=not noise)
    weight, bias = scale.absorbed(OP.weight, OP.bias, 6, np.float64)
    (mine, _), (wanted, _) = target(OP, folded, 0.2), target(replace(OP, weight=weight, bias=bias), behind, 0.2)
    assert mine.weight.dtype == np.float32
    np.testing.assert_allclose(mine.weight, wanted.weight, rtol=1e-6, atol=1e-6)


def test_the_target_solves_ridge_regression_towards_the_weight(holding: str) -> None:
    """Against ridge regression on the samples themselves, the ridge as rows of its own below them."""
    samples, ridge = drawn(60, 3, noise=0.5), 0.2
    moments = moments_of([samples])
    best, _ = target(OP, Statistics(moments, samples, samples, is_symmetric=False), ridge)
    root = np.sqrt(60 * ridge * moments.mean_eigenvalue) * np.eye(4)
    for g in range(2):
        rows = OP.weight[3 * g : 3 * g + 3].reshape(3, 4)
        x, y = (
            samples.x[:, g] - samples.x[:, g].mean(axis=0),
            (samples.y - samples.y.mean(axis=0))[:, 3 * g : 3 * g + 3],
        )
        expected = np.linalg.lstsq(np.vstack([x, root]), np.vstack([y, root @ rows.T]), rcond=None)[0].T
        # Kept rows are float32.
        np.testing.assert_allclose(best.weight[3 * g : 3 * g + 3].reshape(3, 4), expected, rtol=1e-5)


def test_the_target_on_the_original_network_s_inputs_is_the_layer_itself() -> None:
    samples = drawn(20, 4)
    op = replace(OP, weight=OP.weight.astype(np.float32))
    statistics = Statistics(moments_of([samples]), samples, samples)
    assert target(op, statistics, 0.1)[0] is op
    np.testing.assert_array_equal(target(OP, statistics, 0.1)[0].weight, op.weight)


def test_the_target_has_the_precision_of_factors() -> None:
    samples = Samples(np.ones((5, 1, 3), np.float32) * np.arange(5)[:, None, None], np.ones((5, 2), np.float32))
    op = Linear(np.ones((2, 3), np.float16))
    assert target(op, Statistics(moments_of([samples]), samples, samples, is_symmetric=False), 0.1)[0].weight.dtype == (
        np.float32
    )


def test_the_centred_bias_makes_the_mean_output_the_wanted_one() -> None:
    samples = drawn(30, 5, noise=0.5)
    other = Conv2d(OP.weight + 0.1, None, groups=2)
    bias = centred_bias(Chain((other,)), moments_of([samples]))
    made = np.einsum("ngi,goi->ngo", samples.x, other.weight.reshape(2, 3, 4)).reshape(30, 6) + bias
    np.testing.assert_allclose(made.mean(axis=0), samples.y.mean(axis=0), rtol=1e-12)
