"""LSTM, RNN and LSTMUnit: steps unrolled, as Caffe runs them.

ONNX's own LSTM and RNN have no place for `cont`, the factors that Caffe multiplies the states of the step before by.
The state starts at 0, as in the first forward pass of a fresh network, unless the network feeds it. Every step works on
(streams, ...) matrices; those of all steps behind one another are (steps * streams, ...).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from surgery.convert.to_onnx.graph import Graph
from surgery.convert.to_onnx.site import InexpressibleError, Site
from surgery.formats.caffe.network import Shape

MAX_STEPS = 10_000


def lstm(site: Site, graph: Graph) -> tuple[str, ...]:
    """Gates i, f, o, g = W_xc x + b + W_xc_static s + W_hc (cont h); c = cont f c + i g; h = o tanh(c)."""
    sequence = _Sequence(site, graph)
    gates = sequence.per_step(sequence.inputs(("W_xc", "b_c", "W_xc_static")))
    states = sequence.states(2)
    h, c = states if states else ("", "")
    results = []
    for gate, cont in zip(gates, sequence.conts(), strict=True):
        if h:
            inner = graph.weight(site.blobs[-1], "W_hc")
            gate = graph.op("Gemm", graph.op("Mul", h, cont), inner, gate, transB=1)
        c, h = _unit(graph, gate, c, cont, site.blobs[-1].array.shape[1])
        results.append(h)
    return sequence.tops(sequence.stacked(results), h, c)


def rnn(site: Site, graph: Graph) -> tuple[str, ...]:
    """State h = tanh(W_xh x + b_h + W_xh_static s + W_hh (cont h)); the top is tanh(W_ho h + b_o)."""
    sequence = _Sequence(site, graph)
    terms = sequence.per_step(sequence.inputs(("W_xh", "b_h", "W_xh_static")))
    states = sequence.states(1)
    h = states[0] if states else ""
    results = []
    for term, cont in zip(terms, sequence.conts(), strict=True):
        if h:
            inner = graph.weight(site.blobs[-3], "W_hh")
            term = graph.op("Gemm", graph.op("Mul", h, cont), inner, term, transB=1)
        h = graph.op("Tanh", term)
        results.append(h)
    outer = [graph.weight(site.blobs[-2], "W_ho"), graph.weight(site.blobs[-1], "b_o")]
    outputs = graph.op("Tanh", graph.op("Gemm", sequence.stacked(results), *outer, transB=1))
    return sequence.tops(outputs, h)


def lstm_unit(site: Site, graph: Graph) -> tuple[str, ...]:
    """One step of an LSTM from c, the gates' inputs and cont; tops are c and h."""
    cell, gates, cont = site.inputs
    return _unit(graph, gates, cell, graph.unsqueeze(cont, [2]), site.shape()[2])


def _unit(graph: Graph, gates: str, cell: str, cont: str, hidden: int) -> tuple[str, str]:
    """Return c and h of one step; `cell` is "" where it is 0."""
    gate, new = graph.split(gates, -1, [3 * hidden, hidden])
    i, f, o = graph.split(graph.op("Sigmoid", gate), -1, [hidden] * 3)
    c = graph.op("Mul", i, graph.op("Tanh", new))
    if cell:
        c = graph.op("Add", graph.op("Mul", graph.op("Mul", f, cont), cell), c)
    return c, graph.op("Mul", o, graph.op("Tanh", c))


class _Sequence:
    """What LSTM and RNN have in common: bottoms x, cont, [static], [states]; tops y, [states]."""

    def __init__(self, site: Site, graph: Graph) -> None:
        self.site, self.graph = site, graph
        self.steps, self.streams = site.shape()[:2]
        if graph.depends([self.steps]):
            raise InexpressibleError("it is unrolled over its steps, which are the batch; convert with a fixed batch")
        if self.steps > MAX_STEPS:
            raise InexpressibleError(f"it is unrolled, and has {self.steps} steps; at most {MAX_STEPS} make a graph")
        self.exposed = len(site.layer.tops) - 1
        self.has_static = len(site.inputs) == 3 + self.exposed

    def inputs(self, roles: Sequence[str]) -> str:
        """Return what x and the static input add to every step, by blobs 0, 1 and with a static one 2."""
        site, graph = self.site, self.graph
        rows = self.steps * self.streams
        shape = site.shape()
        flat = graph.reshape(site.inputs[0], shape, (rows, prod(shape[2:])))
        weights = [graph.weight(blob, role) for blob, role in zip(site.blobs, roles[:2], strict=False)]
        value = graph.op("Gemm", flat, *weights, transB=1)
        if not self.has_static:
            return value
        width = site.blobs[1].array.size
        each = (self.steps, self.streams, width)
        shape = site.shape(2)
        static = graph.reshape(site.inputs[2], shape, (self.streams, prod(shape[1:])))
        static = graph.op("Gemm", static, graph.weight(site.blobs[2], roles[2]), transB=1)
        return self._reshaped(graph.op("Add", self._reshaped(value, (rows, width), each), static), each, (rows, width))

    def _reshaped(self, value: str, old: Shape, new: Shape) -> str:
        return value if self.steps == 1 else self.graph.reshape(value, old, new)

    def per_step(self, value: str) -> tuple[str, ...]:
        """Return the rows of each step."""
        return self.graph.split_evenly(value, 0, self.steps)

    def conts(self) -> tuple[str, ...]:
        """Return each step's factors as a column, "" for a first and only step whose state is 0."""
        if self.steps == 1 and not self.exposed:
            return ("",)
        shape = self.site.shape(1)
        return self.per_step(self.graph.reshape(self.site.inputs[1], shape, (prod(shape), 1)))

    def states(self, count: int) -> tuple[str, ...]:
        """Return the states that the network feeds, none where they start at 0."""
        bottoms = range(len(self.site.inputs) - count, len(self.site.inputs)) if self.exposed else ()
        return tuple(self.graph.squeeze(self.site.inputs[i], [0]) for i in bottoms)

    def stacked(self, values: Sequence[str]) -> str:
        """Return the steps behind one another."""
        return self.graph.op("Concat", *values, axis=0) if len(values) > 1 else values[0]

    def tops(self, value: str, *states: str) -> tuple[str, ...]:
        """Return all tops from the stacked one and the states after the last step."""
        shape = self.site.top()
        first = self.graph.reshape(value, (prod(shape[:2]), shape[2]), shape)
        return (first, *(self.graph.unsqueeze(state, [0]) for state in states[: self.exposed]))
