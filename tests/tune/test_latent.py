"""Ternary factors as training begins with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from surgery.plans import Cut
from surgery.tune.latent import balance, latents, recovered
from surgery.tune.parts import placed
from tests.tune.cases import cut, small


@pytest.mark.parametrize("seed", range(3))
def test_recovered_factors_round_to_the_ternary_ones_and_are_nearer_to_the_weight(seed: int) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((9, 14))
    x, y = (rng.integers(-1, 2, shape).astype(float) for shape in ((9, 5), (5, 14)))
    d = rng.random(5)
    left, right = recovered(weight, x, d, y)
    assert (np.rint(left) == x).all()
    assert (np.rint(right) == y).all()
    assert np.linalg.norm(weight - left * d @ right) < 0.95 * np.linalg.norm(weight - x * d @ y)


def test_balanced_steps_of_a_product_keep_its_scale_and_are_even_for_even_factors() -> None:
    assert balance([(0.1, 100), (0.1, 100)]) == pytest.approx([1, 1])
    paces = balance([(1.0, 4), (0.01, 1), (1.0, 9)])
    assert np.prod(paces) == pytest.approx(1)
    # Multiplied by the root of its inputs, each factor moves by the same share of itself for the same gradient to it.
    assert paces[0] / paces[2] == pytest.approx(4 / 9)


@pytest.mark.parametrize("form", ["scale", "folded"])
def test_latent_weights_round_to_what_the_cut_network_holds(tmp_path: Path, form: str) -> None:
    source = small(tmp_path)
    cuts = (Cut("conv", "sdd", (6,), (("form", form),)),)
    made, _ = cut(source, cuts, tmp_path / "cut")
    original, model = source.load(), made.load()
    (placement,) = placed(original, cuts, model)
    found = latents(placement, model, original)
    assert set(found) == {part.key for part in placement.parts}
    for part in (placement.parts[0], placement.parts[-1]):
        op, start = model.format.lift(model, model.node(part.key)), found[part.key]
        assert start.weight is not None
        held = np.rint(start.weight)
        scale = 1 if start.scale is None else start.scale[:, np.newaxis, np.newaxis]
        np.testing.assert_allclose(held * scale, op.weight, rtol=1e-6)  # type: ignore[union-attr]
