"""Every operator of the table computes what ONNX Runtime computes, in each spelling that an opset gave it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from surgery import formats
from surgery.convert.to_onnx import to_onnx
from surgery.errors import EngineError, ModelError
from surgery.runtime import Job
from tests.conformance.test_golden_onnx import distance
from tests.engines import require_onnxruntime
from tests.onnx_nets import node, tiny
from tests.runtime.golden import golden_cases
from tests.tune.extra import require_torch

require_torch()

import torch  # noqa: E402

from surgery.tune.network import Network  # noqa: E402
from surgery.tune.operators import OPERATORS  # noqa: E402

CLOSE = 1e-5  # relative L2; float32 sums of a few hundred terms in another order

Numbers = list[int] | list[float]


@dataclass(frozen=True)
class Case:
    """An operator on random numbers of these shapes; `constants` are its further inputs, None one left out."""

    type: str
    shapes: tuple[tuple[int, ...], ...] = ((2, 3, 5, 6),)
    constants: tuple[Any, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    opset: int = 13
    outputs: int = 1
    is_positive: bool = False

    def __str__(self) -> str:
        spelt = "-".join(f"{name}={value}" for name, value in self.attributes.items())
        return f"{self.type}{self.opset}{'-' if spelt else ''}{spelt}{len(self.constants) or ''}"


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def reals(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


PAIR = ((2, 3, 4), (3, 1))
ONE = {"Sin", "Cos", "Abs", "Ceil", "Floor", "Neg", "Exp", "Erf", "Sigmoid", "Sign", "Softplus", "Softsign", "Tanh"}
ONE |= {"Round", "Identity", "Relu", "Elu", "Selu", "LeakyRelu", "HardSigmoid", "Reciprocal", "GlobalMaxPool"}
REDUCTIONS = ("L1", "L2", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")

CASES = [
    *(Case(kind) for kind in sorted(ONE)),
    *(Case(kind, is_positive=True) for kind in ("Log", "Sqrt")),
    *(Case(kind, PAIR) for kind in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Mean", "Sum")),
    *(Case(f"Reduce{kind}", constants=(), attributes={"axes": [1, -1]}, opset=11) for kind in REDUCTIONS),
    *(Case(f"Reduce{kind}", constants=(ints(2),), attributes={"keepdims": 0}, opset=18) for kind in REDUCTIONS),
    Case("ReduceSum", constants=(ints(),), attributes={"noop_with_empty_axes": 1}),
    Case("ReduceMean", opset=18),
    Case("Pow", is_positive=True, constants=(reals(1.5),)),
    Case("HardSwish", opset=14),
    Case("Gelu", opset=20),
    Case("Gelu", opset=20, attributes={"approximate": "tanh"}),
    Case("MatMul", ((2, 3, 4), (4, 5))),
    Case("Gemm", ((4, 3), (5, 4)), (reals(1, 2, 3, 4, 5),), {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0}),
    Case("Gemm", ((3, 4), (4, 5))),
    Case("PRelu", ((2, 3, 4, 4), (3, 1, 1))),
    Case("Clip", constants=(reals(-0.5).reshape(()), reals(0.5).reshape(()))),
    Case("Clip", constants=(None, reals(0.5).reshape(()))),
    Case("Clip", attributes={"min": -0.3}, opset=6),
    Case("Softmax", attributes={"axis": 2}),
    Case("Softmax", attributes={"axis": 2}, opset=11),
    Case("LogSoftmax", attributes={"axis": 1}),
    Case("LayerNormalization", ((2, 3, 8), (3, 8), (3, 8)), attributes={"axis": 1}, opset=17),
    Case("InstanceNormalization", ((2, 3, 5, 5), (3,), (3,))),
    Case("LRN", ((2, 7, 3, 3),), attributes={"size": 5, "alpha": 0.5, "beta": 0.6, "bias": 2.0}),
    Case("Dropout", opset=12),
    Case("Dropout", opset=7, attributes={"ratio": 0.4}),
    Case("Conv", ((2, 4, 7, 8), (6, 2, 3, 3), (6,)), (), {"group": 2, "pads": [1, 0, 2, 1], "strides": [2, 1]}),
    Case("Conv", ((2, 4, 9), (6, 4, 3)), (), {"auto_pad": "SAME_UPPER", "strides": [2]}),
    Case("Conv", ((1, 2, 6, 7), (3, 2, 2, 2)), (), {"auto_pad": "SAME_LOWER"}),
    Case("Conv", ((1, 2, 5, 5, 5), (3, 2, 2, 2, 2)), (), {"auto_pad": "VALID", "dilations": [2, 1, 1]}),
    Case(
        "ConvTranspose", ((2, 4, 5, 6), (4, 3, 3, 2), (6,)), (), {"group": 2, "strides": [3, 2], "pads": [1, 0, 0, 1]}
    ),
    Case("ConvTranspose", ((1, 2, 4, 4), (2, 3, 3, 3)), (), {"strides": [2, 2], "output_padding": [1, 0]}),
    Case("ConvTranspose", ((1, 2, 5), (2, 3, 3)), (), {"dilations": [2], "pads": [1, 2]}),
    Case("MaxPool", ((2, 3, 8, 9),), (), {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    Case(
        "MaxPool", ((2, 3, 8, 9),), (), {"kernel_shape": [2, 3], "dilations": [2, 1], "pads": [1, 1, 0, 1]}, outputs=2
    ),
    Case("MaxPool", ((2, 3, 7),), (), {"kernel_shape": [3], "strides": [2], "auto_pad": "SAME_UPPER"}),
    Case("MaxPool", ((2, 3, 5, 5),), (), {"kernel_shape": [1, 1], "strides": [3, 3], "ceil_mode": 1}, opset=19),
    Case("AveragePool", ((2, 3, 8, 9),), (), {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 0, 1]}),
    Case("AveragePool", ((2, 3, 7, 7),), (), {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    Case("AveragePool", ((2, 3, 8, 8),), (), {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}, opset=19),
    Case("AveragePool", ((2, 3, 6, 6, 6),), (), {"kernel_shape": [2, 2, 2], "strides": [2, 2, 2]}),
    Case("GlobalAveragePool"),
    Case("Flatten", attributes={"axis": 2}),
    Case("Flatten", attributes={"axis": 0}),
    Case("Flatten", attributes={"axis": -1}),
    Case("Reshape", constants=(ints(0, -1, 6),)),
    Case("Transpose"),
    Case("Transpose", attributes={"perm": [0, 2, 3, 1]}),
    Case("Squeeze", ((2, 1, 3, 1),), (ints(-1),)),
    Case("Squeeze", ((2, 1, 3, 1),)),
    Case("Squeeze", ((2, 1, 3, 1),), (), {"axes": [1]}, 11),
    Case("Unsqueeze", ((2, 3),), (ints(-1, 0),)),
    Case("Unsqueeze", ((2, 3),), (), {"axes": [0, 2]}, 11),
    Case("Split", ((2, 7),), (ints(3, 4),), {"axis": 1}, outputs=2),
    Case("Split", ((2, 6),), (), {"axis": -1}, 11, outputs=3),
    Case("Split", ((7, 2),), (), {"num_outputs": 3}, 18, outputs=3),
    Case("Slice", constants=(ints(1, 0), ints(3, -1), ints(2, 3))),
    Case("Slice", constants=(ints(-1), ints(-100), ints(2), ints(-2))),
    Case("Slice", constants=(ints(4, 1), ints(0, 100), ints(3, 2), ints(-1, 2))),
    Case("Slice", attributes={"starts": [1], "ends": [100], "axes": [-1]}, opset=9),
    Case("Pad", constants=(ints(0, 0, 1, -1, 0, 0, 2, 0), reals(0.5).reshape(()))),
    Case("Pad", constants=(ints(0, 0, 2, 1, 0, 0, 1, 3),), attributes={"mode": "reflect"}),
    Case("Pad", constants=(ints(2, 1, 1, 3), None, ints(2, 3)), attributes={"mode": "edge"}, opset=18),
    Case("Pad", attributes={"pads": [0, 0, 1, 0, 0, 0, 2, 0], "value": 3.0}, opset=9),
    Case("Concat", ((2, 3), (2, 4), (2, 1)), attributes={"axis": -1}),
    Case("Gather", constants=(ints(1, -1, 0, 1).reshape(2, 2),), attributes={"axis": 1}),
    Case("GatherElements", ((2, 3),), (ints(0, -1, 1, 1, 0, 0).reshape(2, 3),), {"axis": 0}),
    Case("Expand", ((3, 1),), (ints(2, 1, 4),)),
    Case("Tile", ((2, 3),), (ints(2, 1),)),
    Case("TopK", constants=(ints(2),), attributes={"axis": 1}, outputs=2),
    Case("TopK", constants=(ints(3),), attributes={"largest": 0}, outputs=2),
    Case("ArgMax", attributes={"axis": 1}),
    Case("ArgMin", attributes={"axis": 2, "keepdims": 0, "select_last_index": 1}),
    Case("Compress", constants=(np.array([True, False, True]),), attributes={"axis": 1}),
    Case("Shape", attributes={"start": 1, "end": -1}, opset=15),
    Case("Cast", attributes={"to": onnx.TensorProto.INT32}),
    Case("Resize", constants=(None, reals(1, 1, 2, 3)), attributes={"mode": "nearest"}),
    Case("Resize", constants=(None, None, ints(2, 3, 10, 12)), attributes={"mode": "nearest"}),
    Case("Upsample", constants=(reals(1, 1, 2, 2),), opset=9),
    Case("Mod", ((3, 4), (4,)), attributes={"fmod": 1}),
    *(Case(kind, PAIR) for kind in ("Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual")),
    *(Case(kind, constants=(np.array(True),), attributes={"bool": 1}) for kind in ("And", "Or", "Xor")),
    Case("Not", attributes={"bool": 1}),
    Case("Where", PAIR, attributes={"where": 1}),
    Case("Range", ((),), attributes={"range": 1}),
    Case("ConstantOfShape", ((2, 3),), attributes={"shape": 1}),
    Case("BatchNormalization", ((4, 3, 5), (3,), (3,), (3,), (3,)), is_positive=True, attributes={"epsilon": 0.01}),
]


def written(case: Case, folder: Path) -> Path:
    """A file with the operator between casts, for what does not read or make real numbers."""
    weights = {f"k{i}": np.asarray(each) for i, each in enumerate(case.constants) if each is not None}
    names = [f"x{i}" for i in range(len(case.shapes))]
    further = [f"k{i}" if each is not None else "-" for i, each in enumerate(case.constants)]
    made = [f"y{i}" for i in range(case.outputs)]
    attributes = {
        k: v for k, v in case.attributes.items() if k not in ("bool", "where", "range") and (k, v) != ("shape", 1)
    }
    before: list[onnx.NodeProto] = []
    if "bool" in case.attributes or "where" in case.attributes:
        before.append(node("Greater", "x0 zero", "b"))
        weights["zero"] = np.zeros((), np.float32)
        names = ["b", *names[1:]] if "bool" in case.attributes else ["b", "x0", "x1"]
    if "range" in case.attributes:
        weights |= {"start": reals(1).reshape(()), "step": reals(0.5).reshape(()), "end": reals(4).reshape(())}
        before.append(node("Add", "x0 end", "e"))
        names = ["start", "e", "step"]
    if case.attributes.get("shape") == 1:
        before.append(node("Shape", "x0", "s"))
        names = ["s"]
    operator = node(case.type, " ".join([*names, *further]), " ".join(made), "op", **attributes)
    after = [node("Cast", name, f"{name}_", to=onnx.TensorProto.FLOAT) for name in made]
    inputs = {f"x{i}": shape for i, shape in enumerate(case.shapes)}
    return tiny(
        folder,
        [*before, operator, *after],
        inputs=inputs,
        outputs=[f"{name}_" for name in made],
        weights=weights,
        opset=case.opset,
        ir_version=3 if case.opset < 9 else 8,
    )


def inputs_of(case: Case) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    drawn = {f"x{i}": rng.standard_normal(shape).astype(np.float32) for i, shape in enumerate(case.shapes)}
    return {name: np.abs(value) + 0.1 if case.is_positive else value for name, value in drawn.items()}


def test_every_operator_computes_what_onnx_runtime_computes(tmp_path: Path) -> None:
    jobs, failed = [], {}
    for number, case in enumerate(CASES):
        folder = tmp_path / str(number)
        folder.mkdir()
        jobs.append(Job([written(case, folder)], [inputs_of(case)]))
    results = require_onnxruntime().run_jobs(jobs)
    for case, job, result in zip(CASES, jobs, results, strict=True):
        assert not isinstance(result, EngineError), (str(case), result)
        network = Network.of(formats.load(job.files), ())
        with torch.no_grad():
            found = network({name: torch.from_numpy(np.array(x)) for name, x in job.inputs[0].items()})
        errors = {name: distance(found[name].numpy(), value) for name, value in result[0].items()}
        failed |= {str(case): errors} if max(errors.values()) > CLOSE else {}
    assert failed == {}


def test_every_operator_of_the_table_is_tried_here_or_by_a_reference_case() -> None:
    converted = [to_onnx(formats.load(case.job.files, stages=case.job.stages)) for case in golden_cases()]
    tried = {operator.type for conversion in converted for operator in conversion.operators}
    assert OPERATORS.keys() - tried - {case.type for case in CASES} == set()


@pytest.mark.parametrize(
    "case",
    [
        Case("Resize", constants=(None, reals(1, 1, 1.5, 2)), attributes={"mode": "nearest"}),
        Case("Resize", constants=(None, reals(1, 1, 2, 2)), attributes={"mode": "linear"}),
        Case("ConvTranspose", ((1, 2, 4, 4), (2, 3, 3, 3)), (), {"output_shape": [8, 8], "strides": [2, 2]}),
        Case("AveragePool", ((1, 2, 6, 6),), (), {"kernel_shape": [2, 2], "dilations": [2, 2]}, opset=19),
    ],
    ids=str,
)
def test_what_an_operator_cannot_do_is_told_with_its_layer(case: Case, tmp_path: Path) -> None:
    network = Network.of(formats.load([written(case, tmp_path)]), ())
    with pytest.raises(ModelError, match=rf"^'op' \({case.type}\): .* cannot be trained in torch"):
        network({name: torch.from_numpy(value) for name, value in inputs_of(case).items()})
