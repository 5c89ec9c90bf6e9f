"""Losses and Accuracy in ONNX, where the labels are inputs: what they divide by, what they ignore, how ties count."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from surgery.errors import ConversionError
from surgery.model import Shape
from surgery.runtime import Array
from tests.convert.to_onnx.nets import (
    Draw,
    Net,
    Results,
    compare,
    converted,
    distance,
    indices,
    inputs,
    layer,
    normal,
    positive,
    run,
    single,
)

CLASSES = 4


def wide(rng: np.random.Generator, shape: Shape) -> Array:
    """Scores whose smallest probabilities are below any floor."""
    return (80 * rng.standard_normal(shape)).astype(np.float32)


def steep(rng: np.random.Generator, shape: Shape) -> Array:
    """Scores of which some are all but sure."""
    return 4 * rng.standard_normal(shape, dtype=np.float32)


def few(rng: np.random.Generator, shape: Shape) -> Array:
    """Few different scores, so that many are equal."""
    return rng.integers(0, 3, shape).astype(np.float32)


def with_ignored(label: int) -> Draw:
    """Classes, about a third of them `label` instead."""

    def draw(rng: np.random.Generator, shape: Shape) -> Array:
        classes = rng.integers(0, CLASSES, shape)
        return np.where(rng.random(shape) < 1 / 3, label, classes).astype(np.float32)

    return draw


def only(number: float) -> Draw:
    return lambda rng, shape: np.full(shape, number, np.float32)


def fractions(rng: np.random.Generator, shape: Shape) -> Array:
    """Targets between 0 and 2, whole ones among them; Caffe takes the whole part where it looks for `ignore_label`."""
    return rng.choice(np.array([0, 0.25, 0.5, 1, 1.5], np.float32), shape)


# How the class scores of SoftmaxWithLoss and Accuracy may lie: the axis, shapes of scores and labels.
PLACES: dict[str, tuple[int, Shape, Shape]] = {
    "items": (1, (5, CLASSES), (5,)),
    "items, labels of 4 axes": (1, (5, CLASSES), (5, 1, 1, 1)),
    "planes": (1, (3, CLASSES, 2, 3), (3, 1, 2, 3)),
    "planes, labels without a channel": (1, (3, CLASSES, 2, 3), (3, 2, 3)),
    "along the last axis": (-1, (3, 2, CLASSES), (3, 2)),
    "along the middle axis": (2, (3, 2, CLASSES, 5), (3, 2, 5)),
}
NORMALIZATIONS = {
    "default": "",
    "FULL": "normalization: FULL",
    "VALID": "normalization: VALID",
    "BATCH_SIZE": "normalization: BATCH_SIZE",
    "NONE": "normalization: NONE",
    "by number": "normalization: 2",
    "not normalized": "normalize: false",
    "normalized": "normalize: true",
    "both fields": "normalize: false normalization: FULL",
}


def judged(kind: str, param: str, scores: Shape, labels: Shape, draw: Draw, tops: int = 1, x0: Draw = normal) -> Net:
    return single(kind, param, scores, labels, tops=tops, values={"x0": x0, "x1": draw})


CLASS = indices(CLASSES)
NETS = (
    {
        f"Accuracy, {name}": judged("Accuracy", f"accuracy_param {{ axis: {axis} }}", scores, labels, CLASS)
        for name, (axis, scores, labels) in PLACES.items()
    }
    | {
        f"Accuracy, {name}": judged("Accuracy", f"accuracy_param {{ {param} }}", scores, labels, draw, tops)
        for name, param, scores, labels, draw, tops in (
            ("top 2", "top_k: 2", (9, CLASSES), (9,), CLASS, 1),
            ("top 3 of planes", "top_k: 3", (3, CLASSES, 2, 3), (3, 2, 3), CLASS, 1),
            ("by class", "", (9, CLASSES), (9,), CLASS, 2),
            ("by class, top 2", "top_k: 2", (3, CLASSES, 2, 3), (3, 2, 3), CLASS, 2),
            ("by class, one that is not there", "", (9, CLASSES), (9,), indices(2), 2),
            ("one class ignored", "ignore_label: 1", (9, CLASSES), (9,), CLASS, 1),
            ("a label that is none ignored", "ignore_label: 255", (9, CLASSES), (9,), with_ignored(255), 1),
            ("a label below 0 ignored, by class", "ignore_label: -1", (9, CLASSES), (9,), with_ignored(-1), 2),
        )
    }
    | {
        f"SoftmaxWithLoss, {name}": judged(
            "SoftmaxWithLoss", f"softmax_param {{ axis: {axis} }}", scores, labels, CLASS, x0=wide
        )
        for name, (axis, scores, labels) in PLACES.items()
    }
    | {
        f"SoftmaxWithLoss, {name}, {ignored or 'all count'}": judged(
            "SoftmaxWithLoss",
            f"loss_param {{ {param} {ignored} }}",
            (3, CLASSES, 2, 3),
            (3, 2, 3),
            with_ignored(255 if ignored else 0),
        )
        for name, param in NORMALIZATIONS.items()
        for ignored in ("", "ignore_label: 255")
    }
    | {
        "SoftmaxWithLoss, all ignored": single(
            "SoftmaxWithLoss", "loss_param { ignore_label: 1 }", (5, CLASSES), (5,), values={"x1": only(1)}
        ),
        "SigmoidCrossEntropyLoss": single(
            "SigmoidCrossEntropyLoss", "", (3, 2, 4), (3, 8), values={"x0": steep, "x1": fractions}
        ),
        "SigmoidCrossEntropyLoss, sure and right": single(
            "SigmoidCrossEntropyLoss", "", (3, 4), (3, 4), values={"x0": only(9), "x1": only(1)}
        ),
        "SigmoidCrossEntropyLoss, sure and wrong": single(
            "SigmoidCrossEntropyLoss", "", (3, 4), (3, 4), values={"x0": only(-200), "x1": only(1)}
        ),
    }
    | {
        f"EuclideanLoss, {name}": single("EuclideanLoss", param, *shapes)
        for name, (param, shapes) in {
            "matrices": ("", ((3, 5), (3, 5))),
            "planes": ("", ((3, 2, 4, 5), (3, 2, 4, 5))),
            "other axes": ("", ((3, 2, 4), (3, 8, 1, 1))),
            "vectors": ("", ((6,), (6,))),
            "weighted": ("loss_weight: 3", ((3, 5), (3, 5))),
        }.items()
    }
    | {
        f"HingeLoss, {norm}, {len(scores)} axes": judged(
            "HingeLoss", f"hinge_loss_param {{ norm: {norm} }}", scores, labels, CLASS
        )
        for norm in ("L1", "L2")
        for scores, labels in (((5, CLASSES), (5,)), ((5, CLASSES, 2, 3), (5, 1, 1, 1)))
    }
    | {
        "HingeLoss, more labels than items": single(
            "HingeLoss", "", (5, CLASSES), (5, 2), values={"x1": CLASS}, batch=False
        ),
    }
    | {
        # Of another batch than the one that it was set up with Caffe writes past its buffers.
        f"ContrastiveLoss, {param}": single(
            "ContrastiveLoss", f"contrastive_loss_param {{ {param} }}", *shapes, values={"x2": fractions}, batch=False
        )
        for param, shapes in (
            ("", ((6, 3), (6, 3), (6,))),
            ("margin: 3", ((6, 3, 1, 1), (6, 3, 1, 1), (6, 1, 1, 1))),
            ("margin: 8 legacy_version: true", ((6, 3), (6, 3), (6,))),
        )
    }
    | {
        f"MultinomialLogisticLoss, {name}": judged("MultinomialLogisticLoss", "", scores, labels, CLASS, x0=draw)
        for name, scores, labels, draw in (
            ("items", (5, CLASSES), (5,), positive),
            ("4 axes", (5, 2, 1, 2), (5, 1, 1, 1), positive),
            ("nothing is likely", (5, CLASSES), (5,), only(0)),
        )
    }
)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return compare(NETS, tmp_path_factory.mktemp("nets"))


@pytest.mark.parametrize("name", NETS)
def test_a_loss_computes_what_caffe_computes(results: Results, name: str) -> None:
    # Caffe adds up one number after another, and its softmax and logarithm are another library's.
    assert results[name].error <= 2e-6
    assert not NETS[name].batch or results[f"{name} (dynamic)"].error <= 2e-6


def softmax(scores: Array, axis: int) -> Array:
    powers = np.exp(scores.astype(np.float64) - scores.max(axis, keepdims=True))
    return np.asarray(powers / powers.sum(axis, keepdims=True))


# What follows came with Caffe's master branch, so it is held against its formulas.


@pytest.mark.parametrize(("top_k", "ignored"), [(1, None), (2, None), (2, 1), (1, 255)])
def test_scores_as_large_as_the_labels_count_against_it(top_k: int, ignored: int | None, tmp_path: Path) -> None:
    param = f"top_k: {top_k} {'' if ignored is None else f'ignore_label: {ignored}'}"
    draw = CLASS if ignored is None else with_ignored(ignored)
    net = single(
        "Accuracy",
        f"accuracy_param {{ {param} }}",
        (40, CLASSES),
        (40,),
        tops=2,
        values={"x0": few, "x1": draw},
    )
    values = inputs(net)
    scores, labels = values["x0"], values["x1"].astype(int)
    counts = labels != ignored
    scores, labels = scores[counts], labels[counts]
    own = scores[np.arange(len(labels)), labels]
    hits = (scores >= own[:, None]).sum(1) <= top_k
    found = run(net, tmp_path)
    assert 0 < hits.mean() < 1
    np.testing.assert_allclose(found["y0"], hits.mean(), rtol=1e-6)
    by_class = [hits[labels == c].mean() if np.any(labels == c) else 0 for c in range(CLASSES)]
    np.testing.assert_allclose(found["y1"], by_class, rtol=1e-6)


def test_accuracy_is_0_where_all_labels_are_ignored(tmp_path: Path) -> None:
    param = "accuracy_param { ignore_label: 255 }"
    net = single("Accuracy", param, (5, CLASSES), (5,), tops=2, values={"x1": only(255)})
    found = run(net, tmp_path)
    assert found["y0"] == 0
    assert not found["y1"].any()


# What the sum is divided by, of 3 items of 8 targets of which `counted` count.
DIVISORS: dict[str, Callable[[int], float]] = {
    "default": lambda counted: 3,
    "FULL": lambda counted: 24,
    "VALID": lambda counted: counted,
    "BATCH_SIZE": lambda counted: 3,
    "NONE": lambda counted: 1,
    "by number": lambda counted: 3,
    "not normalized": lambda counted: 3,
    "normalized": lambda counted: counted,
    "both fields": lambda counted: 24,
}


@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_targets_are_ignored_by_their_whole_part_and_the_rest_is_normalized(
    name: str, ignored: bool, tmp_path: Path
) -> None:
    param = f"loss_param {{ {NORMALIZATIONS[name]} {'ignore_label: 0' if ignored else ''} }}"
    net = single("SigmoidCrossEntropyLoss", param, (3, 2, 4), (3, 8), values={"x0": steep, "x1": fractions})
    values = inputs(net)
    x, t = values["x0"].reshape(-1).astype(np.float64), values["x1"].reshape(-1)
    losses = np.logaddexp(0, x) - x * t
    counts = t.astype(int) != 0 if ignored else np.ones(24, bool)
    expected = losses[counts].sum() / DIVISORS[name](int(counts.sum()))
    np.testing.assert_allclose(run(net, tmp_path)["y0"], expected, rtol=1e-6)


# name -> (parameters, shapes of scores and labels, the axis of the classes, scores, what is ignored)
INFOGAIN: dict[str, tuple[str, Shape, Shape, int, Draw, int | None]] = {
    "items": ("", (5, CLASSES), (5,), 1, normal, None),
    "sure": ("", (5, CLASSES), (5,), 1, wide, None),
    "planes": ("", (3, CLASSES, 2, 3), (3, 1, 2, 3), 1, normal, None),
    "last axis": ("infogain_loss_param { axis: -1 }", (3, 2, CLASSES), (3, 2), 2, normal, None),
    "ignored": ("loss_param { ignore_label: 9 }", (7, CLASSES), (7,), 1, normal, 9),
}


@pytest.mark.parametrize("shape", [(1, 1, CLASSES, CLASSES), (CLASSES, CLASSES)])
@pytest.mark.parametrize("name", INFOGAIN)
def test_infogain_weights_every_class_by_the_labels_row(name: str, shape: Shape, tmp_path: Path) -> None:
    param, scores, labels, axis, draw, ignored = INFOGAIN[name]
    classes = CLASS if ignored is None else with_ignored(ignored)
    net = single("InfogainLoss", param, scores, labels, shape, tops=1, values={"x0": draw, "x1": classes})
    values = inputs(net)
    matrix, own = values["x2"].reshape(CLASSES, CLASSES), values["x1"].reshape(-1).astype(int)
    logs = np.log(np.maximum(softmax(values["x0"], axis), 1e-20))
    logs = np.moveaxis(logs, axis, -1).reshape(-1, CLASSES)
    counts = own != ignored
    expected = -(matrix[own[counts]] * logs[counts]).sum() / counts.sum()
    np.testing.assert_allclose(run(net, tmp_path)["y0"], expected, rtol=1e-5)


def test_a_second_top_of_a_loss_is_the_probability(tmp_path: Path) -> None:
    """Caffe 1.0 cannot set one up; forks and what came before it can."""
    net = judged("SoftmaxWithLoss", "", (3, CLASSES, 2, 2), (3, 2, 2), CLASS, tops=2)
    assert distance(run(net, tmp_path)["y1"], softmax(inputs(net)["x0"], 1)) <= 1e-6


def test_a_loss_without_a_top_computes_nothing(tmp_path: Path) -> None:
    text = layer("Softmax", "x0", "y", name="head") + layer("SoftmaxWithLoss", "x0 x1", "", name="loss")
    net = Net(text, [(3, CLASSES), (3,)], {"x1": CLASS})
    conversion = converted(net, tmp_path).conversion
    assert [(operator.layer, operator.type) for operator in conversion.operators] == [("head", "Softmax")]


@pytest.mark.parametrize(
    ("net", "reason"),
    [
        (judged("InfogainLoss", 'infogain_loss_param { source: "h.bin" }', (3, 4), (3,), CLASS), "'h.bin'; feed it as"),
        (single("InfogainLoss", "", (3, 4), (3,), (4, 3)), "bottom 2 has 12 numbers; expected 4 x 4"),
        (
            judged("SoftmaxWithLoss", "loss_param { label_smoothing: 1 }", (3, 4), (3,), CLASS),
            "field label_smoothing",
        ),
        (judged("SoftmaxWithLoss", "loss_param { normalization: PRE_FIXED }", (3, 4), (3,), CLASS), "PRE_FIXED"),
        (judged("SoftmaxWithLoss", "", (3, 4), (4,), CLASS), "expected the same first axis"),
    ],
)
def test_what_is_not_told_by_the_files_is_refused(net: Net, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=reason):
        converted(net, tmp_path)


def test_an_average_over_the_batch_holds_for_every_batch(tmp_path: Path) -> None:
    conversion = converted(NETS["SoftmaxWithLoss, BATCH_SIZE, all count"], tmp_path, dynamic=True).conversion
    types = [operator.type for operator in conversion.operators]
    assert types[-2:] == ["ReduceSum", "ReduceMean"]
