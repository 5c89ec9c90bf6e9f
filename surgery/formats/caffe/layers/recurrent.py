"""LSTM, RNN and LSTMUnit: inputs are (time steps T, streams N, ...)."""

from __future__ import annotations

from math import prod

from surgery.formats.caffe.layers.base import Setup, ShapeError, Shapes, params, positive, text
from surgery.formats.caffe.network import Layer, Shape


def lstm(layer: Layer, bottoms: Shapes) -> Setup:
    """Return the setup of an LSTM; weights are W_xc (4H, I), b_c (4H), [W_xc_static (4H, S)], W_hc (4H, H)."""
    hidden, exposed = _parameters(layer)
    steps, streams, inputs, static = _inputs(layer, bottoms, hidden, states=2 * exposed)
    gates = 4 * hidden
    blobs: Shapes = ((gates, inputs), (gates,), *(((gates, static),) if static else ()), (gates, hidden))
    return Setup(
        tops=((steps, streams, hidden), *((1, streams, hidden),) * (2 * exposed)),
        blobs=blobs,
        macs=streams * gates * (steps * (inputs + hidden) + static),
        # Per step the unrolled net holds four times the gates, c, h and h * cont.
        scratch_floats=steps * streams * (4 * gates + 3 * hidden),
    )


def rnn(layer: Layer, bottoms: Shapes) -> Setup:
    """Return the setup of an RNN; weights are W_xh (H, I), b_h, [W_xh_static (H, S)], W_hh, W_ho (H, H), b_o."""
    hidden, exposed = _parameters(layer)
    steps, streams, inputs, static = _inputs(layer, bottoms, hidden, states=exposed)
    square: Shape = (hidden, hidden)
    blobs: Shapes = ((hidden, inputs), (hidden,), *(((hidden, static),) if static else ()), square, square, (hidden,))
    return Setup(
        tops=((steps, streams, hidden), *((1, streams, hidden),) * exposed),
        blobs=blobs,
        macs=streams * hidden * (steps * (inputs + 2 * hidden) + static),
        # Per step the unrolled net holds eight vectors, from W_xh x to o.
        scratch_floats=steps * streams * 8 * hidden,
    )


def lstm_unit(layer: Layer, bottoms: Shapes) -> Setup:
    """Return the setup of an LSTMUnit: bottoms c (1, N, H), gates (1, N, 4H), cont (1, N); tops c and h."""
    cell = bottoms[0]
    if len(cell) != 3 or cell[0] != 1:
        raise ShapeError(f"bottom 0 is {text(cell)}; expected (1, N, H)")
    for index, expected in ((1, (1, cell[1], 4 * cell[2])), (2, cell[:2])):
        _expect(bottoms, index, expected)
    return Setup((cell, cell))


def _parameters(layer: Layer) -> tuple[int, int]:
    """Return the hidden size and whether the states are bottoms and tops (1) or not (0)."""
    param = params(layer, "recurrent_param")
    return positive(param.int("num_output"), "num_output"), int(param.bool("expose_hidden"))


def _inputs(layer: Layer, bottoms: Shapes, hidden: int, states: int) -> tuple[int, int, int, int]:
    """Return T, N, the size of one input vector, and that of the static one (0: none)."""
    if len(layer.tops) != 1 + states:
        raise ShapeError(f"{len(layer.tops)} tops; expected {1 + states}")
    if len(bottoms) - states not in (2, 3):
        raise ShapeError(f"{len(bottoms)} bottoms; expected {2 + states}, or {3 + states} with a static input")
    sequence = bottoms[0]
    if len(sequence) < 3:
        # The layer itself asks for two axes, but the InnerProduct inside it starts at axis 2.
        raise ShapeError(f"the input is {text(sequence)}; expected (T, N, ...) with at least 3 axes")
    _expect(bottoms, 1, sequence[:2])
    has_static = len(bottoms) == 3 + states
    for index in range(2 + has_static, len(bottoms)):
        _expect(bottoms, index, (1, sequence[1], hidden))
    if has_static and (len(bottoms[2]) < 2 or bottoms[2][0] != sequence[1]):
        raise ShapeError(f"bottom 2 is {text(bottoms[2])}; expected ({sequence[1]}, ...), one row per stream")
    return sequence[0], sequence[1], prod(sequence[2:]), prod(bottoms[2][1:]) if has_static else 0


def _expect(bottoms: Shapes, index: int, expected: Shape) -> None:
    if bottoms[index] != expected:
        raise ShapeError(f"bottom {index} is {text(bottoms[index])}; expected {text(expected)}")
