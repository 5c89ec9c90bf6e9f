"""LSTM, RNN and LSTMUnit in ONNX: factors `cont` of any value, a static input, states that the network feeds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from surgery import formats
from surgery.convert.to_onnx import to_onnx
from surgery.errors import ConversionError
from surgery.model import Shape
from surgery.runtime import Array, Job
from tests.convert.to_onnx.nets import Net, Results, compare, converted, inputs, layer, single
from tests.engines import require_onnxruntime

HIDDEN = 4


def restarts(rng: np.random.Generator, shape: Shape) -> Array:
    """Factors 0 and 1 in the middle of a sequence, and others, which Caffe multiplies by too."""
    return rng.choice(np.array([0, 0, 1, 1, 0.5, -2], np.float32), shape)


def recurrent(
    kind: str, steps: int, streams: int, rest: Shape = (3,), *, static: Shape = (), exposed: bool = False
) -> Net:
    """A net of one layer over x (T, N, ...), cont, with `static` a static input (N, ...), and where exposed states."""
    shapes: list[Shape] = [(steps, streams, *rest), (steps, streams)]
    shapes += [(streams, *static)] if static else []
    states = {"LSTM": 2, "RNN": 1}[kind] * exposed
    shapes += [(1, streams, HIDDEN)] * states
    param = f"recurrent_param {{ num_output: {HIDDEN} expose_hidden: {str(exposed).lower()} }}"
    return single(kind, param, *shapes, tops=1 + states, values={"x1": restarts}, batch=False)


SHARED = 'param { name: "a" } param { name: "b" } param { name: "c" }'
NETS = {
    f"{kind}, {name}": net
    for kind in ("LSTM", "RNN")
    for name, net in {
        "one stream": recurrent(kind, 5, 1),
        "streams": recurrent(kind, 6, 3),
        "one step": recurrent(kind, 1, 2),
        "planes": recurrent(kind, 3, 2, (2, 3, 2)),
        "static": recurrent(kind, 4, 3, static=(2,)),
        "static planes, one step": recurrent(kind, 1, 3, static=(2, 2)),
        "states": recurrent(kind, 5, 2, exposed=True),
        "states, one step": recurrent(kind, 1, 2, exposed=True),
        "states and static": recurrent(kind, 3, 2, static=(5,), exposed=True),
    }.items()
} | {
    "LSTMUnit": single(
        "LSTMUnit", "", (1, 3, HIDDEN), (1, 3, 4 * HIDDEN), (1, 3), tops=2, values={"x2": restarts}, batch=False
    ),
    "two layers with one set of weights": Net(
        layer("LSTM", "x0 x1", "a", f"{SHARED} recurrent_param {{ num_output: {HIDDEN} }}", "first")
        + layer("LSTM", "a x1", "b", f"{SHARED} recurrent_param {{ num_output: {HIDDEN} }}", "second"),
        [(3, 2, HIDDEN), (3, 2)],
        {"x1": restarts},
        batch=False,
    ),
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return compare(NETS, tmp_path_factory.mktemp("nets"))


@pytest.mark.parametrize("name", NETS)
def test_a_sequence_computes_what_caffe_computes(results: Results, name: str) -> None:
    assert results[name].error <= 1e-6


def test_weights_are_taken_as_they_lie_in_the_file(tmp_path: Path) -> None:
    conversion = converted(NETS["LSTM, static"], tmp_path).conversion
    assert [(name, origin.blob, origin.layout) for name, origin in conversion.weights.items()] == [
        ("layer.W_xc", 0, ""),
        ("layer.b_c", 1, ""),
        ("layer.W_xc_static", 2, ""),
        ("layer.W_hc", 3, ""),
    ]


def test_one_step_without_a_state_needs_no_recurrent_weights(tmp_path: Path) -> None:
    conversion = converted(NETS["RNN, one step"], tmp_path).conversion
    types = [operator.type for operator in conversion.operators]
    assert types == ["Reshape", "Gemm", "Tanh", "Gemm", "Tanh", "Reshape"]
    assert list(conversion.weights) == ["layer.W_xh", "layer.b_h", "layer.W_ho", "layer.b_o"]


def test_weights_that_no_file_holds_start_as_their_filler_says(tmp_path: Path) -> None:
    text = layer("LSTM", "x0 x1", "y", "recurrent_param { num_output: 2 bias_filler { value: 1 } }")
    net = Net(text, [(2, 1, 3), (2, 1)], {"x1": restarts})
    prototxt, path = tmp_path / "net.prototxt", tmp_path / "net.onnx"
    prototxt.write_text(net.prototxt, encoding="utf-8")
    to_onnx(formats.load([prototxt])).save(path)
    (found,) = require_onnxruntime().run(Job([path], [inputs(net)]))
    gate, new = 1 / (1 + np.exp(-1)), np.tanh(1)
    np.testing.assert_allclose(found["y"][0], np.full((1, 2), gate * np.tanh(gate * new)), rtol=1e-6)


def test_a_batch_that_is_the_steps_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="it is unrolled over its steps, which are the batch"):
        converted(NETS["RNN, streams"], tmp_path, dynamic=True)
