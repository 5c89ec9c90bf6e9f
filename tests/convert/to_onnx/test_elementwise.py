"""Activations, powers and sums in ONNX: Caffe's own constants, bases and in-place rules."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from surgery import formats
from surgery.convert.to_onnx import to_onnx
from surgery.errors import ConversionError
from surgery.model import Shape
from surgery.runtime import Array
from tests.convert.to_onnx.nets import (
    Net,
    Results,
    compare,
    converted,
    inputs,
    layer,
    operators,
    positive,
    run,
    single,
    write,
)

PLANE = (2, 3, 4, 5)


def wide(rng: np.random.Generator, shape: Shape) -> Array:
    """Numbers at which exp and log differ from their lines, both zeros among them."""
    values = (10 * rng.standard_normal(shape)).astype(np.float32)
    values.reshape(-1)[:2] = 0.0, -0.0
    return values


# What one layer computes of one blob: name -> (type, parameters)
FUNCTIONS = {
    "AbsVal": ("AbsVal", ""),
    "BNLL": ("BNLL", ""),
    "Dropout": ("Dropout", "dropout_param { dropout_ratio: 0.3 }"),
    "ELU": ("ELU", ""),
    "ELU, alpha": ("ELU", "elu_param { alpha: 0.3 }"),
    "ELU, alpha 0": ("ELU", "elu_param { alpha: 0 }"),
    "ELU, alpha below 0": ("ELU", "elu_param { alpha: -1.5 }"),
    "Exp": ("Exp", "exp_param { scale: 0.1 }"),
    "Exp, base 2": ("Exp", "exp_param { base: 2 scale: 0.5 shift: -1.5 }"),
    "Exp, base 1": ("Exp", "exp_param { base: 1 shift: 3 }"),
    "Exp, base below 1": ("Exp", "exp_param { base: 0.25 shift: 2 scale: -0.1 }"),
    "Exp, shift": ("Exp", "exp_param { scale: 0.2 shift: 0.7 }"),
    "Exp, scale 0": ("Exp", "exp_param { base: 3 scale: 0 shift: 2 }"),
    "Power": ("Power", ""),
    "Power, line": ("Power", "power_param { scale: -2.5 shift: 0.3 }"),
    "Power, square": ("Power", "power_param { power: 2 scale: 0.1 shift: 1 }"),
    "Power, cube": ("Power", "power_param { power: 3 scale: 0.1 }"),
    "Power, fraction of negative numbers": ("Power", "power_param { power: 1.5 }"),
    "Power, inverse": ("Power", "power_param { power: -1 shift: 0.1 }"),
    "Power, 0": ("Power", "power_param { power: 0 scale: 3 shift: 2 }"),
    "Power, 0 of 0": ("Power", "power_param { power: 0 scale: 0 shift: 0 }"),
    "Power, scale 0": ("Power", "power_param { power: 2 scale: 0 shift: 1.5 }"),
    "Power, scale 0, no number": ("Power", "power_param { power: 0.5 scale: 0 shift: -1 }"),
    "Power, so small that it is 0": ("Power", "power_param { power: 1e-30 scale: 1e-30 shift: 2 }"),
    "ReLU": ("ReLU", ""),
    "ReLU, slope": ("ReLU", "relu_param { negative_slope: 0.1 }"),
    "ReLU, slope below 0": ("ReLU", "relu_param { negative_slope: -0.7 }"),
    "Sigmoid": ("Sigmoid", ""),
    "Softmax": ("Softmax", ""),
    "Softmax, axis 0": ("Softmax", "softmax_param { axis: 0 }"),
    "Softmax, axis 2": ("Softmax", "softmax_param { axis: 2 }"),
    "Softmax, from the end": ("Softmax", "softmax_param { axis: -1 }"),
    "TanH": ("TanH", ""),
    "Threshold": ("Threshold", ""),
    "Threshold, higher": ("Threshold", "threshold_param { threshold: 1.5 }"),
}
LOGARITHMS = {
    "Log": "",
    "Log, base 10": "base: 10",
    "Log, base below 1": "base: 0.5 scale: 2",
    "Log, scale and shift": "base: 3 scale: 2 shift: 0.5",
    "Log, of negative numbers": "shift: -1",
}
NETS = (
    {name: single(kind, param, PLANE, values={"x0": wide}) for name, (kind, param) in FUNCTIONS.items()}
    | {
        f"{name}, in place": Net(
            layer("Power", "x0", "y", "power_param { shift: 0.1 }", "first") + layer(kind, "y", "y", param), [PLANE]
        )
        for name, (kind, param) in FUNCTIONS.items()
        if kind != "AbsVal"
    }
    | {
        name: single("Log", f"log_param {{ {param} }}", PLANE, values={"x0": positive})
        for name, param in LOGARITHMS.items()
    }
    | {
        f"{kind}, {len(shape)} axes": single(kind, "softmax_param { axis: 0 }" if kind == "Softmax" else "", shape)
        for kind in ("BNLL", "Power", "ReLU", "Softmax", "Threshold")
        for shape in ((5,), (2, 3), (2, 1, 3, 2, 2, 3))
    }
    | {
        f"Eltwise, {name}": single("Eltwise", f"eltwise_param {{ {param} }}", *[PLANE] * count)
        for name, (param, count) in {
            "default": ("", 2),
            "four": ("operation: SUM", 4),
            "weighted": ("coeff: 0.5 coeff: -1 coeff: 2", 3),
            "difference": ("coeff: 1 coeff: -1", 2),
            "difference the other way": ("coeff: -1 coeff: 1", 2),
            "without the first": ("coeff: 0 coeff: 1", 2),
            "product": ("operation: PROD", 2),
            "product of four": ("operation: PROD", 4),
            "maximum": ("operation: MAX", 2),
            "maximum of three": ("operation: MAX", 3),
            "by number": ("operation: 2", 2),
            "maximum with coefficients, which count for nothing": ("operation: MAX coeff: 3 coeff: -2", 2),
        }.items()
    }
    | {
        f"Eltwise {operation} over its first bottom{' of three' if more else ''}": Net(
            layer("Power", "x0", "y", "power_param { scale: 2 }", "first")
            + layer("Eltwise", f"y x1{more}", "y", f"eltwise_param {{ operation: {operation} {factors} }}"),
            [PLANE] * (3 if more else 2),
        )
        for operation, factors in (("SUM", ""), ("SUM", "coeff: 3 coeff: 2"), ("PROD", ""), ("MAX", ""))
        for more in ("", " x2")
        if not (factors and more)
    }
    | {
        f"Eltwise {operation} over all that it reads": Net(
            layer("Split", "x0", "a b", name="split")
            + layer("Eltwise", "a b", "a", f"eltwise_param {{ {operation} }}"),
            [PLANE],
        )
        for operation in ("operation: SUM", "operation: PROD", "operation: MAX")
    }
    | {"Eltwise, a blob and itself": Net(layer("Eltwise", "x0 x0", "y"), [PLANE])}
)
# exp and log of two libraries differ in the last place, which base^shift and the like scale up.
TOLERANCE = 2e-6

# Types that came after Caffe 1.0, with what they compute: parameters, formula.
LATER: dict[str, tuple[str, str, Callable[[Array], Array]]] = {
    "Clip": ("Clip", "clip_param { min: -0.5 max: 2 }", lambda x: np.clip(x, -0.5, 2)),
    "Clip, nothing between": ("Clip", "clip_param { min: 1 max: 1 }", np.ones_like),
    "Clip, the wrong way round": ("Clip", "clip_param { min: 2 max: -1 }", lambda x: np.full_like(x, 2)),
    "Swish": ("Swish", "", lambda x: x / (1 + np.exp(-x))),
    "Swish, beta": ("Swish", "swish_param { beta: -0.3 }", lambda x: x / (1 + np.exp(0.3 * x))),
    "Swish, beta 0": ("Swish", "swish_param { beta: 0 }", lambda x: x / 2),
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return compare(NETS, tmp_path_factory.mktemp("nets"))


@pytest.mark.parametrize("name", NETS)
def test_a_function_computes_what_caffe_computes(results: Results, name: str) -> None:
    assert results[name].error <= TOLERANCE
    assert results[f"{name} (dynamic)"].error <= TOLERANCE


@pytest.mark.parametrize("name", LATER)
def test_a_function_that_came_after_caffe_1_0_computes_its_formula(name: str, tmp_path: Path) -> None:
    kind, param, formula = LATER[name]
    net = single(kind, param, PLANE)
    np.testing.assert_allclose(run(net, tmp_path)["y0"], formula(inputs(net)["x0"]), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Dropout", ["Identity"]),
        ("Power", ["Identity"]),
        ("Power, line", ["Mul", "Add"]),
        ("Power, inverse", ["Add", "Pow"]),
        ("Power, 0", ["ConstantOfShape"]),
        ("Log", ["Log"]),
        ("Log, base 10", ["Log", "Mul"]),
        ("Exp, base 1", ["Mul", "Exp"]),
        ("Threshold", ["Greater", "Cast"]),
        ("Eltwise, difference", ["Sub"]),
        ("Eltwise, default", ["Add"]),
        ("Eltwise, four", ["Sum"]),
        ("Eltwise, maximum of three", ["Max"]),
        ("Eltwise, product of four", ["Mul", "Mul", "Mul"]),
    ],
)
def test_it_takes_no_more_operators_than_it_must(name: str, expected: list[str], tmp_path: Path) -> None:
    assert operators(NETS[name], tmp_path) == expected


def test_numbers_too_large_for_float32_are_infinite(tmp_path: Path) -> None:
    """As protobuf reads them for Caffe."""
    net = single("Power", "power_param { shift: 1e50 }", (2, 3))
    assert np.all(run(net, tmp_path / "shift")["y0"] == np.inf)
    net = single(
        "ReLU",
        "relu_param { negative_slope: 1e50 }",
        (2, 3),
        values={"x0": lambda rng, shape: -np.ones(shape, np.float32)},
    )
    assert np.all(run(net, tmp_path / "slope")["y0"] == -np.inf)


@pytest.mark.parametrize(
    ("net", "reason"),
    [
        (single("Log", "log_param { base: 0 }", PLANE), "base is 0; Caffe takes a number above 0"),
        (single("Exp", "exp_param { base: -2 }", PLANE), "base is -2; Caffe takes a number above 0"),
        (single("Log", "log_param { base: 1 }", PLANE), "base is 1, to which no number has a logarithm"),
        (single("Clip", "clip_param { min: 1 }", PLANE), "clip_param has no max"),
        (single("Dropout", "phase: TRAIN", PLANE), "drops at random in phase TRAIN"),
        (single("Dropout", "dropout_param { scale_train: false }", PLANE), "fork's field scale_train"),
        (single("AbsVal", "", PLANE, tops=0), "0 tops; expected 1"),
        (Net(layer("AbsVal", "x0", "x0"), [PLANE]), "AbsVal does not work in place"),
        (single("Eltwise", "eltwise_param { coeff: 1 }", PLANE, PLANE), "1 coeff for 2 bottoms"),
        (single("Softmax", "softmax_param { axis: 4 }", PLANE), "axis 4 is outside the input"),
    ],
)
def test_what_caffe_refuses_or_draws_at_random_is_refused(net: Net, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=reason):
        converted(net, tmp_path)


def test_phase_train_of_the_network_refuses_dropout(tmp_path: Path) -> None:
    model = write(single("Dropout", "", PLANE), tmp_path)
    model = formats.load(model.native.files, phase="TRAIN")
    with pytest.raises(ConversionError, match="convert phase TEST"):
        to_onnx(model)
