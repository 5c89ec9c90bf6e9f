"""Spectra in reports: the weight's own singular values, thinned out, with the rank that was chosen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from surgery import formats
from surgery.choose import Amount, Request, parse_selector
from surgery.factor import METHODS, rank_holding, tail_energy
from surgery.factor.response import needs_data
from surgery.model import Model, Refusal
from surgery.ops import Op
from surgery.pipeline import make_plan
from surgery.plans import Cut, Plan
from surgery.report import spectra
from surgery.rewriting import Made, rewrite
from tests.nets import conv_blobs, dense_blobs, write_net

NET = """name: "n"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 8 dim: 12 dim: 12 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 12 kernel_size: 3 group: GROUPS } }
layer { name: "a" type: "InnerProduct" bottom: "conv" top: "a" inner_product_param { num_output: 80 } }
layer { name: "b" type: "InnerProduct" bottom: "conv" top: "b" inner_product_param { num_output: 20 } }
"""


def network(folder: Path, groups: int = 1) -> Model:
    blobs = {"conv": conv_blobs(12, 8 // groups, 3, 3), "a": dense_blobs(80, 1200), "b": dense_blobs(20, 1200, seed=1)}
    return formats.load(write_net(folder, NET.replace("GROUPS", str(groups)), blobs))


def cut(model: Model, *cuts: Cut) -> tuple[Made, ...]:
    return rewrite(model, Plan("", cuts)).made


def weight_op(model: Model, key: str) -> Op:
    op = model.format.lift(model, model.node(key))
    assert not isinstance(op, Refusal)
    return op


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if not needs_data(method)])
def test_a_spectrum_is_the_method_s_own_and_marks_the_rank(name: str, tmp_path: Path) -> None:
    model, method = network(tmp_path), METHODS[name]
    key = "a" if method.refusal(weight_op(model, "conv")) else "conv"
    op = weight_op(model, key)
    rank = method.rank_at(op, 5)
    (made,) = cut(model, Cut(key, name, rank))
    found = spectra.spectra(model, made, has_data=False)
    assert found["spectra_reason"] is None
    for row, values, own in zip(found["spectra"], method.spectrum(op), rank, strict=True):
        places, relative = (np.array(part) for part in zip(*row["points"], strict=True))
        assert len(places) <= spectra.POINTS
        assert (places[0], places[-1], row["size"], row["known"]) == (1, len(values), len(values), len(values))
        assert min(own, len(values)) in places
        np.testing.assert_allclose(relative, values[places.astype(int) - 1] / values[0], rtol=1e-5)  # Six digits.
        assert row["kept"] == pytest.approx(1 - tail_energy(values, own) / tail_energy(values, 0), rel=1e-5)
        if own > 1 and row["kept"] < 1:
            assert rank_holding(values, row["kept"] - 1e-4) <= own


def test_layers_that_share_factors_have_one_spectrum_of_both(tmp_path: Path) -> None:
    model = network(tmp_path)
    (made,) = cut(model, Cut("a", "svd", (10,), others=("b",)))
    both = np.concatenate([weight_op(model, key).weight for key in ("a", "b")])
    (row,) = spectra.spectra(model, made, has_data=False)["spectra"]
    values = np.linalg.svd(both.astype(np.float64), compute_uv=False)
    assert row["size"] == 100
    assert row["points"][-1][1] == pytest.approx(values[-1] / values[0], rel=1e-5)


@pytest.mark.parametrize(
    ("groups", "chosen"),
    [(1, Cut("a", "svd", (9,))), (1, Cut("conv", "svd-spatial", (7,))), (2, Cut("conv", "svd-channel", (4,)))],
)
def test_of_a_large_weight_the_values_that_the_cut_found_are_told(
    groups: int, chosen: Cut, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = network(tmp_path, groups)
    (made,) = cut(model, chosen)
    (whole,) = spectra.spectra(model, made, has_data=False)["spectra"]
    monkeypatch.setattr(spectra, "WORK", 0)
    found = spectra.spectra(model, made, has_data=False)
    (row,) = found["spectra"]
    assert row["known"] == chosen.rank[0] < row["size"] == whole["size"]
    assert row["kept"] == pytest.approx(whole["kept"], rel=1e-5)
    (values,) = METHODS[chosen.method].spectrum(weight_op(model, chosen.key))
    # Factors are float32: their rounding moves a norm by less than its eps times the root of 1200.
    assert all(value == pytest.approx(values[i - 1] / values[0], rel=5e-6) for i, value in row["points"])
    assert "only those that the cut found are known" in found["spectra_reason"]
    fitted = spectra.spectra(model, made, has_data=True)
    assert fitted["spectra"] == []
    assert "takes too long to look at whole" in fitted["spectra_reason"]


def test_a_zero_weight_has_a_spectrum_of_zeros(tmp_path: Path) -> None:
    blobs = {"conv": conv_blobs(12, 8, 3, 3), "a": [np.zeros((80, 1200), np.float32)], "b": dense_blobs(20, 1200)}
    text = NET.replace("GROUPS", "1").replace("num_output: 80", "num_output: 80 bias_term: false")
    model = formats.load(write_net(tmp_path, text, blobs))
    (made,) = cut(model, Cut("a", "svd", (3,)))
    (row,) = spectra.spectra(model, made, has_data=False)["spectra"]
    assert {value for _, value in row["points"]} == {0.0}


def test_a_plan_by_energy_keeps_what_the_spectrum_says(tmp_path: Path) -> None:
    model = network(tmp_path)
    _, plan = make_plan(model, Request((parse_selector("a=svd"),), amount=Amount(energy=0.8), force=True))
    (made,) = cut(model, *plan.cuts)
    (row,) = spectra.spectra(model, made, has_data=False)["spectra"]
    assert row["kept"] >= 0.8 - 1e-6
