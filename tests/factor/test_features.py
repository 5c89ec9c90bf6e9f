"""What the last stage of a chain sees, against the product of the chain's weights written out."""

from __future__ import annotations

import numpy as np
import pytest

from surgery.factor.features import Features
from surgery.factor.halves import Half
from surgery.ops import Chain, Conv2d, Op, collapse
from tests.factor.test_refit import CHAINS, metric_of, numbers

every_chain = pytest.mark.parametrize(("op", "chain"), CHAINS.values(), ids=CHAINS)


def written_out(op: Op, chain: Chain) -> tuple[int, list[Features], list[np.ndarray]]:
    """The groups, and of each the features and F as a matrix: what they see of the unit patches."""
    groups = op.groups if isinstance(op, Conv2d) else 1
    found = [Features.of(chain, groups, g) for g in range(groups)]
    return groups, found, [some.seen(np.eye(op.weight[0].size)).T for some in found]


@every_chain
def test_features_are_what_the_last_stage_sees(op: Op, chain: Chain) -> None:
    groups, _, matrices = written_out(op, chain)
    if isinstance(chain.last, Conv2d) and chain.last.groups > groups:
        pytest.skip("the last stage sees each feature in its own group only")
    rows = np.split(numbers(chain.last).reshape(len(chain.last.weight), -1), groups)
    made = np.concatenate([part @ forward for part, forward in zip(rows, matrices, strict=True)])
    np.testing.assert_allclose(made.reshape(op.weight.shape), collapse(chain).weight, rtol=0, atol=1e-12)


@every_chain
def test_features_images_and_gram_matrix_are_products_with_one_matrix(op: Op, chain: Chain) -> None:
    metric = metric_of(op)
    patches = np.random.default_rng(0).standard_normal((7, metric.size))
    for group, (features, forward) in enumerate(zip(*written_out(op, chain)[1:], strict=True)):
        made = np.full_like(forward, np.nan)
        for rows, image in features.images(metric, group):
            made[rows] = image
        np.testing.assert_allclose(made, metric.times(group, forward), rtol=0, atol=1e-12)
        unit = Half.zeros(len(forward))
        unit.add(slice(None), np.eye(len(forward)))
        features.add_gram(unit, 0.5)
        np.testing.assert_allclose(unit.whole(), np.eye(len(forward)) + forward @ forward.T / 2, rtol=0, atol=1e-12)
        np.testing.assert_allclose(features.seen(patches), patches @ forward.T, rtol=0, atol=1e-12)
        assert len(features) == len(forward)


@every_chain
def test_those_of_the_first_channels_are_the_first_ones(op: Op, chain: Chain) -> None:
    _, found, matrices = written_out(op, chain)
    for features, forward in zip(found, matrices, strict=True):
        few, places = features.first(2), features.places[0] * features.places[1]
        assert len(few) <= len(features)
        np.testing.assert_array_equal(few.seen(np.eye(few.inputs)).T, forward[: len(few)])
        assert len(few) == 2 * places or len(few) == len(features)
        np.testing.assert_array_equal(features.first(10**6).seen(np.eye(few.inputs)).T, forward)
