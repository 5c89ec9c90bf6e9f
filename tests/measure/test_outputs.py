from __future__ import annotations

import numpy as np
import pytest

from surgery.choose.tables import Probe
from surgery.errors import PlanError
from surgery.measure.outputs import Outputs, compared, probe

# Sums over some hundred numbers, in float64.
CLOSE = {"rel": 1e-12}


def scores(count: int, seed: int) -> np.ndarray:
    return 3 * np.random.default_rng(seed).standard_normal((count, 5)).astype("f")


def probed(original: Outputs, cut: Outputs, labels: np.ndarray | None = None) -> Probe:
    return probe(0.5, [compared(original, cut, len(next(iter(original.values()))), labels)])


def test_equal_outputs_have_lost_nothing() -> None:
    x = {"y": scores(7, 0)}
    assert probed(x, x, np.zeros(7, np.int64)) == Probe(0.5, 0.0, 0.0, 1.0, *[np.mean(x["y"].argmax(axis=1) == 0)] * 2)


def test_every_number_is_what_its_definition_says() -> None:
    wanted, made, labels = scores(40, 0), scores(40, 1), np.arange(40) % 5
    p, q = (np.exp(x.astype(float)) / np.exp(x.astype(float)).sum(axis=1, keepdims=True) for x in (wanted, made))
    found = probed({"y": wanted}, {"y": made}, labels)
    assert found.output == pytest.approx(
        np.sum((wanted.astype(float) - made) ** 2) / np.sum(wanted.astype(float) ** 2), **CLOSE
    )
    assert found.divergence == pytest.approx(np.mean(np.sum(p * np.log(p / q), axis=1)), **CLOSE)
    assert found.agreement == np.mean(p.argmax(axis=1) == q.argmax(axis=1))
    assert (found.accuracy, found.original) == (
        np.mean(q.argmax(axis=1) == labels),
        np.mean(p.argmax(axis=1) == labels),
    )


def test_batches_add_up_to_the_whole() -> None:
    wanted, made, labels = scores(10, 0), scores(10, 1), np.arange(10) % 5
    parts = [slice(0, 4), slice(4, 8), slice(8, 10)]
    tallies = [
        compared({"y": wanted[part]}, {"y": made[part]}, len(wanted[part]), labels[part].astype(np.int64))
        for part in parts
    ]
    whole, added = probed({"y": wanted}, {"y": made}, labels), probe(0.5, tallies)
    assert (added.agreement, added.accuracy, added.original) == (whole.agreement, whole.accuracy, whole.original)
    assert (added.output, added.divergence) == pytest.approx((whole.output, whole.divergence), **CLOSE)


def test_a_divergence_stays_finite_for_scores_of_any_size() -> None:
    sure = np.array([[1e30, 0.0], [0.0, 1e4]])
    assert probed({"y": sure}, {"y": sure}).divergence == 0
    assert probed({"y": np.array([[1e4, 0.0]])}, {"y": np.array([[0.0, 1e4]])}).divergence == pytest.approx(1e4)


@pytest.mark.parametrize("shape", [(3, 1), (3, 4, 2, 2), (3,), (6, 5)])
def test_only_one_row_of_scores_for_each_image_has_classes(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).standard_normal(shape)
    found = probe(0.5, [compared({"y": x}, {"y": 2 * x}, 3)])
    assert found == Probe(0.5, pytest.approx(1.0))
    with pytest.raises(PlanError, match="labels need one output with one row of scores"):
        compared({"y": x}, {"y": x}, 3, np.zeros(3, np.int64))


@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 1, 1), (3, 1, 5)])
def test_a_row_of_scores_may_have_axes_of_size_one(shape: tuple[int, ...]) -> None:
    rows = scores(3, 0)
    flat = probed({"y": rows}, {"y": rows[::-1]})
    assert probed({"y": rows.reshape(shape)}, {"y": rows[::-1].reshape(shape)}) == flat


def test_outputs_count_alike_whatever_their_size_and_classes_only_where_there_is_one() -> None:
    x = scores(3, 0)
    found = probed({"a": x, "b": 1000 * x}, {"a": 1.5 * x, "b": 1000 * x})
    assert found == Probe(0.5, pytest.approx(0.125))
    assert probed({"a": 0 * x}, {"a": 0 * x + 1}).output == x.size


def test_outputs_that_cannot_be_compared_are_told_in_one_line() -> None:
    x = scores(3, 0)
    with pytest.raises(PlanError, match=r"'y' is \(2, 5\) where the original's is \(3, 5\)"):
        compared({"y": x}, {"y": x[:2]}, 3)
    with pytest.raises(PlanError, match="'y' of the cut network holds NaN"):
        compared({"y": x}, {"y": x * np.nan}, 3)
    with pytest.raises(PlanError, match="'y' of the original network holds NaN or infinity"):
        compared({"y": x + np.inf}, {"y": x}, 3)
    with pytest.raises(PlanError, match="a label is 5; the network has 5 classes, counted from 0"):
        compared({"y": x}, {"y": x}, 3, np.array([0, 5, 1]))
