"""A comparison never calls equal what is not: infinities, NaN, constants, inputs that nothing reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from surgery.cli import main
from surgery.verify import compare
from tests.cli.hostile_onnx import INT64, floats, model, node
from tests.engines import require_onnxruntime

INF, NAN = float("inf"), float("nan")
SAME = {
    "finite": ([1.0, 2.0], [1.0, 2.0]),
    "infinity": ([INF, 2.0], [INF, 2.0]),
    "NaN": ([NAN, 2.0], [NAN, 2.0]),
    "nothing but NaN": ([NAN, NAN], [NAN, NAN]),
}
OTHER = {
    "beside infinity": ([INF, 1.0], [INF, 2.0]),
    "beside NaN": ([NAN, 1.0], [NAN, 2.0]),
    "of sign": ([INF, 1.0], [-INF, 1.0]),
    "finite and infinite": ([3e38, 1.0], [INF, 1.0]),
    "infinite and NaN": ([INF, 1.0], [NAN, 1.0]),
    "zero and NaN": ([0.0, 1.0], [NAN, 1.0]),
    "zero and one": ([0.0, 0.0], [0.0, 1.0]),
    "beside a large number": ([1e30, 1e30], [1e30, 1.001e30]),
}


def rel_l2(first: list[float], second: list[float]) -> float:
    blobs = [[{"y": np.array([values], np.float32)}] for values in (first, second)]
    (found,) = compare(*blobs, ["y"])
    return found.rel_l2


@pytest.mark.parametrize("name", SAME)
def test_what_is_the_same_is_equal(name: str) -> None:
    assert rel_l2(*SAME[name]) == 0


@pytest.mark.parametrize("name", OTHER)
def test_what_differs_is_not_equal(name: str) -> None:
    assert rel_l2(*OTHER[name]) > 1e-4


def test_an_infinity_in_one_sample_hides_nothing_in_another() -> None:
    first = [{"y": np.array([[1.0]])}, {"y": np.array([[INF]])}]
    second = [{"y": np.array([[2.0]])}, {"y": np.array([[INF]])}]
    assert compare(first, second, ["y"])[0].rel_l2 == 1


HALF, ZERO = floats("h", 0.5), floats("z", 0.0)
DOUBLED = model([node("Add", "x x", "y")])
FILES = {
    "doubled": DOUBLED,
    "as integers": model([node("Add", "x x", "i"), node("Cast", "i", "y", to=1)], kind=INT64),
    "overflowing": model([node("Mul", "x h", "a"), node("Exp", "a", "b"), node("Div", "b z", "y")], [HALF, ZERO]),
    "overflowing otherwise": model([node("Exp", "x", "b"), node("Div", "b z", "y")], [ZERO]),
    "constant": model([node("Mul", "x z", "y")], [ZERO]),
    "another name": model([node("Add", "in in", "out")], inputs={"in": (1, 3, 8, 8)}, outputs=["out"]),
    "another shape": model([node("Add", "x x", "y")], inputs={"x": (1, 3, 4, 8)}),
    "two inputs": model([node("Add", "x z", "y")], inputs={"x": (1, 3, 8, 8), "z": (1, 3, 8, 8)}),
    "two outputs": model([node("Add", "x x", "a"), node("Relu", "x", "b")], outputs=["a", "b"]),
    "a flat output": model([node("Add", "x x", "a"), node("Flatten", "a", "y")]),
    "a small difference": model([node("Mul", "x h", "y")], [floats("h", 2.001)]),
}


def run(verb: str, folder: Path, *names: str, more: tuple[str, ...] = ()) -> Result:
    require_onnxruntime()
    for name in names:
        (folder / f"{name}.onnx").write_bytes(FILES[name])
    return CliRunner().invoke(main, [verb, *(str(folder / f"{name}.onnx") for name in names), *more])


# The other model -> exit code of verifying against "doubled", 1 differs, 2 cannot be compared.
AGAINST_DOUBLED = {
    "doubled": 0,
    "another name": 0,
    "as integers": 2,
    "constant": 1,
    "a small difference": 1,
    "a flat output": 1,
    "another shape": 2,
    "two inputs": 2,
    "two outputs": 2,
}


@pytest.mark.parametrize("name", AGAINST_DOUBLED)
def test_models_are_equal_only_where_they_are(name: str, tmp_path: Path) -> None:
    for names in {("doubled", name), (name, "doubled")}:
        result = run("verify", tmp_path, *names)
        assert result.exit_code == AGAINST_DOUBLED[name], (names, result.output)


@pytest.mark.parametrize("name", ["constant", "overflowing", "overflowing otherwise"])
def test_outputs_that_no_input_changes_show_nothing(name: str, tmp_path: Path) -> None:
    result = run("verify", tmp_path, name, name)
    assert result.exit_code == 1
    assert "different inputs give the same outputs" in result.output


def test_models_of_different_inputs_are_timed_each_with_its_own(tmp_path: Path) -> None:
    result = run("bench", tmp_path, "doubled", "another shape", "two inputs", more=("--repeat", "1", "--warmup", "1"))
    assert result.exit_code == 0, result.output
    assert "x 1x3x4x8" in result.output
    assert "x 1x3x8x8, z 1x3x8x8" in result.output
